"""Cut a dataset into shards: numbered, contiguous runs of whole records, decided by the dataset alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

BOXES_LEAST = 64
BOXES_MOST = 4096
SHARDS_WANTED = 512
RECORDS_MOST = 4096


@dataclass(frozen=True, slots=True)
class Shard:
    """Records ``start`` (inclusive) to ``stop`` (exclusive) of a dataset, with the number of boxes they hold."""

    number: int
    start: int
    stop: int
    boxes: int


@dataclass(frozen=True, slots=True)
class Poison:
    """A record that took its worker down, or never came back, and is left out; ``code`` is stable, ``message`` one line."""

    record: int
    code: str
    message: str


class Worker(Protocol):
    """What a job gives to ``run``: lives in one process, loads what it needs once, and handles shards."""

    def process(self, shard: Shard, records: Sequence[int] | None = None, poison: Sequence[Poison] = ()) -> Mapping[str, int]:
        """Run a shard without its ``poison`` records, commit its part, return counts.

        With ``records``, run those alone to see whether the process survives them, and commit nothing. May be called for several shards
        at once, each in a thread of its own: what a worker computes must not depend on it.
        """
        ...

    def stop(self) -> None:
        """Give up the shards at work, in whatever thread, as soon as can be, by any exception: nobody waits for them."""
        ...


class MakeWorker(Protocol):
    """Build a worker that may use so many threads. Called once in each process, so it travels by pickle: a function or ``partial``."""

    def __call__(self, threads: int) -> Worker:
        """Load what the worker needs; an AutopolyError raised here stops the run."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A shard whose part is durable: what the worker counted, and the records that had to be left out."""

    shard: Shard
    counts: Mapping[str, int]
    poison: tuple[Poison, ...] = ()


def boxes_per_shard(total: int) -> int:
    """Give the boxes wanted in a shard of a dataset of ``total`` boxes: a 512th of it, between 64 and 4096."""
    return min(max(total // SHARDS_WANTED, BOXES_LEAST), BOXES_MOST)


def plan(counts: Sequence[int]) -> list[Shard]:
    """Cut a dataset with ``counts`` boxes per record into shards that cover every record once, in order.

    A shard closes when it holds enough boxes (or 4096 records, so that empty pictures do not pile up): one record with very many boxes
    is one shard, and none is ever split. No records give no shards.
    """
    return list(_cut(counts, boxes_per_shard(sum(counts))))


def _cut(counts: Sequence[int], wanted: int) -> Iterator[Shard]:
    number = start = boxes = 0
    for index, count in enumerate(counts):
        full = boxes + count > wanted or index - start >= RECORDS_MOST
        if index > start and full:
            yield Shard(number, start, index, boxes)
            number, start, boxes = number + 1, index, 0
        boxes += count
    if start < len(counts):
        yield Shard(number, start, len(counts), boxes)
