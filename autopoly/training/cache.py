"""From annotated pictures to a cache of crops that training reads. V ring points.

Every instance becomes one sample (all its parts, the instance's box); an instance in several parts gives one more sample per part. The
cache is a folder of memory-mapped arrays: decoding and warping happen once, in several processes, an epoch only reads. What cannot be
learned from is counted.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.config import NetworkConfig
from autopoly.crops import cut
from autopoly.errors import DataError, Problem, RunError
from autopoly.geometry import contours, raster
from autopoly.geometry.boxes import problem_of
from autopoly.geometry.polygons import bounds
from autopoly.images import ImageProblem, path_of, read_rgb
from autopoly.storage import is_remote, place
from autopoly.training import shapes
from autopoly.types import Dataset, FloatArray, Instance, Polygon, Record, Rle, is_truth, mask_source_of

Row = tuple[int, bool, float, bool, int]
"""Of a sample: number of its source, held out?, shorter box side (image px), whole instance?, record."""
Crop = tuple[NDArray[np.uint8], NDArray[np.uint8], FloatArray]
"""Of a sample: pixels, mask, ring in box units."""
Made = list[tuple[Crop, float, bool]]
"""Samples of a record: crop, shorter box side (image px), whole instance?"""
RECORDS = 24
"""Fewer records are not worth a process of their own."""
SHAPES = 10
"""Drawn shapes of one task: what they are textured from travels with each."""
AHEAD = 4
"""Results a process may have waiting to be written."""
LeftOut = dict[str, tuple[int, str]]
"""What is not learned from: by code, how many, and the first, in words."""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How samples are kept."""

    scale: float = 1.8
    """Side of a cached crop over the side of its box: the search scale with room for jitter."""
    side: int = 288
    """Cached crop, px."""
    mask_side: int = 144
    ring: int = 256
    """Points of the true ring that are kept."""
    smallest_side: float = 16.0
    """Instances with a shorter box side, image px, are left out."""
    drawn: int = 0
    """How many samples are drawn from the photos of the others (:mod:`autopoly.training.shapes`); they are never held out."""

    @classmethod
    def of(cls, largest: int, drawn: int = 0) -> CacheConfig:
        """Keep crops as fine as those of side ``largest`` that are cut from them, and no finer."""
        side = 4 * round(largest * cls().scale / NetworkConfig().search_scale / 4)
        return cls(side=side, mask_side=side // 2, drawn=drawn)


@dataclass(frozen=True, slots=True)
class Source:
    """One annotated dataset, how often it is drawn relative to the square root of its size, and whether it is held out whole.

    ``annotations`` is the hash of its annotation files; ``content`` stands for all its files: with another one the cache is built anew.
    """

    name: str
    dataset: Dataset
    weight: float = 1.0
    held_out: bool = False
    annotations: str = ""
    content: str = ""


def held_out(name: str, image: str, share: float) -> bool:
    """Decide by a hash of the source and image alone whether an image is kept for validation."""
    digest = hashlib.sha256(f"{name}/{image}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def build(sources: Sequence[Source], folder: Path, config: CacheConfig, share: float, processes: int = 1) -> None:
    """Build the cache in ``folder`` if it is not there, or of other sources. ``share`` of each source's images is held out.

    A picture that is held out in one source is held out in all of them. The cache is the same for any number of ``processes``. Masks that
    autopoly predicted itself are no truth and not learned from. Raise DataError when there is nothing to learn from.
    """
    described = {"config": asdict(config), "share": share, "sources": [_describe(source) for source in sources]}
    index = folder / "index.json"
    if index.is_file() and json.loads(index.read_text())["described"] == described:
        return
    folder.mkdir(parents=True, exist_ok=True)
    index.unlink(missing_ok=True)
    left_out: LeftOut = {}
    seen: list[tuple[int, str, float, bool, int]] = []  # rows with their picture, since a later source may hold it out
    held: set[str] = set()
    with (folder / "pixels.u8").open("wb") as pixels, (folder / "masks.u8").open("wb") as masks, (folder / "rings.f4").open("wb") as rings:

        def write(pixel: NDArray[np.uint8], mask: NDArray[np.uint8], ring: FloatArray) -> None:
            for file, array in ((pixels, pixel), (masks, mask), (rings, ring.astype(np.float32))):
                file.write(array.tobytes())

        records = [
            (number, at) for number, source in enumerate(sources) for at in np.flatnonzero(np.asarray(source.dataset.counts) > 0).tolist()
        ]
        tasks = ((sources[number].dataset.record(at), sources[number].dataset.image_root, config) for number, at in records)
        made = _each(_samples, tasks, min(processes, len(records) // RECORDS))
        for (number, at), (file_name, picture, found, problems) in zip(records, made, strict=True):
            for problem in problems:
                _count(left_out, problem)
            if sources[number].held_out or held_out(sources[number].name, file_name, share):
                held.add(picture)
            for crop, short, whole in found:
                write(*crop)
                seen.append((number, picture, short, whole, at))
        rows: list[Row] = [(number, picture in held, short, whole, at) for number, picture, short, whole, at in seen]
        learned = np.flatnonzero([not kept for _, kept, *_ in rows])
        if not len(learned):
            raise _nothing(sources, left_out, bool(rows))
        pixels.flush()
        several = [range(first, min(first + SHAPES, config.drawn)) for first in range(0, config.drawn, SHAPES)]
        for crops in _each(_draw, ((folder, learned, config, numbers) for numbers in several), min(processes, len(several))):
            for crop in crops:
                write(*crop)
                rows.append((len(sources), False, config.side / config.scale, True, -1))
    table = np.array(rows, dtype=[("source", "i4"), ("held_out", "?"), ("short", "f4"), ("whole", "?"), ("record", "i8")])
    np.save(folder / "table.npy", table)
    temporary = index.with_suffix(".tmp")
    temporary.write_text(json.dumps({"described": described, "left_out": left_out}))
    os.replace(temporary, index)


def _each(work: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], processes: int) -> Iterator[Any]:
    """Give the results of ``work`` in the order of its tasks, which several processes share; a few are made in advance."""
    if processes < 2:
        yield from (work(*task) for task in tasks)
        return
    # Forked children would inherit thread pools without their threads.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, *task))
                if len(waiting) == AHEAD * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RunError("a process that cuts crops was ended, probably for lack of memory; end others and start again") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _draw(folder: Path, learned: NDArray[np.intp], config: CacheConfig, numbers: range) -> list[Crop]:
    """Draw the shapes of a cache that have these ``numbers``, with the textures of its photos at ``learned``."""
    size = config.side
    # The file grows meanwhile: of drawn ones.
    photos = np.memmap(folder / "pixels.u8", np.uint8, "r", shape=(int(learned[-1]) + 1, size, size, 3))
    crops: list[Crop] = []
    for number in numbers:
        pixels, ring = shapes.drawn(photos, learned, size, config.scale, np.random.default_rng([0, number]))
        in_cache = ((ring - 0.5) / config.scale + 0.5) * size
        crops.append((pixels, _coverage((Polygon(in_cache),), config), contours.resample(ring, config.ring)))
    return crops


def _nothing(sources: Sequence[Source], left_out: LeftOut, held: bool) -> DataError:
    names = ", ".join(source.name for source in sources)
    if held:
        return DataError(f"{names}: every image with masks is held out, so there is nothing to learn from; add images, or hold out fewer")
    if left_out.keys() - {"no_mask", "crowd"}:
        return DataError(f"{names}: no instance with a mask can be learned from: {said(left_out)}")
    return DataError(f"{names}: no instance has a mask, so there is nothing to learn from; training needs polygons or RLE masks")


def said(left_out: LeftOut) -> str:
    """Say in one line how many instances (or pictures) were left out, by code, with the first of each; nothing for none."""
    return "; ".join(f"{count:,} {code}" + (f" (the first: {first})" if first else "") for code, (count, first) in sorted(left_out.items()))


def unusable(instance: Instance, size: tuple[int, int] | None = None) -> Problem | None:
    """Say why an instance cannot be learned from or measured against, None where it can.

    ``size`` is the (height, width) of its picture, once that is read: not every source tells it, and a box may lie outside.
    """
    if instance.crowd:
        return Problem("crowd", "")
    if not is_truth(instance):
        predicted = mask_source_of(instance) == "predicted" and bool(instance.mask)
        return Problem("predicted_mask", f"annotation {instance.instance_id}") if predicted else Problem("no_mask", "")
    return instance.problem or problem_of(instance.box, size)


def _count(left_out: LeftOut, problem: Problem) -> None:
    count, first = left_out.get(problem.code, (0, problem.message))
    left_out[problem.code] = count + 1, first


def _describe(source: Source) -> dict[str, object]:
    counts = np.asarray(source.dataset.counts)
    return {
        "name": source.name,
        "content": source.content,
        "held_out": source.held_out,
        "counts": hashlib.sha256(counts.astype(np.int64).tobytes()).hexdigest()[:16],
        "root": os.path.abspath(source.dataset.image_root),
    }


def _samples(record: Record, root: str, config: CacheConfig) -> tuple[str, str, Made, list[Problem]]:
    """Make the samples of a record: one of each usable instance and part.

    Give its file name with them, which picture it is (nothing where it was not read), and what cannot be learned from.
    """
    made: Made = []
    problems = [problem for instance in record.instances if (problem := unusable(instance)) is not None]
    usable = [instance for instance in record.instances if unusable(instance) is None]
    try:
        image = read_rgb(record, root) if usable else None
        picture = _picture(record, root) if usable else ""
    except ImageProblem as error:
        return record.file_name, "", made, [*problems, error.problem]
    if image is None:
        return record.file_name, picture, made, problems
    size = (image.shape[0], image.shape[1])
    for instance in usable:
        name = f"annotation {instance.instance_id} of {record.file_name}"
        if (problem := unusable(instance, size)) is not None:
            problems.append(Problem(problem.code, f"{name}: {problem.message}"))
            continue
        parts = parts_of(instance, size)
        samples = [(instance.box, parts, True)]
        if len(parts) > 1:
            samples += [(bounds((part,)), (part,), False) for part in parts]
        for box, polygons, whole in samples:
            short = float(min(box[2] - box[0], box[3] - box[1]))
            small = bool(polygons) and not short >= config.smallest_side
            crop = _sample(image, box, polygons, config) if polygons and not small else None
            if crop is not None:
                made.append((crop, short, whole))
            elif whole:
                # Nor are its parts learned from: only whole instances are measured, and it is none.
                line = f"annotation {instance.instance_id}: a side under {config.smallest_side:g} px"
                problems.append(Problem("too_small", line) if small else Problem("mask_unusable", name))
                break
    return record.file_name, picture, made, problems


def _picture(record: Record, root: str) -> str:
    """Say which picture a record has, the same for every source that has it: its real path, its address, or the hash of its bytes."""
    if record.data is not None:
        return hashlib.sha256(record.data).hexdigest()
    return f"{place(root)}/{record.file_name}" if is_remote(root) else os.path.realpath(path_of(record, root))


def parts_of(instance: Instance, size: tuple[int, int]) -> tuple[Polygon, ...]:
    """Give the polygons of an instance's mask in an image of ``size`` (height, width), specks left out; () where there is none to use."""
    mask = instance.mask
    if not isinstance(mask, Rle):
        return tuple(polygon for polygon in mask or () if len(polygon.exterior) >= 3 and abs(contours.signed_area(polygon.exterior)) >= 4)
    if tuple(mask.size) != size:
        return ()
    traced = contours.trace_mask(raster.decode(mask))
    areas = [abs(contours.signed_area(polygon.exterior)) for polygon in traced]
    # Specks of a pixel-wise mask are noise, not parts.
    return tuple(polygon for polygon, area in zip(traced, areas, strict=True) if area >= max(4.0, 0.002 * sum(areas)))


def _sample(image: NDArray[np.uint8], box: FloatArray, polygons: tuple[Polygon, ...], config: CacheConfig) -> Crop | None:
    crop = cut(image, box, config.scale, config.side)
    # The mask is drawn in the cached crop's own pixels, then averaged down: coverage, not a yes or no.
    moved = tuple(polygon.mapped(crop.to_crop) for polygon in polygons)
    try:
        mask = _coverage(moved, config)
        ring = contours.resample(contours.single_ring(polygons), config.ring)
    except DataError:
        return None
    return crop.pixels, mask, (ring - box[:2]) / (box[2:] - box[:2])


def _coverage(polygons: tuple[Polygon, ...], config: CacheConfig) -> NDArray[np.uint8]:
    """Fill polygons (px of the cached crop), averaged down to how much of each cell of the cached mask they cover (255 = all of it)."""
    filled = raster.fill(polygons, (config.side, config.side)).astype(np.uint8) * 255
    return np.asarray(cv2.resize(filled, (config.mask_side, config.mask_side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
