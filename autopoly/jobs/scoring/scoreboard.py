"""Turn measured instances into the numbers of a score, each with its convention, and two scores into their difference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopoly.errors import DataError
from autopoly.geometry import raster
from autopoly.jobs.scoring.measuring import ImageResult, Row, ScoreOptions
from autopoly.metrics.average_precision import ranking
from autopoly.metrics.boundary import ELEMENT
from autopoly.metrics.iou import category_means
from autopoly.metrics.ranking import Ranking
from autopoly.metrics.summary import (
    SIZES,
    Measured,
    calibration,
    calibration_error,
    delta_intervals,
    intervals,
    means,
    ranked_resamples,
    ranking_intervals,
    spearman,
)
from autopoly.types import Category

SCHEMA = 1
NAMED = 1000
"""Missing truths listed by id; all are counted."""
CHANGED = 0.01
"""A change of IoU below this is no change, when instances are counted as better or worse."""
RANKED = ("map", "map_constant")
"""The forms of average precision that get an interval."""
WORST = 50
"""Instances listed among those that got worse."""
CROWD_SHARE = 0.1
"""Above this share of crowd regions a truth file is suspect: some tools write iscrowd 1 for any object with holes or parts."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All measured instances of one prediction, in the order of the truth, and what lies beside them."""

    rows: list[Row]
    results: list[ImageResult]
    """By image: the overlaps, and the qualities and scores of the predictions. Their rows are those above."""
    categories: tuple[Category, ...]
    """The truth's, in its order; then one named by its id for each that it uses without listing."""
    crowd: int
    kept: int
    extra_images: int
    unjudged: dict[str, int]
    renamed: int = 0
    """Images that the prediction calls otherwise, paired by their id."""
    prediction: str = ""
    truth: str = ""
    truth_boxes: bool = False

    @classmethod
    def of(
        cls, results: list[ImageResult], categories: Sequence[Category], crowd: int, kept: int, extra_images: int, unjudged: dict[str, int]
    ) -> Table:
        """Collect the images of one prediction."""
        rows = [row for result in results for row in result.rows]
        listed = {str(one.category_id) for one in categories}
        unlisted = {str(row.category_id): row.category_id for row in rows if str(row.category_id) not in listed}
        return cls(
            rows, results, (*categories, *(Category(one, str(one)) for one in unlisted.values())), crowd, kept, extra_images, unjudged
        )

    def named(self, prediction: str, truth: str, truth_boxes: bool) -> Table:
        """Say where it comes from."""
        return replace(self, prediction=prediction, truth=truth, truth_boxes=truth_boxes)

    def measured(self, keep: NDArray[np.bool_] | None = None) -> Measured:
        """Give the columns that are averaged, of all rows or of those to ``keep`` (N,)."""
        place: dict[str, int] = {}
        for at, one in enumerate(self.categories):
            place.setdefault(str(one.category_id), at)
        category = np.array([place[str(row.category_id)] for row in self.rows], np.int64)
        floats = np.array([row[4:7] for row in self.rows], np.float64).reshape(-1, 3)
        image = np.array([row.image for row in self.rows], np.int64)
        chosen = slice(None) if keep is None else keep
        iou, f_1px, f_2px = floats[chosen].T
        return Measured(iou, f_1px, f_2px, category[chosen], len(self.categories), image[chosen])

    def at_least(self, side: float) -> NDArray[np.bool_]:
        """Mark the rows (N,) whose box has a shorter side of ``side`` px or more."""
        return np.array([row.side >= side for row in self.rows], bool)


def numbers(table: Table, options: ScoreOptions) -> dict[str, Any]:
    """Give every number of one prediction, as JSON values."""
    keep = table.at_least(options.min_side)
    measured = table.measured(keep)
    rows = [row for row, kept in zip(table.rows, keep, strict=True) if kept]
    missing = [row for row in rows if row.missing is not None]
    by = _score_source(table)
    rankings = _rankings(table, options.min_side, by)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "prediction": table.prediction,
        "truth": table.truth,
        "convention": _convention(table, options, by),
        "n": len(rows),
        "images": len({row.image for row in rows}),
        "missing": len(missing),
        "missing_reasons": dict(sorted(Counter(str(row.missing) for row in missing).items())),
        "missing_ids": [{"image_id": row.image_id, "id": row.instance_id, "reason": row.missing} for row in missing[:NAMED]],
        "extra": sum(one.extra for one in table.results),
        "extra_images": table.extra_images,
        "crowd": table.crowd,
        "unjudged": table.unjudged,
        **means(measured),
        **_average_precisions(rankings),
        "ci95": intervals(measured, options.resamples, options.seed)
        | ranking_intervals({name: rankings[name] for name in RANKED if name in rankings}, options.resamples, options.seed),
        **_vertices(rows),
        **_quality(rows),
        **_categories(table, measured),
        "by_size": _by_size(table, keep),
        "notes": _notes(table, options.match),
    }
    if options.min_side > 0:
        everything = {"n": len(table.rows), "missing": sum(row.missing is not None for row in table.rows)}
        result["all"] = {**everything, **means(table.measured()), **_average_precisions(_rankings(table, 0.0, by))}
    rounded: dict[str, Any] = _rounded(result)
    return rounded


def delta(first: Table, second: Table, before: dict[str, Any], after: dict[str, Any], options: ScoreOptions) -> dict[str, Any]:
    """Give second minus first: {name: {delta, ci95}}, and which instances got worse (IoU lower by more than ``CHANGED``), the worst first.

    Raise :class:`DataError` where the two did not measure the same truths.
    """
    if [(row.image, row.instance_id) for row in first.rows] != [(row.image, row.instance_id) for row in second.rows]:
        raise DataError(f"{first.prediction} and {second.prediction} measure different truths; give the truth file image sizes")
    keep = first.at_least(options.min_side)
    spread = delta_intervals(first.measured(keep), second.measured(keep), options.resamples, options.seed)
    names = ("miou", "miou_instances", "f_1px", "f_2px", "pass_rate", "map", "map_constant", "vertices_mean", "quality_spearman")
    before, after = before | means(first.measured(keep)), after | means(second.measured(keep))  # not the rounded ones
    both = [(name, before[name], after[name]) for name in names]
    differences = {name: {"delta": None if a is None or b is None else b - a, "ci95": spread.get(name)} for name, a, b in both}
    pairs = [(a, b) for a, b, kept in zip(first.rows, second.rows, keep, strict=True) if kept]
    worse = sorted((pair for pair in pairs if pair[1].iou < pair[0].iou - CHANGED), key=lambda pair: pair[1].iou - pair[0].iou)
    listed = [
        {"image_id": a.image_id, "id": a.instance_id, "category_id": a.category_id, "iou_before": a.iou, "iou_after": b.iou}
        for a, b in worse[:WORST]
    ]
    counts = {"changed_by": CHANGED, "better": sum(b.iou > a.iou + CHANGED for a, b in pairs), "worse": len(worse)}
    result: dict[str, Any] = _rounded(
        {"prediction": second.prediction, "against": first.prediction, **differences, **counts, "worst": listed}
    )
    return result


def _convention(table: Table, options: ScoreOptions, by: str) -> dict[str, Any]:
    ranked = ranked_resamples(options.resamples, sum(len(one.overlaps.sides) for one in table.results))
    return {
        "population": f"box shorter side >= {options.min_side:g} px" if options.min_side > 0 else "all instances",
        "min_side": options.min_side,
        "per": options.per,
        "match": {"id": "annotation id", "iou": "largest overlap first, each side once"}[options.match],
        "resolution": "full image",
        "rasteriser": raster.RASTERISER,
        "boundary": f"DAVIS db_eval_boundary, {ELEMENT} of 1 and 2 full-image px",
        "mean": "miou, f_1px, f_2px: unweighted mean of category means; miou_instances, pass_rate: over instances",
        "map": "COCOeval at IoU 0.50:0.05:0.95, no categories, maxDets unlimited, ties by image and id; *_by_id: matched by identity",
        "map_score": by,
        "by_size": "true mask area in px: small < 32^2 <= medium < 96^2 <= large",
        "ci95": f"bootstrap over images, {options.resamples} resamples ({ranked} for map and map_constant), seed {options.seed}",
        "truth_boxes": table.truth_boxes,
    }


def _score_source(table: Table) -> str:
    """Say which number ranks the predictions for ``map``: the model's own quality, else a detector's score, else none."""
    if any(value is not None for one in table.results for value in one.qualities):
        return "quality"
    return "score" if any(value is not None for one in table.results for value in one.scores) else "none"


def _rankings(table: Table, min_side: float, by: str) -> dict[str, Ranking]:
    """Rank the predictions by their own score (left out where they have none) and by a constant, matched by overlap and by identity."""
    images = [one.overlaps for one in table.results]
    values = [value for one in table.results for value in (one.qualities if by == "quality" else one.scores)]
    scores = {"map": np.array([0.0 if value is None else value for value in values], np.float64)} if by != "none" else {}
    scores["map_constant"] = np.ones(len(values))
    ways = {"": False, "_by_id": True}
    return {f"{name}{way}": ranking(images, column, min_side, same) for way, same in ways.items() for name, column in scores.items()}


def _average_precisions(rankings: dict[str, Ranking]) -> dict[str, float]:
    names = ("map", "map_constant", "map_by_id", "map_constant_by_id")
    return {name: rankings[name].precision() if name in rankings else math.nan for name in names}


def _vertices(rows: list[Row]) -> dict[str, float]:
    """Average the vertices of predictions that came as polygons: per ring, per polygon with its holes, per instance."""
    drawn = [row for row in rows if row.polygons]
    total = sum(row.vertices for row in drawn)
    rings, polygons = sum(row.rings for row in drawn), sum(row.polygons for row in drawn)
    return {
        "vertices_mean": total / rings if rings else math.nan,
        "vertices_per_component": total / polygons if polygons else math.nan,
        "vertices_per_instance": total / len(drawn) if drawn else math.nan,
    }


def _quality(rows: list[Row]) -> dict[str, Any]:
    """Compare the estimate with the truth, over predictions that carry one."""
    pairs = np.array([(row.quality, row.iou) for row in rows if row.quality is not None and row.missing is None], np.float64).reshape(-1, 2)
    curve = calibration(pairs[:, 0], pairs[:, 1])
    return {
        "quality_spearman": spearman(pairs[:, 0], pairs[:, 1]),
        "quality_calibration": curve,
        "quality_calibration_error": calibration_error(curve),
    }


def _categories(table: Table, measured: Measured) -> dict[str, Any]:
    """Average per category, in the truth's order; name those without instances."""
    counts = np.bincount(measured.category, minlength=measured.categories)
    columns = {
        "miou": category_means(measured.iou, measured.category, measured.categories),
        "f_1px": category_means(measured.f_1px, measured.category, measured.categories),
        "f_2px": category_means(measured.f_2px, measured.category, measured.categories),
    }
    listed = [
        {
            "category_id": one.category_id,
            "name": one.name,
            "n": int(counts[at]),
            **{name: float(column[at]) for name, column in columns.items()},
        }
        for at, one in enumerate(table.categories)
        if counts[at]
    ]
    return {"per_category": listed, "categories_without_instances": [one.name for at, one in enumerate(table.categories) if not counts[at]]}


def _by_size(table: Table, keep: NDArray[np.bool_]) -> dict[str, Any]:
    area = np.array([row.area for row in table.rows], np.float64)
    result = {}
    for name, (low, high) in SIZES.items():
        chosen = keep & (area >= low) & (area < high)
        result[name] = {"n": int(chosen.sum()), **means(table.measured(chosen))}
    return result


def _notes(table: Table, match: str) -> list[str]:
    """Say what a reader of the numbers must know, one line each."""
    notes = []
    judged = len(table.rows)
    if table.crowd > CROWD_SHARE * (table.crowd + judged):
        notes.append(
            f"{table.crowd} of {table.crowd + judged} truths have iscrowd 1 and are not scored; "
            "some tools write it for any object with holes or parts"
        )
    if table.unjudged:
        notes.append("truths not scored: " + ", ".join(f"{count} {reason}" for reason, count in table.unjudged.items()))
    if table.kept:
        notes.append(f"{table.kept} predictions are the source's own masks (mask_source kept)")
    if table.extra_images:
        notes.append(f"{table.extra_images} images with predictions are not in the truth and were left out")
    if table.renamed:
        notes.append(f"{table.renamed} images have the id of a picture with another file name, and were compared with it: other pictures?")
    if judged and all(row.missing is not None for row in table.rows):
        sizes = any(row.missing == "image_size_differs" for row in table.rows)
        hint = "pictures of other sizes" if sizes else "other ids? --match iou pairs by overlap" if match == "id" else "other pictures?"
        notes.append(f"no truth found its prediction: {hint}")
    return notes


def _rounded(value: Any) -> Any:
    """Round floats to six decimals, NaN to None, all the way down."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, 6) + 0.0 if math.isfinite(value) else None
    return value
