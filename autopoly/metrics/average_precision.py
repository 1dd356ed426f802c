"""Mean average precision at IoU 0.5 to 0.95 of instances without categories, by pycocotools' own matching and accumulation.

An image is reduced to its :class:`Overlaps` (the pairs of IoU >= 0.5, all that matching can use), so no mask outlives its image.
COCOeval's traps are closed here: ids count from 1 (it takes a match with id 0 for none), and ``maxDets`` never cuts. Letters: D
predictions, G truths, T thresholds, P pairs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from autopoly.types import FloatArray, Rle

THRESHOLDS: FloatArray = np.linspace(0.5, 0.95, 10)
_CELLS_AT_ONCE = 1_000_000
"""Largest dense IoU table held, in cells."""
_CELLS_WHOLE = 2_500
"""Larger images are matched group by group: COCOeval loops over D x G x T in Python."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """One image for matching.

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

    They are in the order of predictions, then truths.
    All masks have one size. For a ``crowd`` truth the value is intersection over the prediction's area, as COCO has it. Memory is bounded.
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


def average_precision(images: Sequence[Overlaps], scores: Sequence[FloatArray], min_side: float = 0.0) -> float:
    """Give mAP@0.5:0.95 over ``images``, each with its (D,) ``scores``; equal scores keep the order given.

    Truths whose box has a shorter side under ``min_side`` px are ignored, and so are predictions matched to them, or matched to nothing
    and as small themselves. NaN where no truth is left to find.
    """
    evaluator = COCOeval(iouType="segm")
    params = evaluator.params
    params.useCats, params.catIds, params.imgIds = 0, [1], list(range(len(images)))
    params.areaRng, params.areaRngLbl = [[min_side, float("inf")]], ["all"]
    params.iouThrs = THRESHOLDS
    params.maxDets = [max((len(image.sides) for image in images), default=0) + 1]
    evaluator.evalImgs = [_match_image(evaluator, image, score) for image, score in zip(images, scores, strict=True)]
    evaluator._paramsEval = params
    if not any(evaluator.evalImgs):
        return float("nan")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    precision = evaluator.eval["precision"]
    precision = precision[precision > -1]
    return float(precision.mean()) if precision.size else float("nan")


def passed(ious: FloatArray) -> FloatArray:
    """Give the share of the ten thresholds that each of (N,) ``ious`` reaches.

    Its mean over instances is the pass rate, which needs no score.
    """
    return np.searchsorted(THRESHOLDS, ious, side="right") / len(THRESHOLDS)


def _match_image(evaluator: Any, image: Overlaps, scores: FloatArray) -> dict[str, Any] | None:
    """Match one image; a large one by its independent groups, whose results are merged in the order COCOeval gives the whole."""
    predicted, true = len(image.sides), len(image.truth_sides)
    if predicted * true <= _CELLS_WHOLE:
        return _match(evaluator, image, scores, np.arange(predicted), np.arange(true))
    order = np.argsort(-scores, kind="mergesort")
    matched = np.zeros((len(THRESHOLDS), predicted))
    ignored = np.zeros((len(THRESHOLDS), predicted), bool)
    for rows, columns in _groups(image.pairs, predicted, true):
        result = _match(evaluator, image, scores, rows, columns)
        if result is not None:
            at = rows[np.argsort(-scores[rows], kind="mergesort")]
            matched[:, at], ignored[:, at] = result["dtMatches"], result["dtIgnore"]
    outside = image.crowd | (image.truth_sides < evaluator.params.areaRng[0][0])
    return {"dtScores": scores[order], "dtMatches": matched[:, order], "dtIgnore": ignored[:, order], "gtIgnore": outside.astype(np.int64)}


def _match(
    evaluator: Any, image: Overlaps, scores: FloatArray, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> dict[str, Any] | None:
    """Let COCOeval match predictions ``rows`` with truths ``columns``.

    It takes the size of an object from ``area``: we give it the box side.
    """
    order = rows[np.argsort(-scores[rows], kind="mergesort")]
    table = np.zeros((len(order), len(columns)))
    if table.size and len(image.pairs):
        row_of = np.full(len(image.sides), -1)
        row_of[order] = np.arange(len(order))
        column_of = np.full(len(image.truth_sides), -1)
        column_of[columns] = np.arange(len(columns))
        row, column = row_of[image.pairs[:, 0]], column_of[image.pairs[:, 1]]
        inside = (row >= 0) & (column >= 0)
        table[row[inside], column[inside]] = image.iou[inside]
    evaluator.ious = {(0, -1): table if table.size else []}
    evaluator._gts = {
        (0, 1): [
            {"id": n + 1, "area": side, "iscrowd": int(crowd), "ignore": int(crowd)}
            for n, (side, crowd) in enumerate(zip(image.truth_sides[columns].tolist(), image.crowd[columns].tolist(), strict=True))
        ]
    }
    evaluator._dts = {
        (0, 1): [
            {"id": n + 1, "area": side, "score": score}
            for n, (side, score) in enumerate(zip(image.sides[rows].tolist(), scores[rows].tolist(), strict=True))
        ]
    }
    result: dict[str, Any] | None = evaluator.evaluateImg(0, -1, evaluator.params.areaRng[0], evaluator.params.maxDets[0])
    return result


def _groups(pairs: NDArray[np.int64], predicted: int, true: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split predictions and truths into groups that share no pair: (rows, columns) of each.

    All predictions without a pair form one more group.
    """
    of_row: list[list[int]] = [[] for _ in range(predicted)]
    of_column: list[list[int]] = [[] for _ in range(true)]
    for row, column in pairs.tolist():
        of_row[row].append(column)
        of_column[column].append(row)
    seen_rows, seen_columns = np.zeros(predicted, bool), np.zeros(true, bool)
    groups = [(np.array([row for row in range(predicted) if not of_row[row]], np.int64), np.zeros(0, np.int64))]
    for first in range(predicted):
        if seen_rows[first] or not of_row[first]:
            continue
        rows, columns, open_rows = [], [], [first]
        seen_rows[first] = True
        while open_rows:
            row = open_rows.pop()
            rows.append(row)
            for column in of_row[row]:
                if not seen_columns[column]:
                    seen_columns[column] = True
                    columns.append(column)
                    new = [other for other in of_column[column] if not seen_rows[other]]
                    seen_rows[new] = True
                    open_rows += new
        groups.append((np.array(sorted(rows), np.int64), np.array(sorted(columns), np.int64)))
    return groups
