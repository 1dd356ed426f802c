"""Collect what the charts show while instances pass by: counts in bins, never the instances themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autopoly.jobs.scoring.scoreboard import Table
from autopoly.report.picks import Key, Picks
from autopoly.types import Dataset, Instance, mask_source_of

BINS = 20
FINE = 200
"""Bins from which medians and quartiles are read."""
EDGES = (0, 16, 32, 64, 128, 256)
"""Classes of box size: the shorter side, px, from here to the next."""
UNUSED = 40
"""Boxes without a polygon that are kept to be shown."""


@dataclass(slots=True)
class Survey:
    """Values in [0, 1] (IoU, or its estimate) of instances: how they spread, over categories and box sizes, and which to show."""

    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(EDGES), FINE), np.int64))
    categories: dict[str, list[float]] = field(default_factory=dict)
    """Count and sum of values by category id, as text."""
    picks: Picks = field(default_factory=Picks)
    without: list[Key] = field(default_factory=list)
    """The first instances without a polygon."""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def n(self) -> int:
        """Count the values."""
        return int(self.histogram.sum())

    @property
    def mean(self) -> float | None:
        """Average the values; None where there are none."""
        return sum(total for _, total in self.categories.values()) / self.n if self.n else None

    def add(self, value: float, category: str, side: float, key: Key | None) -> None:
        """Take one instance into account; without a key it is counted, not shown. ``side`` is the box's shorter, px."""
        self.histogram[_bin(value, BINS)] += 1
        if side > 0:  # NaN is not
            self.sizes[np.searchsorted(EDGES, side, "right") - 1, _bin(value, FINE)] += 1
        entry = self.categories.setdefault(category, [0, 0.0])
        entry[0] += 1
        entry[1] += value
        if key is not None:
            self.picks.add(value, key)

    def quantiles(self, size: int) -> tuple[int, float, float, float]:
        """Give the count, and the quartiles, of the values of a size class; zeros where it is empty."""
        row = self.sizes[size]
        total = int(row.sum())
        if not total:
            return 0, 0.0, 0.0, 0.0
        low, middle, high = ((np.searchsorted(np.cumsum(row), share * total) + 0.5) / FINE for share in (0.25, 0.5, 0.75))
        return total, float(low), float(middle), float(high)

    def below(self, value: float) -> int:
        """Count the values below a multiple of 1 / ``BINS``."""
        return int(self.histogram[: round(value * BINS)].sum())


def of_table(table: Table, min_side: float) -> Survey:
    """Survey the IoU of measured truths; those without a prediction count as 0."""
    survey = Survey()
    for row in table.rows:
        if row.side < min_side:
            continue
        key = Key(row.image, row.predicted_at, row.truth_at)
        survey.add(row.iou, str(row.category_id), row.side, None if row.missing else key)
        if row.missing and len(survey.without) < UNUSED:
            survey.without.append(key)
    return survey


def of_result(result: Dataset, measured: Collection[int] = ()) -> Survey:
    """Survey the estimated quality of the polygons of a conversion; those in ``measured`` (by ordinal) are counted, not picked."""
    survey = Survey()
    for number in range(len(result.counts)):
        survey.counts["images"] += 1
        for one in result.record(number, picture=False).instances:
            survey.counts["boxes"] += 1
            source = "crowd" if one.crowd else source_of(one)
            survey.counts[source] += 1
            survey.counts["below"] += source == "none" and one.quality is not None
            if source == "predicted" and one.quality is not None:
                key = None if one.ordinal in measured else Key(number, one.ordinal, -1)
                survey.add(one.quality, str(one.category_id), side_of(one), key)
            elif source == "none" and len(survey.without) < UNUSED:
                survey.without.append(Key(number, one.ordinal, -1))
    return survey


def source_of(one: Instance) -> str:
    """Say where the polygon of a converted instance comes from: predicted, kept, or none."""
    return mask_source_of(one) or ("predicted" if one.mask else "none")


def side_of(one: Instance) -> float:
    """Give the shorter side of the box, px; NaN where it has none."""
    return float(min(one.box[2] - one.box[0], one.box[3] - one.box[1]))


def _bin(value: float, bins: int) -> int:
    return min(max(int(value * bins), 0), bins - 1)
