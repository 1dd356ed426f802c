"""Lay out the report's numbers: headline, categories, and what to look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopoly.report.failed import Failures
from autopoly.report.gallery import clip
from autopoly.report.published import Published
from autopoly.report.survey import EDGES, Survey

METRICS = (
    ("miou", "mIoU", "mean of the categories' mean IoU"),
    ("miou_instances", "mIoU, instances", "mean IoU over all instances"),
    ("map", "mAP, own score", "COCO average precision 0.50:0.95, ranked by the estimated quality"),
    ("map_constant", "mAP, constant score", "the same without a ranking"),
    ("pass_rate", "pass rate", "mean share of instances whose IoU passes 0.50:0.05:0.95"),
    ("f_1px", "F, 1 px", "boundary F score within 1 px"),
    ("f_2px", "F, 2 px", "boundary F score within 2 px"),
)
PLAIN = (
    ("vertices_mean", "vertices per ring", "how many vertices a person would have to look after"),
    ("quality_spearman", "estimate against IoU, rho", "rank correlation of estimated and true IoU: 1 finds the worst first"),
)
ENOUGH = 5
"""Instances a category needs to be called the weakest."""
LISTED = 200
"""Categories shown; those with the most instances where there are more."""
NAME = 80
LOW = 0.5


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text, the same as a number for sorting, and a small addition (its interval)."""

    text: str
    value: float | None = None
    small: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table. ``hint`` explains its label, ``share`` in [0, 1] is drawn as a bar."""

    label: str
    cells: tuple[Cell, ...]
    hint: str = ""
    share: float | None = None


def percent(value: float | None, interval: Sequence[float] | None = None) -> Cell:
    """Write a fraction in percent with its 95 % interval; a dash for None."""
    if value is None:
        return Cell("–")
    small = f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}" if interval else ""
    return Cell(f"{100 * value:.2f}", value, small)


def headline(columns: Sequence[Mapping[str, Any]], published: Sequence[Published]) -> list[Line]:
    """Give a line per metric: ours by column, then the paper's by row."""
    lines = [
        Line("instances", tuple(Cell(f"{one['n']:,}") for one in columns) + (Cell(""),) * len(published)),
        Line("without a polygon (IoU 0)", tuple(Cell(f"{one['missing']:,}") for one in columns) + (Cell(""),) * len(published)),
    ]
    for key, label, hint in METRICS:
        ours = tuple(percent(one.get(key), one.get("ci95", {}).get(key)) for one in columns)
        theirs = tuple(Cell(f"{getattr(row, key):.2f}") if hasattr(row, key) else Cell("") for row in published)
        lines.append(Line(label, ours + theirs, hint))
    for key, label, hint in PLAIN:
        cells = tuple(Cell("–" if one.get(key) is None else f"{round(one[key], 2) + 0.0:.2f}") for one in columns)
        lines.append(Line(label, cells + (Cell(""),) * len(published), hint))
    return lines


def measured_categories(numbers: Mapping[str, Any], published: Sequence[Published]) -> list[Line]:
    """Give a line per category with its IoU and F, and the paper's IoU where it has one; the worst first."""
    lines = []
    for one in _frequent(numbers["per_category"]):
        cells = (Cell(f"{one['n']:,}", one["n"]), *(percent(one[key]) for key in ("miou", "f_1px", "f_2px")))
        theirs = [(row.categories or {}).get(str(one["name"]).lower()) for row in published if row.categories]
        extra = tuple(Cell("–" if value is None else f"{value:.2f}", value) for value in theirs)
        lines.append(Line(clip(one["name"], NAME), cells + extra, share=one["miou"]))
    return sorted(lines, key=lambda line: line.share or 0.0)


def estimated_categories(survey: Survey, names: Mapping[str, str]) -> list[Line]:
    """Give a line per category with the mean estimated quality of its polygons; the lowest first."""
    rows = [{"name": names.get(key, key), "n": int(n), "mean": total / n} for key, (n, total) in survey.categories.items()]
    lines = [
        Line(clip(one["name"], NAME), (Cell(f"{one['n']:,}", one["n"]), percent(one["mean"])), share=one["mean"]) for one in _frequent(rows)
    ]
    return sorted(lines, key=lambda line: line.share or 0.0)


def look_first(survey: Survey, failures: Failures, numbers: Mapping[str, Any] | None, lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Say what deserves a look, most telling first: (sentence, where in the page)."""
    found: list[tuple[str, str]] = []
    word = "IoU" if numbers else "estimated IoU"
    if failures.count:
        reasons = ", ".join(f"{one.count:,} {one.code}" for one in failures.reasons[:4])
        found.append((f"{_counted(failures.count, 'box', 'boxes')} without a polygon: {reasons}", "#failures"))
    low = survey.below(LOW) - (numbers["missing"] if numbers else 0)
    if low > 0:
        found.append((f"{_counted(low, 'polygon', 'polygons')} of {survey.n:,} with {word} below {LOW:g}", "#gallery"))
    common = [line for line in lines if (line.cells[0].value or 0) >= ENOUGH]
    if len(common) > 1 and common[0].share is not None:
        found.append(
            (
                f"weakest category with {ENOUGH} instances or more: {common[0].label}, mean {word} {100 * common[0].share:.1f} % "
                f"(best: {common[-1].label}, {100 * (common[-1].share or 0):.1f} %)",
                "#categories",
            )
        )
    small, large = survey.quantiles(0), survey.quantiles(3)
    if small[0] >= ENOUGH and large[0] >= ENOUGH and small[2] < large[2] - 0.05:
        said = f"boxes under {EDGES[1]} px have a median {word} of {small[2]:.2f}, those of {EDGES[3]} to {EDGES[4]} px {large[2]:.2f}"
        found.append((f"{said}: {small[0]:,} are that small", "#charts"))
    error = numbers.get("quality_calibration_error") if numbers else None
    if error is not None and error > 0.1:
        found.append((f"estimates are off by {100 * error:.0f} points on average: rank by them, do not read them as IoU", "#charts"))
    return found


def _frequent(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda one: -one["n"])[:LISTED]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
