"""Write docs/results.md: what a checkpoint measures on sets it knows and does not know, in every mode, beside the published numbers.

    python benchmarks/results.py FOLDER_OF_DATASETS [--checkpoint NAME=FOLDER]... [--only SET]... [--out docs/results.md]

Every dataset is a folder in COCO form. The shipped checkpoint comes first; each --checkpoint adds its columns, and is left out where FOLDER
holds none. A set that cannot be measured is named below the table with the reason. Each set is converted once per mode and checkpoint.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ways import MIN_SIDE, WAYS, Way, datasets, measure, percent

import autopoly
from autopoly import recipes
from autopoly.errors import AutopolyError
from autopoly.network import checkpoint as checkpoints
from autopoly.recipes import Expect

ROOT = Path(__file__).parents[1]
SHIPPED = "shipped"
LIKE = {
    "street-cityscapes": ("Cityscapes", ("cityscapes", "cityscapes-components")),
    "coco-complete": ("COCO", ("coco",)),
    "coco-people": ("COCO", ("coco",)),
    "aerial-buildings": ("Rooftop", ("rooftop",)),
}
"""Which of the paper's sets a set of ours is nearest to, and the recipes that hold its published rows."""
FULL = "IV"
"""The paper's table that has all four numbers of every set."""
METRICS = (("miou", "mIoU"), ("map", "mAP"), ("f_1px", "F1"), ("f_2px", "F2"))
EXTRA = (("miou_instances", "instance mIoU"), ("f_2px", "F2"))
HEADER = """# Results

Written by `python benchmarks/results.py DIR` on {date} with autopoly {version}; not edited by hand.

{checkpoints}

All numbers are percent, with 95 % bootstrap intervals over images in brackets. Population: instances whose box has a shorter side of at
least {side} px; masks at full image resolution; boxes as given. *instance mIoU* is the mean over instances, *mIoU* the mean of category
means, *mAP* COCO's at IoU 0.50 to 0.95 without categories, ranked by the network's own quality estimate, *F1* and *F2* the boundary F at 1
and 2 full-image px, means of category means. Every mode is scored per instance, all its parts together:

- **per instance**: one box around the object, one pass (`--mode per-instance`);
- **per component, found**: the same boxes; an object whose outline has several parts gets a second, closer pass for each
  (`--mode auto-components`);
- **per component, boxes from the truth** (†): a box around each connected part of the true mask (`--mode per-component
  --components-from-truth`). The truth says here how many parts there are and where: no detector gives that, so these rows show what the
  boxes are worth and are no result of a conversion.
"""
COMPARABLE = """## What can be compared

Rows in italics are the paper's, as printed, and stand beside the set of ours that is nearest in kind. **None of them is on the same
pictures as ours**, so a difference between a row of ours and one of the paper's is not a measurement of either method.

- The paper measures whole validation or test sets and trains on the train set of the same data (its Rooftop, KITTI and ADE20k rows: on
  Cityscapes). Our sets are small and public samples: of Cityscapes a few frames, of COCO some hundred resized photos, and rooftops of other
  towns, cameras and scales than Rooftop. The shipped checkpoint never saw Cityscapes or Rooftop: those rows of ours are cross-domain, the
  paper's Cityscapes rows are not.
- Boundary F depends on the resolution of the pictures and on how tight the human outlines are: at 1 and 2 px it must not be read across
  sets.
- mAP depends on how a polygon gets its score, on which the paper is silent. Ours is the network's own estimate.
- The paper's † row gets its boxes from the truth, as ours marked † do; it does not say whether parts are scored alone or joined.
- What is comparable: rows of one of our sets with each other, and `autopoly run paper/NAME --data DIR` on the paper's own sets, for those
  who have them; it prints the published rows beside.
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A checkpoint in the tables; ``folder`` None is the shipped one. ``learned`` names the sources it learned from, as far as it says."""

    name: str
    folder: str | None
    mark: str
    learned: tuple[str, ...]


def main() -> None:
    """Measure and write the page; its parts that failed are named on stderr as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--only", action="append", default=[], metavar="SET")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    args = parser.parse_args()
    names = datasets(args.folder, args.only)
    if not names:
        parser.error(f"{args.folder}: no dataset; expected folders with annotations.json and images/")
    if wrong := [text for text in args.checkpoint if "=" not in text]:
        parser.error(f"--checkpoint {wrong[0]}: expected NAME=FOLDER")
    shown = [one for one in (_checkpoint(text) for text in (f"{SHIPPED}=", *args.checkpoint)) if one is not None]
    if not shown or shown[0].name != SHIPPED:
        parser.error("there is no shipped checkpoint, hence nothing to write")
    measured: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    missing: list[str] = []
    for name in names:
        for one in shown:
            for way in WAYS:
                try:
                    measured[name, one.name, way.name] = measure(args.folder / name, way, one.folder)
                except (AutopolyError, OSError) as error:
                    missing.append(f"{name}, {one.name}, {way.name}: {' '.join(str(error).split())}")
                    print(missing[-1], file=sys.stderr)
        print(f"{name} measured", file=sys.stderr, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(names, shown, measured, missing), encoding="utf-8")
    print(args.out)


def page(
    names: Sequence[str], shown: Sequence[Shown], measured: Mapping[tuple[str, str, str], Mapping[str, Any]], missing: Sequence[str]
) -> str:
    """Lay out the page; ``measured`` holds the score of each (set, checkpoint, way) that could be measured."""
    said = [f"- **{one.name}**: hash `{one.mark}`, learned from {', '.join(one.learned) or 'sources it does not name'}" for one in shown]
    today = datetime.datetime.now(tz=datetime.UTC).date()
    header = HEADER.format(date=today, version=autopoly.__version__, checkpoints="\n".join(said), side=MIN_SIDE)
    groups = (
        ("In-domain: other pictures of sources that the shipped checkpoint learned from", [n for n in names if n in shown[0].learned]),
        ("Cross-domain: sources it never saw", [n for n in names if n not in shown[0].learned]),
    )
    parts = [header]
    for title, group in groups:
        if group:
            parts.append(f"## {title}\n\n" + "\n".join(_table(group, shown, measured)) + "\n")
    if missing:
        parts.append("Not measured:\n\n" + "\n".join(f"- {line}" for line in missing) + "\n")
    return "\n".join([*parts, COMPARABLE])


def published(name: str) -> list[tuple[str, Expect]]:
    """Give the paper's rows to show beside a set, each with its label; none where the paper has nothing of its kind."""
    like, files = LIKE.get(name, ("", ()))
    rows = []
    for file in files:
        for one in recipes.load(recipes.find(f"paper/{file}")).expect:
            if one.table == FULL:
                mark = " †" if file.endswith("-components") else ""
                rows.append((f"*paper, {like}{mark}, Table {one.table}*", one))
    return rows


def _checkpoint(text: str) -> Shown | None:
    name, _, folder = text.partition("=")
    try:
        place = checkpoints.resolve(folder or None)
        learned = json.loads((place / "config.json").read_text()).get("about", {}).get("trained_on", ())
        return Shown(name, folder or None, checkpoints.fingerprint(place), (learned,) if isinstance(learned, str) else tuple(learned))
    except (AutopolyError, OSError, ValueError) as error:
        print(f"checkpoint {name} is left out: {error}", file=sys.stderr)
        return None


def _table(group: Sequence[str], shown: Sequence[Shown], measured: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[str]:
    first, others = shown[0].name, [one.name for one in shown[1:]]
    head = ["set", "mode", "n", "instance mIoU", *(label for _, label in METRICS), *(f"{o}: {label}" for o in others for _, label in EXTRA)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in group:
        scores = [(way, measured[name, first, way.name]) for way in WAYS if (name, first, way.name) in measured]
        for way, score in scores:
            cells = [name, _mode(way, score), str(score["n"])]
            cells += [_cell(score, key) for key in ("miou_instances", *(key for key, _ in METRICS))]
            cells += [_cell(measured.get((name, other, way.name), {}), key) for other in others for key, _ in EXTRA]
            lines.append("| " + " | ".join(cells) + " |")
        for label, row in published(name) if scores else ():
            values = ["" if value is None else f"*{value:g}*" for value in (getattr(row, key) for key, _ in METRICS)]
            lines.append("| " + " | ".join(["", label, "", "", *values, *[""] * (len(others) * len(EXTRA))]) + " |")
    return lines


def _mode(way: Way, score: Mapping[str, Any]) -> str:
    """Mark what was made with boxes from the truth, as the score itself says."""
    return f"{way.name} †" if score["convention"]["truth_boxes"] else way.name


def _cell(score: Mapping[str, Any], key: str) -> str:
    return percent(score.get(key), score.get("ci95", {}).get(key))


if __name__ == "__main__":
    main()
