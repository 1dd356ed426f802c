"""Numbers about a set of instances: means with bootstrap intervals, and how well the quality estimate tells the true IoU.

Letters: N instances, R resamples, B bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopoly.metrics.average_precision import passed
from autopoly.metrics.ranking import Ranking
from autopoly.types import FloatArray

RESAMPLES = 1000
"""Bootstrap resamples. Whole images are drawn, with replacement: instances of one image are not independent."""
RANKED_RESAMPLES = (100, 300)
"""The fewest and the most resamples of a ranking, which cost a step per prediction."""
RANKED_STEPS = 30_000_000
"""Predictions times resamples: 300 up to 100,000 predictions, which takes about as many seconds as they have ten thousands."""
SIZES: dict[str, tuple[float, float]] = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
"""Size classes: the true mask's area in px, [low, high)."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What is averaged, one row per instance: columns (N,); ``category`` is an index below ``categories``, ``image`` any number."""

    iou: FloatArray
    f_1px: FloatArray
    f_2px: FloatArray
    category: NDArray[np.int64]
    categories: int
    image: NDArray[np.int64]


def means(rows: Measured) -> dict[str, float]:
    """Give miou, f_1px, f_2px (means of category means), miou_instances and pass_rate (over all instances); NaN for no instance."""
    return _Cells(rows).means(None)


def intervals(rows: Measured, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Give the bootstrap 95 % interval of each of :func:`means`, the same for the same seed; empty for no instance.

    A category that a resample misses is left out of that resample's mean of means.
    """
    cells = _Cells(rows)
    return _percentiles([cells.means(weights) for weights in _draws(cells.images, resamples, seed)])


def delta_intervals(first: Measured, second: Measured, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Give the 95 % interval of second minus first for each of :func:`means`; row n of both is the same instance, drawn together."""
    a, b = _Cells(first), _Cells(second)
    differences = []
    for weights in _draws(a.images, resamples, seed):
        before, after = a.means(weights), b.means(weights)
        differences.append({name: after[name] - before[name] for name in before})
    return _percentiles(differences)


def ranking_intervals(rankings: Mapping[str, Ranking], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Give the bootstrap 95 % interval of the precision of each of ``rankings``, all of one set of images, the same for the same seed.

    No more than :func:`ranked_resamples` are drawn. A ranking without a truth to find has none, nor counts a resample without one.
    """
    chosen = {name: one for name, one in rankings.items() if not np.isnan(one.precision())}
    if not chosen:
        return {}
    some = next(iter(chosen.values()))
    drawn = _draws(some.images, ranked_resamples(resamples, some.predictions), seed)
    return _percentiles([{name: one.precision(weights) for name, one in chosen.items()} for weights in drawn])


def ranked_resamples(resamples: int, predictions: int) -> int:
    """Say how many of so many resamples are drawn of a ranking of so many predictions."""
    fewest, most = RANKED_RESAMPLES
    return min(resamples, most, max(fewest, RANKED_STEPS // max(predictions, 1)))


class _Cells:
    """Sums of the rows by image and category, so that a resample costs one step per cell and not per instance."""

    def __init__(self, rows: Measured) -> None:
        names, image = np.unique(rows.image, return_inverse=True)
        cells, index = np.unique(image * max(rows.categories, 1) + rows.category, return_inverse=True)
        self.images = names.size
        self._image, self._category = np.divmod(cells, max(rows.categories, 1))
        self._categories = rows.categories
        columns = {"n": np.ones(rows.iou.size), "iou": rows.iou, "f_1px": rows.f_1px, "f_2px": rows.f_2px, "passed": passed(rows.iou)}
        self._sums = {name: np.bincount(index, values, minlength=cells.size) for name, values in columns.items()}

    def means(self, weights: FloatArray | None) -> dict[str, float]:
        """Give the numbers of :func:`means`; ``weights`` (images,) says how often each image counts."""
        factor = np.ones(self._image.size) if weights is None else weights[self._image]
        sums = {name: np.bincount(self._category, values * factor, minlength=self._categories) for name, values in self._sums.items()}
        present = sums["n"] > 0
        if not present.any():
            return dict.fromkeys(("miou", "miou_instances", "f_1px", "f_2px", "pass_rate"), float("nan"))
        total = sums["n"].sum()
        return {
            "miou": float((sums["iou"][present] / sums["n"][present]).mean()),
            "miou_instances": float(sums["iou"].sum() / total),
            "f_1px": float((sums["f_1px"][present] / sums["n"][present]).mean()),
            "f_2px": float((sums["f_2px"][present] / sums["n"][present]).mean()),
            "pass_rate": float(sums["passed"].sum() / total),
        }


def spearman(x: FloatArray, y: FloatArray) -> float:
    """Give the rank correlation of (N,) ``x`` and ``y``, ties at their mean rank; NaN for fewer than two, or where one is constant."""
    if x.size < 2:
        return float("nan")
    a, b = (_ranks(values) - (x.size - 1) / 2 for values in (x, y))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def calibration(quality: FloatArray, iou: FloatArray, bins: int = 10) -> list[dict[str, float]]:
    """Compare estimated with true IoU in ``bins`` equal bins of (N,) ``quality`` in [0, 1].

    Give low, high, n, and the means quality and iou of each bin that is not empty.
    """
    index = np.clip((quality * bins).astype(np.int64), 0, bins - 1)
    return [
        {
            "low": k / bins,
            "high": (k + 1) / bins,
            "n": int((index == k).sum()),
            "quality": float(quality[index == k].mean()),
            "iou": float(iou[index == k].mean()),
        }
        for k in range(bins)
        if (index == k).any()
    ]


def calibration_error(curve: list[dict[str, float]]) -> float:
    """Give the mean distance of estimated and true IoU over the bins of :func:`calibration`, each weighted by its n; NaN for no bin."""
    total = sum(row["n"] for row in curve)
    return sum(row["n"] * abs(row["quality"] - row["iou"]) for row in curve) / total if total else float("nan")


def _draws(images: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Draw whole images with replacement: (images,) how often each counts, once per resample; nothing for no image."""
    random = np.random.default_rng(seed)
    for _ in range(resamples if images else 0):
        yield np.bincount(random.integers(0, images, images), minlength=images).astype(np.float64)


def _percentiles(samples: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Give the 2.5 and 97.5 percentile of each name over the (R,) samples in which it is a number; empty for no sample."""
    result = {}
    for name in samples[0] if samples else ():
        values = np.array([sample[name] for sample in samples])
        if not np.isnan(values).all():
            low, high = np.nanpercentile(values, [2.5, 97.5])
            result[name] = (float(low), float(high))
    return result


def _ranks(values: FloatArray) -> FloatArray:
    """Give the rank from 0 of each of (N,) values, equal ones their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse], np.float64)
