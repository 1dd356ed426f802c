"""Boxes in, polygons out: numpy on both sides of the network. N boxes, K contour vertices, V polygon vertices, S crop side, H W rows and
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from autopoly import devices
from autopoly.crops import Crop, cut
from autopoly.errors import DataError, RunError
from autopoly.geometry.boxes import problem_of
from autopoly.geometry.contours import clockwise, single_ring, trace_field
from autopoly.geometry.corrections import followed, threaded
from autopoly.geometry.matching import match
from autopoly.geometry.polygons import clean, to_shapely
from autopoly.network.checkpoint import fingerprint, load_network, resolve
from autopoly.network.edge import offset
from autopoly.network.siamanno import SiamAnno, box_contour
from autopoly.overlaps import settled
from autopoly.sharpen import Look, is_large, sharpened
from autopoly.types import FloatArray, Polygon

BATCH, CUDA_BATCH = 16, 128
"""Boxes of a batch. More fill a processor's caches; an H200 answers 1,700 boxes/s in batches of 32, 5,900 of 128, 6,500 of 512."""
SMALLEST_BATCH, SMALLEST_AVX512_BATCH = 8, 16
"""Smaller batches are padded: products of few rows take other paths, by the number of threads too, whose last bits differ. The larger
one is for float32 with AVX-512.
"""
STRIPS = 128
"""Strips of one pass over the edges."""
PART_SHARE = 0.02
"""A part of a mask's outline counts as one of its parts from this share of the whole area."""

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The polygons of one box, image px, valid and clipped, () where nothing was found; ``quality`` is the estimated IoU in [0, 1].

    ``parts`` are the parts of the mask's outline, small ones too, where that outline is what was found and it has several; else ().
    """

    polygons: tuple[Polygon, ...]
    quality: float
    parts: tuple[Polygon, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One of the two answers for a box, image px, neither clipped nor cleaned; its estimated IoU; the crop's mask logits (S/2, S/2)."""

    polygons: tuple[Polygon, ...]
    quality: float
    mask_logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What the network said about one crop: contour (K, 2) crop px, mask logits (S/2, S/2), quality of contour and mask outline (2,)."""

    contour: NDArray[np.float32]
    mask: NDArray[np.float32]
    quality: NDArray[np.float32]

    @property
    def prefers_contour(self) -> bool:
        """Say whether the contour is the better of the two outlines, by its estimate."""
        return bool(self.quality[0] >= self.quality[1])


class Annotator:
    """A loaded network that turns boxes into polygons. ``tolerance`` is the simplification in image px (0 keeps all vertices)."""

    def __init__(self, network: SiamAnno, device: str, tolerance: float = 0.5) -> None:
        self.network = network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = torch.device(device)
        self.tolerance = tolerance
        self.dtype = torch.bfloat16 if devices.has_bf16(device) else torch.float32
        # One at a time has all processors, and always this thread: each that calls the network has a team of its own for it, and teams in
        # turn get into each other's way. Callers in other threads cut and trace meanwhile.
        self._computing = ThreadPoolExecutor(1, "network")

    def polygons(self, image: Image, boxes: ArrayLike, overlaps: bool = False) -> tuple[list[list[FloatArray]], FloatArray]:
        """Give the polygons of boxes (N, 4) xyxy in an image (H, W, 3) uint8 RGB: for each box its parts [(V, 2)], and the quality (N,).

        A pixel that two objects claim goes to the surer one, unless one lies in the other; with ``overlaps`` to both. Holes are left out:
        see :meth:`predict`. Raise DataError for an image or box that cannot be used.
        """
        (predictions,) = self.predict([(image, _boxes(boxes))], overlaps)
        return [[polygon.exterior for polygon in one.polygons] for one in predictions], np.array([one.quality for one in predictions])

    def predict(self, items: Sequence[tuple[Image, FloatArray]], overlaps: bool = False) -> list[list[Prediction]]:
        """Predict the boxes (N, 4) of several images at once; crops are batched across images. The result has one list per image.

        The boxes of one image share its pixels as in :meth:`polygons`. Of the contour and the mask's outline, the one of higher estimated
        IoU is given; the outline may have several parts and holes.
        """
        return [
            [self._prediction(both, (image.shape[0], image.shape[1])) for both in outlines]
            for (image, _), outlines in zip(items, self.outlines(items, overlaps), strict=True)
        ]

    def outlines(self, items: Sequence[tuple[Image, FloatArray]], overlaps: bool = False) -> list[list[tuple[Outline, Outline]]]:
        """Give, for each box as :meth:`predict` takes them, the contour and the mask's outline, that of higher estimated IoU first.

        That first one of a large box lies on the picture's own edges where the checkpoint has an edge pass.
        """
        crops = [crop for image, boxes in items for crop in self._crops(image, boxes)]
        answers = list(self._answers(crops))
        if not overlaps:
            answers = _apart(crops, answers, [len(boxes) for _, boxes in items])
        pairs = [self._outlines(crop, answer) for crop, answer in zip(crops, answers, strict=True)]
        if self.network.edge is not None:
            self._sharpen(items, pairs)
        left = iter(pairs)
        return [[next(left) for _ in boxes] for _, boxes in items]

    def _sharpen(self, items: Sequence[tuple[Image, FloatArray]], pairs: list[tuple[Outline, Outline]]) -> None:
        """Move the first outline of each large box onto the edges, in place."""
        places = enumerate((image, box) for image, boxes in items for box in boxes)
        looks = {at: Look(image, box, pairs[at][0].polygons, pairs[at][0].mask_logits) for at, (image, box) in places if is_large(box)}
        found = sharpened(list(looks.values()), self.network.config.search_scale, self._offsets)
        for at, polygons in zip(looks, found, strict=True):
            pairs[at] = (replace(pairs[at][0], polygons=polygons), pairs[at][1])

    def contours(self, image: Image, boxes: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Give the paper's own result: one contour (K, 2) per box (N, 4), image px, not clipped; (N, K, 2) and its quality (N,)."""
        crops = list(self._crops(image, _boxes(boxes)))
        answers = list(self._answers(crops))
        count = self.network.config.vertices
        rings = [crop.to_image(answer.contour) for crop, answer in zip(crops, answers, strict=True)]
        quality = np.array([float(answer.quality[0]) for answer in answers])
        return (np.stack(rings) if rings else np.zeros((0, count, 2))), quality

    def refine(self, image: Image, box: ArrayLike, contour: ArrayLike, fixed: ArrayLike) -> FloatArray:
        """Predict a contour again after a user moved some of its vertices (paper, III-C).

        ``box`` (4,) xyxy, ``contour`` (V, 2) image px with the moved vertices in place, ``fixed`` (V,) bool marks them. The ring may come
        from :meth:`contours` or this method (V = K), or be any other, such as a polygon of :meth:`polygons`. The result (K, 2) has the
        fixed vertices where they are; all others are predicted anew, from the box and the fixed ones. With a correction pass the mask is
        drawn again and its outline laid through the fixed vertices. Without one it is the better outline of the two, as in :meth:`predict`,
        changed near the corrections as the contour changes under them (:mod:`autopoly.geometry.corrections`).
        """
        count = self.network.config.vertices
        ring, held, place = np.asarray(contour, dtype=np.float64), np.asarray(fixed, dtype=bool), np.asarray(box, dtype=np.float64)
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or held.shape != (len(ring),) or place.shape != (4,):
            raise DataError(
                f"refine: box {place.shape}, contour {ring.shape} and fixed {held.shape}; expected (4,), (V, 2) and (V,), V at least 3"
            )
        if not np.isfinite(ring).all():
            raise DataError("refine: a vertex of the contour is not a finite number")
        if held.sum() > count:
            raise DataError(f"refine: {held.sum()} vertices are fixed; a contour has {count}")
        if len(ring) != count:
            ring, held = _as_contour(ring, held, place, count)
        (crop,) = self._crops(image, place.reshape(1, 4))
        placed = torch.from_numpy(crop.to_crop(ring).astype(np.float32)).expand(2, -1, -1)
        free, refined = self._answers([crop, crop], placed, torch.from_numpy(np.stack([np.zeros_like(held), held])))
        if self.network.correction is not None and held.any():
            return self._through(crop, place, refined, ring, held)
        best = self._contour(image, place, crop, free)
        return followed(best, best + crop.to_image(refined.contour) - crop.to_image(free.contour), ring, held)

    def _contour(self, image: Image, box: FloatArray, crop: Crop, answer: _Answer) -> FloatArray:
        """Give the better of an answer's two outlines as one contour (K, 2), image px, its vertices matched as in training."""
        pairs = [self._outlines(crop, answer)]
        if self.network.edge is not None:
            self._sharpen([(image, box[None])], pairs)
        contour = crop.to_image(answer.contour)
        outline = pairs[0][0].polygons
        if answer.prefers_contour:
            return outline[0].exterior
        try:
            return match(single_ring(outline), box, len(contour))
        except DataError:  # an outline without an area
            return contour

    def _through(self, crop: Crop, box: FloatArray, answer: _Answer, places: FloatArray, held: NDArray[np.bool_]) -> FloatArray:
        """Lay the outline of an answer's mask through the vertices (K, 2) that are held (K,)."""
        try:
            outline = single_ring(_traced(crop, answer))
        except DataError:  # an outline without an area
            outline = crop.to_image(answer.contour)
        return threaded(outline, match(outline, box, len(held)), places, held)

    def _crops(self, image: Image, boxes: FloatArray) -> Iterator[Crop]:
        if not isinstance(image, np.ndarray):
            raise DataError(f"image is a {type(image).__name__}; expected an array (height, width, 3) uint8 RGB")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(f"image of shape {image.shape} and type {image.dtype}; expected (height, width, 3) uint8 RGB")
        config = self.network.config
        for number, box in enumerate(boxes):
            problem = problem_of(box, (image.shape[0], image.shape[1]))
            if problem is not None:
                raise DataError(f"box {number}: {problem.message}")
            yield cut(image, box, config.search_scale, config.crop_side)

    def _answers(self, crops: Sequence[Crop], initial: torch.Tensor | None = None, fixed: torch.Tensor | None = None) -> Iterator[_Answer]:
        size = CUDA_BATCH if self.device.type == "cuda" else BATCH
        for start in range(0, len(crops), size):
            yield from self._fitting(crops[start : start + size], initial, fixed)

    def _fitting(self, crops: Sequence[Crop], placed: torch.Tensor | None, fixed: torch.Tensor | None) -> list[_Answer]:
        """Halve a batch that does not fit into memory, down to the smallest; raise RunError where that does not fit either."""
        try:
            return self._batch(crops, placed, fixed)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:120]
        # Out of the except block, which would hold the tensors of the failed attempt.
        if len(crops) <= (least := self._smallest_batch()):
            raise RunError(
                f"{self.device}: not enough memory for {least} boxes at once ({said}); end other programs or use fewer --workers; "
                "what is finished is kept, and the same command goes on from there"
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(crops) + 1) // 2
        return self._fitting(crops[:half], placed, fixed) + self._fitting(crops[half:], placed, fixed)

    def _smallest_batch(self) -> int:
        wide = self.device.type == "cpu" and self.dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512"
        return SMALLEST_AVX512_BATCH if wide else SMALLEST_BATCH

    def _compute(self, network: Callable[..., Any], *inputs: torch.Tensor | None) -> Any:
        """Call a network on the device, when its turn comes."""

        @torch.inference_mode()
        def call() -> Any:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                return network(*(None if one is None else one.to(self.device) for one in inputs))

        return self._computing.submit(call).result()

    @torch.inference_mode()
    def _batch(self, crops: Sequence[Crop], placed: torch.Tensor | None, fixed: torch.Tensor | None) -> list[_Answer]:
        config, count = self.network.config, len(crops)
        filled = max(count, self._smallest_batch())
        pixels = np.zeros((filled, config.crop_side, config.crop_side, 3), dtype=np.uint8)
        for slot, crop in enumerate(crops):
            pixels[slot] = crop.pixels
        initial = box_contour(config.crop_side, config.search_scale, config.vertices, filled)
        held = torch.zeros((filled, config.vertices), dtype=torch.bool)
        if placed is not None and fixed is not None:
            held[:count] = fixed
            initial = torch.cat([torch.where(fixed.unsqueeze(-1), placed, initial[:count]), initial[count:]])
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        output = self._compute(self.network, batch, initial, None if fixed is None else held)
        contours = output.contours[-1].float().cpu().numpy()
        masks = output.mask_logits[:, 0].float().cpu().numpy()
        qualities = torch.sigmoid(output.quality_logits.float()).cpu().numpy()
        return [_Answer(contours[i], masks[i], qualities[i]) for i in range(count)]

    def _outlines(self, crop: Crop, answer: _Answer) -> tuple[Outline, Outline]:
        contour = (Polygon(crop.to_image(answer.contour)),)
        both = (
            Outline(contour, float(answer.quality[0]), answer.mask),
            Outline(_traced(crop, answer), float(answer.quality[1]), answer.mask),
        )
        return both if answer.prefers_contour else (both[1], both[0])

    @torch.inference_mode()
    def _offsets(self, seen: NDArray[np.uint8]) -> FloatArray:
        assert self.network.edge is not None
        found = []
        for start in range(0, len(seen), STRIPS):
            logits = self._compute(self.network.edge, torch.from_numpy(seen[start : start + STRIPS]))
            found.append(offset(torch.sigmoid(logits)).cpu().numpy())
        return np.concatenate(found).astype(np.float64)

    def _prediction(self, both: tuple[Outline, Outline], size: tuple[int, int]) -> Prediction:
        for one in both:
            polygons = clean(one.polygons, size, self.tolerance)
            if polygons:
                return Prediction(polygons, one.quality, self._parts(one.polygons, size))
        return Prediction((), 0.0)

    def _parts(self, outline: Sequence[Polygon], size: tuple[int, int]) -> tuple[Polygon, ...]:
        areas = np.array([to_shapely(polygon).area for polygon in outline])
        if (areas >= PART_SHARE * areas.sum()).sum() < 2:
            return ()
        parts = clean(outline, size, self.tolerance, smallest_part=PART_SHARE)
        return parts if len(parts) > 1 else ()


def _traced(crop: Crop, answer: _Answer) -> tuple[Polygon, ...]:
    """Trace the outline of an answer's mask, image px."""
    cell = crop.pixels.shape[0] / answer.mask.shape[0]
    return tuple(polygon.mapped(crop.to_image) for polygon in trace_field(answer.mask, 0.0, cell))


def _boxes(boxes: ArrayLike) -> FloatArray:
    """Give boxes as (N, 4); none at all may come in any shape."""
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"boxes: {error}; expected numbers, (N, 4) xyxy") from error
    if array.size and (array.ndim > 2 or array.shape[-1] != 4):
        raise DataError(f"boxes of shape {array.shape}; expected (N, 4) xyxy")
    return array.reshape(-1, 4)


def _as_contour(ring: FloatArray, fixed: NDArray[np.bool_], box: FloatArray, k: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Give a ring (V, 2) as the network's contour (K, 2) with each fixed vertex in the nearest free place, and which are held (K,)."""
    contour, held = match(clockwise(ring), box, k), np.zeros(k, dtype=bool)
    for point in ring[fixed]:
        distance = np.hypot(*(contour - point).T)
        place = int(np.where(held, np.inf, distance).argmin())
        contour[place], held[place] = point, True
    return contour, held


def _apart(crops: Sequence[Crop], answers: Sequence[_Answer], counts: Sequence[int]) -> list[_Answer]:
    """Settle whose a pixel is between the boxes of each image, ``counts`` of them."""
    result: list[_Answer] = []
    for count in counts:
        mine = slice(len(result), len(result) + count)
        masks = settled(crops[mine], [answer.mask for answer in answers[mine]])
        result += [replace(answer, mask=mask) for answer, mask in zip(answers[mine], masks, strict=True)]
    return result


def load(checkpoint: str | Path | None = None, device: str = "auto", tolerance: float = 0.5, threads: int | None = None) -> Annotator:
    """Load a checkpoint: a name in checkpoints/, a folder, or None for the shipped default.

    ``device`` is auto, cpu, cuda or mps; ``threads`` bounds the CPU threads of this process. Raise CheckpointError, or DataError for a
    device that is not there or a number out of range.
    """
    if not tolerance >= 0 or (threads is not None and threads < 1):
        raise DataError(f"tolerance {tolerance}, threads {threads}: expected 0 px or more, and 1 thread or more")
    if threads is not None:
        torch.set_num_threads(threads)
    return Annotator(load_network(checkpoint), devices.choose(device), tolerance)


__all__ = ["Annotator", "Outline", "Prediction", "fingerprint", "load", "resolve"]
