"""Average precision of ranked predictions whose matches are known, of a sample and of resamples of its images.

Letters: D predictions, T thresholds, I images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autopoly.types import FloatArray

RECALLS: FloatArray = np.linspace(0.0, 1.0, 101)
"""Where COCO reads the curve of precision over recall."""


class Ranking:
    """Predictions in the order of their scores, each right, wrong or ignored at every threshold.

    Matches never cross images, so a resample of images needs no new matching: its predictions count as often as their image was drawn.
    Copies of a prediction follow each other, and the value is exactly that of COCOeval's accumulation over such a list.
    """

    def __init__(
        self,
        scores: FloatArray,
        matched: NDArray[np.bool_],
        ignored: NDArray[np.bool_],
        image: NDArray[np.int64],
        truths: NDArray[np.int64],
    ) -> None:
        """Take ``scores`` (D,), equal ones in the order given, ``matched`` and ``ignored`` (T, D), the ``image`` (D,) of each below I.

        ``truths`` (I,) counts what is there to find in each image.
        """
        order = np.argsort(-scores, kind="mergesort")
        ranked = image[order].astype(np.int32)
        self.images = len(truths)
        self.predictions = len(scores)
        self._truths = truths.astype(np.float64)
        self._curves: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []
        for right, out in zip(matched[:, order], ignored[:, order], strict=True):
            counted = ranked[~out] if out.any() else ranked
            self._curves.append((counted, np.flatnonzero(right[~out])))

    def precision(self, weights: FloatArray | None = None) -> float:
        """Give the mean over thresholds of the mean precision at 101 recalls; ``weights`` (I,) says how often each image counts.

        NaN where no truth is left to find.
        """
        each = np.ones(self.images) if weights is None else weights
        truths = float(each @ self._truths)
        if truths == 0:
            return float("nan")
        table = np.zeros((len(self._curves), len(RECALLS)))
        weight = counted = np.zeros(0)
        last = None
        for row, (images, hits) in zip(table, self._curves, strict=True):
            if images is not last:  # without ignored predictions all thresholds count the same
                weight, last = each[images], images
                counted = np.cumsum(weight)
            found = np.cumsum(weight[hits])
            # Between two hits precision falls and recall stands still: the curve is known at its hits.
            precision = found / (counted[hits] + np.spacing(1))
            best = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(found / truths, RECALLS)
            reached = at < len(best)
            row[reached] = best[at[reached]]
        return float(table.mean())
