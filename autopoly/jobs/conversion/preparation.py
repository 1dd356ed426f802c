"""Get a conversion ready: find the source, the network and the device, cut the shards, and say what the result depends on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import autopoly
from autopoly import images
from autopoly.errors import RecipeError, plain_line
from autopoly.execute import parts, shards
from autopoly.execute.shards import Shard
from autopoly.jobs.conversion import part_rows, placement, run_folder
from autopoly.jobs.conversion.options import ConvertOptions
from autopoly.jobs.conversion.work import Network, siamanno
from autopoly.jobs.source import Source, category_ids, digest, locate
from autopoly.storage import ObjectPath
from autopoly.types import Dataset, Id

LOOKED_AT, LOOK_S = 50, 2.0
"""Pictures looked for before a run, and seconds spent on it at most."""
PLAIN_INPUTS = ("mode", "components_from_truth", "overlaps", "existing", "bbox_format", "limit", "write_images")


@dataclass(frozen=True, slots=True)
class Setup:
    """A conversion ready to run. ``inputs`` (JSON values) is everything its result depends on, ``mark`` their fingerprint."""

    source: Source
    dataset: Dataset
    shards: list[Shard]
    categories: frozenset[Id] | None
    network: Network
    device: str
    workers: int
    inputs: Mapping[str, Any]
    mark: str
    notes: tuple[str, ...]
    nodes: placement.Nodes = ()
    """The machines of the cluster a run was sent to; none for this machine."""

    @property
    def boxes(self) -> int:
        """Count the boxes of all shards."""
        return sum(shard.boxes for shard in self.shards)


def set_up(options: ConvertOptions, network: Network | None) -> Setup:
    """Check the options, open the source, choose device and workers, and cut the shards; raise AutopolyError where that cannot be done."""
    options.check()
    for name in options.to:
        if name not in run_folder.ANNOTATIONS:
            raise RecipeError(f"--to {name}: polygons can be written to {', '.join(run_folder.ANNOTATIONS)}")
    if options.write_images and isinstance(options.out, ObjectPath):
        raise RecipeError(f"{options.out}: --write-images needs a folder of a file system for OUT; leave it out, or choose another OUT")
    source = locate(options.source, options.from_format, options.images, options.bbox_format)
    if source.format == "parquet" and source.path in options.out.resolve().parents:
        raise RecipeError(f"{options.out}: lies inside the Parquet source and would be read as part of it; choose another folder for OUT")
    network = network or siamanno(options.checkpoint)
    nodes = placement.cluster(options.address) if options.address else ()
    device = placement.device_kind(options.device, nodes)
    dataset = source.open()
    categories = category_ids(dataset.header, options.categories)
    cut = shards.plan(dataset.counts[: options.limit].tolist())
    boxes = sum(shard.boxes for shard in cut)
    inputs = {
        "version": version(),
        "source": digest(source.path, dataset),
        "format": source.format,
        "images": str(dataset.image_root),
        "checkpoint": network.fingerprint,
        "device": device,
        "to": sorted(options.to),
        "categories": sorted(options.categories),
        "tolerance": float(options.tolerance),
        "min_quality": float(options.min_quality),
        **{name: getattr(options, name) for name in PLAIN_INPUTS},
    }
    workers = placement.workers(options.workers, device, boxes, len(cut), nodes)
    notes = notes_of(options, dataset, bool(cut))
    if options.accept_device_change and not options.overwrite:
        before = run_folder.inputs_before(options.out)
        if before is not None and before["device"] != device and before | {"device": device} == inputs:
            # The parts there are stay good: the run keeps the fingerprint it was begun with, and says so.
            inputs = before
            notes += (f"begun on {before['device']}, going on with {device}: the last digits of polygons depend on the device",)
    return Setup(source, dataset, cut, categories, network, device, workers, inputs, parts.fingerprint(inputs), notes, nodes)


def isolated(setup: Setup, options: ConvertOptions) -> Setup:
    """Move a small run from this process to a Ray worker where an earlier start died with pictures in hand: a deadly one is found there.

    Where the user asked for this process, say how to find it.
    """
    if setup.workers > 0 or not list((options.out / run_folder.PARTS).glob("*.inhand")):
        return setup
    died = "an earlier start died while it worked on a picture"
    if options.workers == 0:
        return replace(setup, notes=(*setup.notes, f"{died}: should it die again, --workers 1 finds and leaves out a deadly one"))
    return replace(setup, workers=1, notes=(*setup.notes, f"{died}: going on with one Ray worker, which finds and leaves out a deadly one"))


def notes_of(options: ConvertOptions, dataset: Dataset, any_records: bool) -> tuple[str, ...]:
    """Say what was detected or repaired, also while reading, and which file names have no files."""
    notes = [*dataset.header.notes]
    if isinstance(options.out, ObjectPath):
        notes.append(f"{options.out}: an object store knows no locks; see to it that no second run uses this folder at the same time")
    if "coco" in options.to and not options.write_images and any_records and dataset.record(0).data is not None:
        notes.append("the pictures came inside the dataset: file names in annotations.json have no files; --write-images writes them")
    return tuple(plain_line(note) for note in notes)


def absent_pictures(setup: Setup) -> tuple[str, ...]:
    """Look whether some pictures, spread over the dataset, are there; say how many are not, nothing where all are."""
    total = setup.shards[-1].stop if setup.shards else 0
    started, looked, absent = time.monotonic(), 0, list[str]()
    for number in sorted({total * step // LOOKED_AT for step in range(LOOKED_AT)} if total else ()):
        record = setup.dataset.record(number)
        if record.data is not None or time.monotonic() - started > LOOK_S:
            break
        looked += 1
        try:
            images.path_of(record, setup.dataset.image_root)
        except images.ImageProblem as error:
            absent.append(error.problem.message)
    return (plain_line(f"{len(absent)} of {looked} pictures that were looked for cannot be found: {absent[0]}"),) if absent else ()


def shards_to_run(out: Path, setup: Setup, state: run_folder.State) -> list[Shard]:
    """Give the shards that still have to run: those without a part; in a retry, of those with failures, and of these the failed boxes."""
    folder = out / run_folder.PARTS
    if state.name == "finished":
        return []
    if state.retry:
        copied = folder / run_folder.FAILURES
        failed = part_rows.read_failures(copied if state.name == "unfinished" else out / run_folder.FAILURES)
        again = [[failed[number] for number in range(shard.start, shard.stop) if number in failed] for shard in setup.shards]
        wanted = [replace(shard, boxes=sum(map(len, some))) for shard, some in zip(setup.shards, again, strict=True) if some]
    else:
        wanted = setup.shards
    return wanted if state.name == "new" else parts.missing(wanted, folder, setup.mark)


def version() -> str:
    """Give the version of autopoly."""
    return str(getattr(autopoly, "__version__", "unknown"))
