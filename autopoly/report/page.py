"""Put the report's page together: one file, everything inline, and a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2

import autopoly
from autopoly.report import charts, gallery, tables
from autopoly.report.failed import Failures
from autopoly.report.published import COMPARABLE, Published
from autopoly.report.survey import Survey

CONVENTION = (
    ("population", "population"),
    ("per", "scored per"),
    ("match", "paired by"),
    ("mean", "means"),
    ("map", "average precision"),
    ("map_score", "ranked by"),
    ("rasteriser", "masks"),
    ("resolution", "resolution"),
    ("boundary", "boundary F"),
    ("by_size", "sizes"),
    ("ci95", "95 % intervals"),
    ("truth_boxes", "boxes taken from the truth"),
)
COLUMNS = 8
"""Predictions side by side, at most."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A number at the top of the page."""

    label: str
    value: str
    hint: str


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """All that a report says. Without ``columns`` (name, numbers of a score) there is no truth: ``survey`` is of estimates then."""

    title: str
    tiles: list[Tile]
    survey: Survey
    columns: Sequence[tuple[str, Mapping[str, Any]]]
    published: Sequence[Published]
    failures: Failures
    subjects: Sequence[gallery.Subject]
    names: Mapping[str, str]
    computed: Sequence[tuple[str, str]]
    notes: Sequence[str] = field(default_factory=list)


def render(content: Content) -> bytes:
    """Give the page, UTF-8. Every name from the data is escaped; letters that UTF-8 does not have become question marks."""
    files = resources.files(__package__)
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.globals.update(bar=charts.bar, clip=gallery.clip)
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    html = template.render(style=style, script=script, policy=_policy(style, script), **_context(content))
    return html.encode("utf-8", "replace")


def _policy(style: str, script: str) -> str:
    """Allow this style, this script and pictures inside the page: a script that a name from the data smuggled in would not run."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, script)]
    return f"default-src 'none'; img-src data:; style-src {hashes[0]}; script-src {hashes[1]}; base-uri 'none'; form-action 'none'"


def _context(content: Content) -> dict[str, Any]:
    numbers = content.columns[0][1] if content.columns else None
    word = "IoU" if numbers else "estimated IoU"
    categories = (
        tables.measured_categories(numbers, content.published) if numbers else tables.estimated_categories(content.survey, content.names)
    )
    cards, left_out = gallery.cards(content.subjects)
    ordered = sorted(cards, key=lambda card: _rank(card, bool(numbers)))
    columns = content.columns[:COLUMNS]
    return {
        "version": getattr(autopoly, "__version__", "unknown"),
        "title": gallery.clip(content.title),
        "truth": numbers is not None,
        "word": word,
        "tiles": _score_tiles(numbers) + content.tiles,
        "first": tables.look_first(content.survey, content.failures, numbers, categories),
        "notes": [*content.notes, *(numbers["notes"] if numbers else ())],
        "columns": [gallery.clip(name, tables.NAME) for name, _ in columns],
        "headline": tables.headline([one for _, one in columns], content.published),
        "published": content.published,
        "comparable": COMPARABLE,
        "charts": _charts(content.survey, numbers, word),
        "categories": categories,
        "category_count": len(numbers["per_category"]) if numbers else len(content.survey.categories),
        "with_paper": [row for row in content.published if row.categories],
        "cards": ordered,
        "left_out": left_out,
        "picked": content.survey.n,
        "groups": list(Counter(card.group for card in ordered).items()),
        "card_categories": sorted(Counter(card.category for card in ordered).items()),
        "failures": content.failures,
        "computed": [*content.computed, *_convention(numbers)],
    }


def _rank(card: gallery.Card, truth: bool) -> tuple[int, float]:
    """Sort the gallery: the lowest first, boxes without a polygon and then polygons without a truth at the end."""
    value = card.iou if truth else card.quality
    return (2 if card.group == "no truth" else 1 if card.group == "no polygon" else 0, 0.0 if value is None else value)


def _score_tiles(numbers: Mapping[str, Any] | None) -> list[Tile]:
    if numbers is None:
        return []
    tiles = []
    for key, label in (("miou", "mIoU"), ("map", "mAP"), ("f_1px", "F, 1 px"), ("f_2px", "F, 2 px")):
        if numbers.get(key) is not None:
            interval = numbers["ci95"].get(key)
            said = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "ranked by the estimate" if key == "map" else ""
            tiles.append(Tile(label, f"{100 * numbers[key]:.1f} %", said))
    return tiles


def _charts(survey: Survey, numbers: Mapping[str, Any] | None, word: str) -> list[tuple[str, str, str]]:
    """Give title, explanation and SVG of each chart that has something to show."""
    if not survey.n:
        return []
    kind = "measured instances" if numbers else "predicted polygons"
    shown = [(f"How {word} is spread", f"{survey.n:,} {kind}", charts.histogram(survey.histogram.tolist(), word))]
    curve = numbers["quality_calibration"] if numbers else []
    if curve:
        error = numbers["quality_calibration_error"] if numbers else None
        said = "on the dashed line an estimate is right" + (f"; mean error {100 * error:.1f} points" if error is not None else "")
        shown.append(("Estimated against true IoU", said, charts.calibration(curve)))
    shown.append((f"{word[0].upper()}{word[1:]} by size of box", "median and quartiles", charts.sizes(survey, word)))
    return shown


def _convention(numbers: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if numbers is None:
        return []
    said = {key: {True: "yes", False: "no"}.get(value, str(value)) for key, value in numbers["convention"].items()}
    return [(label, said[key]) for key, label in CONVENTION if key in said]
