"""Choose which instances to show, out of any number, in bounded memory: the worst, some around the median, the best."""

from __future__ import annotations

import zlib
from collections import defaultdict
from typing import NamedTuple

WORST, MEDIAN, BEST = 100, 50, 50
BINS = 100
"""Of values in [0, 1]; each keeps at most ``MEDIAN`` candidates for the middle."""
SLACK = 4
"""A list grows to this many times what is kept of it before it is cut: sorting once in a while costs less than a heap."""


class Key(NamedTuple):
    """Where an instance is: the record, and the ordinals of its prediction and its truth (-1 for none)."""

    record: int
    predicted: int
    truth: int


class Pick(NamedTuple):
    """A chosen instance: its group (worst, median, best), its value and where it is."""

    group: str
    value: float
    key: Key


class Picks:
    """Takes values in [0, 1] one by one, in any number; the choice depends on the values and keys alone, not on the order they come in."""

    def __init__(self) -> None:
        self.count = 0
        self._all: list[tuple[float, Key]] = []
        self._worst: list[tuple[float, Key]] = []
        self._best: list[tuple[float, Key]] = []
        self._bins: dict[int, list[tuple[int, float, Key]]] = defaultdict(list)
        self._counts = [0] * BINS

    def add(self, value: float, key: Key) -> None:
        """Take one instance into account."""
        self.count += 1
        if self.count <= WORST + MEDIAN + BEST:
            self._all.append((value, key))
        self._worst.append((value, key))
        if len(self._worst) > SLACK * WORST:
            self._worst = sorted(self._worst)[:WORST]
        self._best.append((-value, key))
        if len(self._best) > SLACK * BEST:
            self._best = sorted(self._best)[:BEST]
        at = min(max(int(value * BINS), 0), BINS - 1)
        self._counts[at] += 1
        held = self._bins[at]
        held.append((zlib.crc32(repr(tuple(key)).encode()), value, key))  # a sample that no order of files can bias
        if len(held) > SLACK * MEDIAN:
            self._bins[at] = sorted(held)[:MEDIAN]

    def chosen(self) -> list[Pick]:
        """Give the choice, the worst first; all instances, where there are few: a half as worst, a quarter each as median and best."""
        worst = sorted(self._worst)[: min(WORST, (self.count + 1) // 2)]
        best = [(-value, key) for value, key in sorted(self._best)[: min(BEST, self.count // 4)]]
        taken = {key for _, key in worst + best}
        if self.count <= WORST + MEDIAN + BEST:
            middle = [one for one in self._all if one[1] not in taken]
        else:
            centre = self._median()
            held = [(value, key) for entries in self._bins.values() for _, value, key in sorted(entries)[:MEDIAN] if key not in taken]
            middle = sorted(held, key=lambda one: (abs(one[0] - centre), one[1]))[:MEDIAN]
        groups = (("worst", worst), ("median", middle), ("best", best))
        return [Pick(group, value, key) for group, ones in groups for value, key in sorted(ones)]

    def _median(self) -> float:
        seen = 0
        for at, count in enumerate(self._counts):
            seen += count
            if 2 * seen >= self.count:
                return (at + 0.5) / BINS
        return 0.5
