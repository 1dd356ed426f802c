"""Measure the predictions of one image against its truths: one row per truth, and the overlaps that average precision needs.

Masks live as run-length counts and are opened window by window, so an image costs no more than its largest instance. Letters: D
predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autopoly.errors import DataError
from autopoly.jobs.scoring.objects import Target, can_be_opened, components, parts, region, target
from autopoly.jobs.scoring.pairing import by_id, by_overlap
from autopoly.metrics.average_precision import Overlaps, pairwise_iou
from autopoly.metrics.boundary import MARGIN, boundary_f
from autopoly.metrics.iou import iou
from autopoly.metrics.windows import bounds, cut, window_of
from autopoly.types import Id, Instance, Record, is_truth

Match = Literal["id", "iou"]
Per = Literal["instance", "component"]
TOUCHING = 1e-9
"""Any overlap at all, for pairing by overlap."""


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What is compared with what. ``min_side``: only truths whose box has a shorter side of so many px; 0 = all."""

    match: Match = "id"
    per: Per = "instance"
    min_side: float = 0.0
    resamples: int = 1000
    """Bootstrap resamples for the 95 % intervals; 0 = no intervals."""
    seed: int = 0


class Row(NamedTuple):
    """One truth and its prediction. ``missing`` is None, or why there is no prediction. Sides and areas are of the truth, in px.

    ``polygons``, ``rings`` (exteriors and holes) and ``vertices`` count the prediction's; 0 where it came as a run-length mask.
    """

    image: int
    image_id: Id
    instance_id: Id
    category_id: Id
    iou: float
    f_1px: float
    f_2px: float
    quality: float | None
    side: float
    area: int
    polygons: int
    rings: int
    vertices: int
    missing: str | None
    truth_at: int = -1
    """The truth's :attr:`Instance.ordinal`: where a report finds it again."""
    predicted_at: int = -1
    """The prediction's; -1 for none."""


class ImageResult(NamedTuple):
    """One image measured.

    ``qualities`` and ``scores`` are those the (D,) predictions of ``overlaps`` came with; ``extra`` of them belong to no truth.
    """

    rows: list[Row]
    overlaps: Overlaps
    qualities: list[float | None]
    scores: list[float | None]
    extra: int
    unjudged: list[tuple[Id, str]]
    """Truths that could not be measured, and why; crowd regions are not among them."""


def measure(
    number: int, truth: Record, predicted: Sequence[Instance], size: tuple[int, int], match: Match, per: Per, absent: str = "no_annotation"
) -> ImageResult:
    """Measure image ``number`` of ``size`` (height, width) with its ``predicted`` instances.

    ``absent`` is the reason given for truths without one. Crowd regions, and truths whose mask is missing or unusable, are neither measured
    nor held against a prediction.
    """
    judged, unusable = _targets([one if is_truth(one) else None for one in truth.instances], size)
    causes = [(one, "truth_is_predicted" if one.mask else "truth_without_mask") for one in truth.instances]
    unjudged = [(one.instance_id, reason) for one, reason in causes if not one.crowd and not is_truth(one)]
    unjudged += [(truth.instances[at].instance_id, "truth_mask_unusable") for at in sorted(unusable)]
    ignored = [found for at, one in enumerate(truth.instances) if at not in judged and (found := region(one, size)) is not None]
    truths = list(judged.values())
    rank = {at: n for n, at in enumerate(judged)}
    reasons = [absent] * len(truths)

    # By id, so that equal scores rank the same whatever the order of the file, and without a look at the truth.
    given = sorted((one for one in predicted if not one.crowd), key=lambda one: (len(str(one.instance_id)), str(one.instance_id)))
    drawn, broken = _targets([one if one.mask else None for one in given], size)
    if match == "id":
        places = by_id(truth.instances, given).tolist()
        for at, place in enumerate(places):
            if place in rank:
                reasons[rank[place]] = "mask_unusable" if at in broken else "no_mask"
        # What is predicted for a region, or for a truth that is not judged, is not judged either.
        kept = [at for at in drawn if places[at] < 0 or places[at] in rank]
        predictions = [drawn[at] for at in kept]
        own = np.array([rank.get(places[at], -1) for at in kept], np.int64)
    else:
        predictions = list(drawn.values())
        own, _ = _overlapping(predictions, truths)
    if per == "component":
        predictions, truths, own, reasons = _split(predictions, truths, own, reasons)

    partner = {at: predictions[n] for n, at in enumerate(own.tolist()) if at >= 0}
    for at in [at for at, one in partner.items() if not can_be_opened(_window(truths[at], one, size))]:
        reasons[at] = "too_large_to_compare"
        del partner[at]
    rows = [_row(number, truth, one, partner.get(at), reasons[at], size) for at, one in enumerate(truths)]
    crowd = np.array([False] * len(truths) + [True] * len(ignored), bool)
    pairs, values = pairwise_iou([one.rle for one in predictions], [one.rle for one in truths + ignored], crowd)
    sides, truth_sides = (np.array([one.side for one in ones], np.float64) for ones in (predictions, truths + ignored))
    overlaps = Overlaps(pairs, values, sides, truth_sides, crowd, own)
    qualities, scores = [one.instance.quality for one in predictions], [one.instance.score for one in predictions]
    return ImageResult(rows, overlaps, qualities, scores, int((own < 0).sum()), unjudged)


def _targets(instances: Sequence[Instance | None], size: tuple[int, int]) -> tuple[dict[int, Target], set[int]]:
    """Rasterise those that are not None: by place in ``instances``, and the places of those whose mask cannot be used."""
    found, unusable = {}, set()
    for at, one in enumerate(instances):
        try:
            if one is not None:
                found[at] = target(one, size)
        except DataError:
            unusable.add(at)
    return found, unusable


def _row(number: int, image: Record, truth: Target, prediction: Target | None, reason: str, size: tuple[int, int]) -> Row:
    """Compare a truth with its prediction, if it has one, in the window that holds both."""
    values = (0.0, 0.0, 0.0)
    if prediction is not None:
        window = _window(truth, prediction, size)
        true, predicted = cut(truth.runs, window), cut(prediction.runs, window)
        f_1px, f_2px = boundary_f(predicted, true, (1, 2))
        values = (iou(predicted, true), f_1px, f_2px)
    polygons = prediction.polygons if prediction is not None else ()
    rings = [ring for polygon in polygons for ring in polygon.rings]
    return Row(
        number,
        image.image_id,
        truth.instance.instance_id,
        truth.instance.category_id,
        *values,
        quality=prediction.instance.quality if prediction is not None else None,
        side=truth.side,
        area=truth.runs.area,
        polygons=len(polygons),
        rings=len(rings),
        vertices=sum(map(len, rings)),
        missing=None if prediction is not None else reason,
        truth_at=truth.instance.ordinal,
        predicted_at=prediction.instance.ordinal if prediction is not None else -1,
    )


def _window(truth: Target, prediction: Target, size: tuple[int, int]) -> tuple[int, int, int, int]:
    return window_of([bounds(truth.runs), bounds(prediction.runs)], MARGIN, size)


def _overlapping(predictions: Sequence[Target], truths: Sequence[Target]) -> tuple[NDArray[np.int64], float]:
    """Pair by overlap: the truth (D,) of each prediction, -1 for none, and the sum of the IoUs of those pairs."""
    pairs, values = pairwise_iou([one.rle for one in predictions], [one.rle for one in truths], np.zeros(len(truths), bool), TOUCHING)
    own = by_overlap(pairs, values, len(predictions))
    return own, float(values[own[pairs[:, 0]] == pairs[:, 1]].sum())


def _parts(prediction: Target, pieces: Sequence[Target]) -> tuple[list[Target], NDArray[np.int64]]:
    """Split a prediction into its polygons or its connected components, whichever pairs better with the truth's ``pieces``; else the fewer.

    Polygons predicted for two components may touch; polygons of one component may have been drawn apart.
    """
    splits = [parts(prediction), components(prediction)]
    found = [_overlapping(made, pieces) for made in splits]
    best = max((0, 1), key=lambda n: (found[n][1], -len(splits[n])))
    return splits[best], found[best][0]


def _split(
    predictions: list[Target], truths: list[Target], own: NDArray[np.int64], reasons: list[str]
) -> tuple[list[Target], list[Target], NDArray[np.int64], list[str]]:
    """Split paired instances into components, and pair those within each instance by overlap."""
    partner = {at: n for n, at in enumerate(own.tolist()) if at >= 0}
    left: list[Target] = []
    right: list[Target] = []
    paired: list[int] = []
    names: list[str] = []
    for at, whole in enumerate(truths):
        pieces = components(whole) or [whole]  # an empty truth stays one row, with IoU 0
        made, places = _parts(predictions[partner[at]], pieces) if at in partner else ([], np.zeros(0, np.int64))
        paired += [len(right) + n if n >= 0 else -1 for n in places.tolist()]
        left += made
        right += pieces
        names += [reasons[at] if at not in partner else "no_part"] * len(pieces)
    for n in np.flatnonzero(own < 0).tolist():
        made = parts(predictions[n])
        left += made
        paired += [-1] * len(made)
    return left, right, np.array(paired, np.int64), names
