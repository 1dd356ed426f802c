"""Measure memory and time per box of everything around the network, on synthetic COCO datasets of 10,000 to a million boxes.

    python benchmarks/scale.py [BOXES]...        default: 10000 100000 1000000

A dataset is drawn into a temporary folder: ten boxes an image, annotations not grouped by image, all file names linked to one picture. For
each size, each in a process of its own whose largest memory is read at the end:

- plan: what ``autopoly convert --dry-run`` does (read, hash, cut into shards);
- merge: read, then the product's own merge of parts into COCO, and failures.parquet.

The network is left out, plainly: its time per box does not depend on the size of a dataset, and a million boxes take it hours. The parts
that the merge reads are written beforehand through the product's own part writer, with a drawn outline of 40 vertices for each box.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from autopoly.execute import parts, shards
from autopoly.formats import coco
from autopoly.jobs.conversion import merge, part_rows
from autopoly.jobs.conversion.options import ConvertOptions
from autopoly.jobs.conversion.part_rows import Row
from autopoly.jobs.conversion.work import Network, load_siamanno
from autopoly.jobs.convert import plan
from autopoly.jobs.source import Source
from autopoly.types import Polygon

SIZES = (10_000, 100_000, 1_000_000)
PER_IMAGE = 10
VERTICES = 40
HEIGHT, WIDTH = 480, 640
MARK = "0123456789abcdef"
MOST_MB = 1000
"""Target for the plan of a million boxes."""


def draw(path: Path, boxes: int) -> None:
    """Write the annotations, streamed, and beside them the picture that every file name links to."""
    folder, rng = path.parent, np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "one.jpg"), rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    count = -(-boxes // PER_IMAGE)
    # A folder of a hundred links, which file names walk through.
    for number in range(100):
        (folder / "images" / f"{number:02d}").symlink_to(".", target_is_directory=True)
    with path.open("w") as out:
        out.write('{"info": {"year": 2026}, "images": [')
        for n in range(count):
            name = f"{n % 100:02d}/{n // 100 % 100:02d}/one.jpg"
            image = {"id": n + 1, "file_name": name, "height": HEIGHT, "width": WIDTH}
            out.write(("," if n else "") + "\n" + json.dumps(image))
        out.write('], "categories": [{"id": 1, "name": "thing"}], "annotations": [')
        for n, (owner, box) in enumerate(zip(rng.permutation(boxes) // PER_IMAGE, _boxes(boxes), strict=True)):
            annotation = {"id": n + 1, "image_id": int(owner) + 1, "category_id": 1, "bbox": box, "iscrowd": 0}
            out.write(("," if n else "") + "\n" + json.dumps(annotation))
        out.write("]}")


def write_parts(path: Path) -> None:
    """Write a part for each shard, as workers do: for each box a drawn outline in it."""
    folder = path.parent / "parts"
    folder.mkdir()
    dataset = coco.read(path)
    angle = np.arange(VERTICES) * (2 * np.pi / VERTICES)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (0.45 + 0.05 * np.cos(5 * angle))[:, None]
    for shard in shards.plan(dataset.counts.tolist()):
        rows = []
        for number in range(shard.start, shard.stop):
            record = dataset.record(number)
            for one in record.instances:
                ring = np.round((one.box[:2] + one.box[2:]) / 2 + circle * (one.box[2:] - one.box[:2]), 2)
                row = Row(number, one.ordinal, str(record.image_id), str(one.instance_id), record.file_name, record.size)
                row.mask_source, row.quality, row.polygons = "predicted", 0.5 + one.ordinal % 50 / 100, (Polygon(ring),)
                rows.append(row)
        parts.commit(parts.part_path(folder, shard.number, MARK), part_rows.encode(rows, MARK))


def run_plan(path: Path) -> None:
    """Do what ``--dry-run`` does, without loading a network's weights: their hash is given."""
    options = ConvertOptions(source=path, out=path.parent / "out", workers=0, device="cpu")
    assert plan(options, Network(load_siamanno, "scale")).boxes > 0


def run_merge(path: Path) -> None:
    """Merge the parts into the result and its list of failures."""
    dataset = Source(path, "coco").open()
    whole = merge.Parts(dataset, shards.plan(dataset.counts.tolist()), path.parent / "parts", MARK)
    tally = merge.Tally()
    coco.write(dataset.header, merge.records(whole, tally), path.parent / "result.json")
    part_rows.write_failures(merge.failures(whole), path.parent / "failures.parquet")
    assert tally.counts["predicted"] == int(dataset.counts.sum())


def measured(work: Callable[..., None], *arguments: Any) -> tuple[float, float, float]:
    """Run in a fresh process; give its processor seconds, its largest memory in MB, and what it had before the work began."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, *arguments))


def _measure(work: Callable[..., None], *arguments: Any) -> tuple[float, float, float]:
    before, started = _peak(), time.process_time()
    work(*arguments)
    return time.process_time() - started, _peak(), before


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform == "linux" else peak / 1024**2


def _boxes(count: int) -> list[list[float]]:
    rng = np.random.default_rng(1)
    sides = np.exp(rng.uniform(np.log(8), np.log(200), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], axis=1).round(2).tolist()


def main() -> None:
    """Print a table: one row per size and piece of work."""
    sizes = [int(text.replace("_", "")) for text in sys.argv[1:]] or list(SIZES)
    print("| boxes | work | processor us per box | peak MB | of it the program | result MB |")
    print("|---|---|---|---|---|---|")
    rates: dict[str, list[float]] = {"plan": [], "merge": []}
    for boxes in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "source" / "annotations.json"
            # Apart as well: Linux hands the largest memory of a process on to those it starts.
            measured(draw, path, boxes)
            measured(write_parts, path)
            for name, work in (("plan", run_plan), ("merge", run_merge)):
                seconds, peak, before = measured(work, path)
                rates[name].append(seconds / boxes * 1e6)
                written = path.parent / "result.json" if name == "merge" else path
                size = written.stat().st_size / 1e6
                print(f"| {boxes:,} | {name} | {rates[name][-1]:.1f} | {peak:.0f} | {before:.0f} | {size:.0f} |", flush=True)
                if name == "plan" and boxes >= 1_000_000:
                    print(f"target for the plan of a million boxes: under {MOST_MB} MB; {'met' if peak < MOST_MB else 'MISSED'}")
    for name, values in rates.items():
        curve = ", ".join(f"{value / values[0]:.2f}" for value in values)
        print(f"{name}: time per box against the smallest size: {curve} (target: does not grow)")


if __name__ == "__main__":
    main()
