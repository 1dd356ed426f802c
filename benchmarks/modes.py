"""Compare the modes of a conversion on held-out images: per instance, parts found by the network, parts given by the truth.

    python benchmarks/modes.py FOLDER... [--checkpoint C] [--whole NAME]... [--images N] [--json FILE]

Every FOLDER is a dataset in COCO form that training may have learned from; measured are the images it holds out (``training.cache``,
4 %), all images of a set named with --whole (davis where nothing is named). The population are instances whose box has a shorter side of
at least 32 px; those whose true mask has several parts of 2 % and more stand beside those in one part. Numbers are means over instances, in
percent, with 95 % bootstrap intervals over images; differences are paired: the same instances, the same draws. ``changed`` counts instances
that a mode outlines differently from per instance.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from ways import FOUND, GIVEN, MIN_SIDE, PER_INSTANCE, WAYS, convert_boxes

from autopoly.geometry import raster
from autopoly.jobs.score import ScoreOptions, open_annotations, score_tables
from autopoly.jobs.scoring.scoreboard import Table
from autopoly.metrics.summary import Measured, delta_intervals, intervals, means
from autopoly.predict import PART_SHARE
from autopoly.training.cache import held_out
from autopoly.types import Dataset

SHARE = 0.04
NUMBERS = (("miou_instances", "mIoU"), ("f_2px", "F2"))
MOST_LOST = 0.003
"""What parts found may cost on instances in one part, as a fraction of IoU."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The instances of a set: what each way measured of them, row by row the same, and which have several parts (N,)."""

    ways: dict[str, Measured]
    several: NDArray[np.bool_]

    def chosen(self, keep: NDArray[np.bool_]) -> dict[str, Measured]:
        """Give the rows to ``keep`` (N,)."""
        columns = ("iou", "f_1px", "f_2px", "category", "image")
        return {name: replace(rows, **{key: getattr(rows, key)[keep] for key in columns}) for name, rows in self.ways.items()}


def main() -> None:
    """Measure, print a Markdown table and a verdict, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--checkpoint")
    parser.add_argument("--whole", action="append", metavar="NAME", help="a set held out whole; davis where none is named")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N images of each set")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sets: dict[str, Compared] = {}
    results: dict[str, Any] = {}
    head = [f"{PER_INSTANCE.name}: {label}" for _, label in NUMBERS]
    head += [f"{way.name}: {label}" for way in (FOUND, GIVEN) for label in ("changed", *(label for _, label in NUMBERS))]
    print("| set | parts | n | " + " | ".join(head) + " |\n|" + "---|" * (3 + len(head)))
    for folder in args.folders:
        sets[folder.name] = compared = compare(folder, args.checkpoint, folder.name in (args.whole or ["davis"]), args.images)
        results[folder.name] = _rows(folder.name, compared)
    if len(sets) > 1:
        results["all sets"] = _rows("all sets", pooled(list(sets.values())))
    print("\n" + verdict(next(reversed(results.values()))))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def compare(folder: Path, checkpoint: str | None, whole: bool, limit: int | None) -> Compared:
    """Convert the held-out images of a set from their boxes in every way, and measure each."""
    data = json.loads((folder / "annotations.json").read_text())
    chosen = [one for one in data["images"] if whole or held_out(folder.name, one["file_name"], SHARE)][:limit]
    names = {one["id"] for one in chosen}
    data |= {"images": chosen, "annotations": [one for one in data["annotations"] if one["image_id"] in names]}
    with tempfile.TemporaryDirectory() as scratch:
        truth = Path(scratch) / "annotations.json"
        truth.write_text(json.dumps(data))
        runs = [Path(scratch) / way.mode for way in WAYS]
        for way, out in zip(WAYS, runs, strict=True):
            convert_boxes(truth, folder / "images", out, way, checkpoint)
        _, tables = score_tables(runs, truth, ScoreOptions(resamples=0))
        large = tables[0].at_least(MIN_SIDE)
        several = parts_of(tables[0], open_annotations(truth, folder / "images"))[large] > 1
    ways = {way.name: _one_category(table.measured(large)) for way, table in zip(WAYS, tables, strict=True)}
    return Compared(ways, several)


def parts_of(table: Table, truth: Dataset) -> NDArray[np.int64]:
    """Count the parts (N,) of each measured truth: 8-connected as in a score, at least ``PART_SHARE`` of its area."""
    counts = []
    for row in table.rows:
        record = truth.record(row.image)
        mask = next(one.mask for one in record.instances if one.ordinal == row.truth_at)
        assert mask is not None
        size = record.size
        assert size is not None
        drawn = raster.decode(raster.of_mask(mask, size)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(drawn, connectivity=raster.CONNECTIVITY)
        areas = stats[1:, cv2.CC_STAT_AREA]
        counts.append(int((areas >= PART_SHARE * areas.sum()).sum()))
    return np.array(counts, np.int64)


def pooled(sets: list[Compared]) -> Compared:
    """Put the instances of several sets together; their images stay apart."""
    starts = np.cumsum([0] + [int(one.ways[PER_INSTANCE.name].image.max()) + 1 for one in sets])
    ways = {}
    for way in WAYS:
        rows = [one.ways[way.name] for one in sets]
        columns = {key: np.concatenate([getattr(one, key) for one in rows]) for key in ("iou", "f_1px", "f_2px", "category")}
        image = np.concatenate([one.image + start for one, start in zip(rows, starts, strict=False)])
        ways[way.name] = Measured(**columns, categories=1, image=image)
    return Compared(ways, np.concatenate([one.several for one in sets]))


def verdict(kinds: dict[str, Any]) -> str:
    """Say whether parts may be found by default: at least as good over all, and next to nothing lost on instances in one part."""
    every, single = (kinds[kind][FOUND.name]["miou_instances"]["delta"] if kind in kinds else 0.0 for kind in ("all", "one"))
    good = every >= 0 and single >= -MOST_LOST
    return (
        f"{FOUND.mode} against {PER_INSTANCE.mode}: {100 * every:+.2f} mIoU over all, {100 * single:+.2f} on instances in one part "
        f"(at most {-100 * MOST_LOST:.1f} may be lost there): {'fit' if good else 'not fit'} to be the default"
    )


def _one_category(rows: Measured) -> Measured:
    """Make means of categories means over instances: a few dozen kinds with an instance or two each say little."""
    return replace(rows, category=np.zeros_like(rows.category), categories=1)


def _rows(name: str, compared: Compared) -> dict[str, Any]:
    """Print a row of the table for each kind of instance there is, and give its numbers."""
    kinds = {"several": compared.several, "one": ~compared.several, "all": np.ones_like(compared.several)}
    result = {}
    for kind, keep in kinds.items():
        if not keep.any():
            continue
        ways = compared.chosen(keep)
        base = ways[PER_INSTANCE.name]
        told = result[kind] = {"n": int(keep.sum()), PER_INSTANCE.name: _alone(base)}
        cells = [_said(told[PER_INSTANCE.name][key]) for key, _ in NUMBERS]
        for way in (FOUND, GIVEN):
            one = told[way.name] = _against(ways[way.name], base)
            cells += [str(one["changed"]), *(_said(one[key]) for key, _ in NUMBERS)]
        print(f"| {name} | {kind} | {told['n']} | " + " | ".join(cells) + " |", flush=True)
    return result


def _alone(rows: Measured) -> dict[str, Any]:
    values, spread = means(rows), intervals(rows)
    return {key: {"value": values[key], "ci95": spread[key]} for key, _ in NUMBERS}


def _against(rows: Measured, base: Measured) -> dict[str, Any]:
    """Give the value of each number, its difference from ``base`` with the interval, and how many instances came out differently."""
    values, before, spread = means(rows), means(base), delta_intervals(base, rows)
    told: dict[str, Any] = {key: {"value": values[key], "delta": values[key] - before[key], "ci95": spread[key]} for key, _ in NUMBERS}
    return told | {"changed": int((rows.iou != base.iou).sum())}


def _said(one: dict[str, Any]) -> str:
    low, high = one["ci95"]
    if "delta" in one:
        return f"{100 * one['delta']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * one['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
