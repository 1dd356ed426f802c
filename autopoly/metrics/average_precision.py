"""Mean average precision at IoU 0.5 to 0.95 of instances without categories, by pycocotools' own matching.

An image is reduced to its :class:`Overlaps` (the pairs of IoU >= 0.5, all that matching can use), so no mask outlives its image.
COCOeval's traps are closed here: ids count from 1 (it takes a match with id 0 for none), and ``maxDets`` never cuts. Letters: D
predictions, G truths, T thresholds, P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from autopoly.metrics.ranking import Ranking
from autopoly.types import FloatArray, Rle

THRESHOLDS: FloatArray = np.linspace(0.5, 0.95, 10)
_CELLS_AT_ONCE = 1_000_000
"""Largest dense IoU table held, in cells."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """One image, or several :func:`together`, for matching.

    ``pairs`` (P, 2) holds prediction and truth index of each pair with a large IoU, ``iou`` (P,) its value. ``sides`` (D,) and
    ``truth_sides`` (G,) are the shorter sides of the boxes in px, for a population by size. ``crowd`` (G,) marks regions in which
    predictions are neither right nor wrong. ``own`` (D,) is the truth of the same identity, -1 for none.
    """

    pairs: NDArray[np.int64]
    iou: FloatArray
    sides: FloatArray
    truth_sides: FloatArray
    crowd: NDArray[np.bool_]
    own: NDArray[np.int64]

    def by_identity(self) -> Overlaps:
        """Keep the pairs of one identity, and those with crowd regions: matching can then not swap neighbours."""
        predicted, true = self.pairs[:, 0], self.pairs[:, 1]
        keep = (self.own[predicted] == true) | self.crowd[true]
        return Overlaps(self.pairs[keep], self.iou[keep], self.sides, self.truth_sides, self.crowd, self.own)


def pairwise_iou(
    predictions: Sequence[Rle], truths: Sequence[Rle], crowd: NDArray[np.bool_], at_least: float = 0.5
) -> tuple[NDArray[np.int64], FloatArray]:
    """Give pairs (P, 2) of prediction and truth index with IoU >= ``at_least`` (> 0), and their IoU (P,).

    They are in the order of predictions, then truths. All masks have one size. For a ``crowd`` truth the value is intersection over the
    prediction's area, as COCO has it. Memory is bounded.
    """
    pairs, values = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    if predictions and truths:
        right = [{"size": rle.size, "counts": rle.counts} for rle in truths]
        flags = crowd.astype(np.uint8).tolist()
        step = max(1, _CELLS_AT_ONCE // len(right))
        for start in range(0, len(predictions), step):
            left = [{"size": rle.size, "counts": rle.counts} for rle in predictions[start : start + step]]
            table = np.asarray(coco_mask.iou(left, right, flags), np.float64).reshape(len(left), len(right))
            found = np.argwhere(table >= at_least)
            values.append(table[found[:, 0], found[:, 1]])
            found[:, 0] += start
            pairs.append(found)
    return np.concatenate(pairs), np.concatenate(values)


def together(images: Sequence[Overlaps]) -> Overlaps:
    """Join images into one, in order: pairs never cross images, and COCOeval ranks the predictions of all images together anyway."""
    predictions = np.cumsum([0] + [len(image.sides) for image in images])
    truths = np.cumsum([0] + [len(image.truth_sides) for image in images])
    pairs = [image.pairs + offset for image, offset in zip(images, zip(predictions, truths, strict=True), strict=False)]
    own = [np.where(image.own >= 0, image.own + offset, -1) for image, offset in zip(images, truths, strict=False)]
    return Overlaps(
        np.concatenate([np.zeros((0, 2), np.int64), *pairs]),
        np.concatenate([np.zeros(0), *(image.iou for image in images)]),
        np.concatenate([np.zeros(0), *(image.sides for image in images)]),
        np.concatenate([np.zeros(0), *(image.truth_sides for image in images)]),
        np.concatenate([np.zeros(0, bool), *(image.crowd for image in images)]),
        np.concatenate([np.zeros(0, np.int64), *own]),
    )


def ranking(images: Sequence[Overlaps], scores: FloatArray, min_side: float = 0.0, by_identity: bool = False) -> Ranking:
    """Match the predictions of ``images``, with (D,) ``scores`` over all of them, and rank them; equal scores keep the order given.

    Truths whose box has a shorter side under ``min_side`` px are ignored, and so are predictions matched to them, or matched to nothing and
    as small themselves. ``by_identity`` keeps the pairs of one identity alone, and those with crowd regions.
    """
    overlaps = together(images)
    if by_identity:
        overlaps = overlaps.by_identity()
    ignored_truths = overlaps.crowd | (overlaps.truth_sides < min_side)
    evaluator = COCOeval(iouType="segm")
    params = evaluator.params
    params.useCats, params.catIds, params.imgIds, params.iouThrs = 0, [1], [0], THRESHOLDS
    params.areaRng, params.areaRngLbl = [[min_side, float("inf")]], ["all"]
    params.maxDets = [len(overlaps.sides) + 1]
    matched, ignored = _matches(evaluator, overlaps, scores, ignored_truths)
    numbers = np.arange(len(images))
    truth_image = np.repeat(numbers, [len(one.truth_sides) for one in images])
    truths = np.bincount(truth_image[~ignored_truths], minlength=len(images))
    return Ranking(scores, matched, ignored, np.repeat(numbers, [len(one.sides) for one in images]), truths)


def passed(ious: FloatArray) -> FloatArray:
    """Give the share of the ten thresholds that each of (N,) ``ious`` reaches.

    Its mean over instances is the pass rate, which needs no score.
    """
    return np.searchsorted(THRESHOLDS, ious, side="right") / len(THRESHOLDS)


def _matches(
    evaluator: Any, overlaps: Overlaps, scores: FloatArray, ignored_truths: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say by threshold which predictions match a truth and which are ignored, (T, D) each.

    A pair whose two sides overlap nothing else needs no matching: its IoU decides. The contested rest goes to COCOeval group by group,
    since it loops over all D x G x T of what it is given, in Python.
    """
    predicted, true = overlaps.pairs.T
    matched = np.zeros((len(THRESHOLDS), len(overlaps.sides)), bool)
    ignored = np.zeros_like(matched)
    alone = (np.bincount(predicted, minlength=1)[predicted] == 1) & (np.bincount(true, minlength=1)[true] == 1)
    matched[:, predicted[alone]] = overlaps.iou[alone] >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    ignored[:, predicted[alone]] = matched[:, predicted[alone]] & ignored_truths[true[alone]]
    ignored |= ~matched & (overlaps.sides < evaluator.params.areaRng[0][0])
    for group in _groups(overlaps.pairs, np.flatnonzero(~alone)):
        rows, result = _match(evaluator, overlaps, scores, group)
        matched[:, rows], ignored[:, rows] = result["dtMatches"] > 0, result["dtIgnore"]
    return matched, ignored


def _match(evaluator: Any, overlaps: Overlaps, scores: FloatArray, group: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Let COCOeval match the predictions and truths of a ``group`` of pairs; give the predictions in the order of its result.

    It takes the size of an object from ``area``: we give it the box side.
    """
    rows, row = np.unique(overlaps.pairs[group, 0], return_inverse=True)
    columns, column = np.unique(overlaps.pairs[group, 1], return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    table[row, column] = overlaps.iou[group]
    order = np.argsort(-scores[rows], kind="mergesort")
    evaluator.ious = {(0, -1): table[order]}
    truths = zip(overlaps.truth_sides[columns].tolist(), overlaps.crowd[columns].tolist(), strict=True)
    predictions = zip(overlaps.sides[rows].tolist(), scores[rows].tolist(), strict=True)
    evaluator._gts = {(0, 1): [{"id": n, "area": a, "iscrowd": int(c), "ignore": int(c)} for n, (a, c) in enumerate(truths, 1)]}
    evaluator._dts = {(0, 1): [{"id": n, "area": a, "score": s} for n, (a, s) in enumerate(predictions, 1)]}
    return rows[order], evaluator.evaluateImg(0, -1, evaluator.params.areaRng[0], evaluator.params.maxDets[0])


def _groups(pairs: NDArray[np.int64], chosen: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Split the ``chosen`` pairs into groups that share no prediction and no truth, each an array of pair numbers."""
    of_row: dict[int, list[int]] = defaultdict(list)
    of_column: dict[int, list[int]] = defaultdict(list)
    ends = pairs.tolist()
    for number in chosen.tolist():
        of_row[ends[number][0]].append(number)
        of_column[ends[number][1]].append(number)
    groups, seen = [], set()
    for first in chosen.tolist():
        if first in seen:
            continue
        seen.add(first)
        group, waiting = [], [first]
        while waiting:
            number = waiting.pop()
            group.append(number)
            row, column = ends[number]
            new = [other for other in (*of_row.pop(row, ()), *of_column.pop(column, ())) if other not in seen]
            seen.update(new)
            waiting += new
        groups.append(np.array(sorted(group), np.int64))
    return groups
