"""Read the failures of a run for its report: all are counted, some are listed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from autopoly.report.gallery import clip
from autopoly.storage import source_of

LISTED = 300
LONGEST = 300
"""Characters of a message that are shown."""
CODES = 50


@dataclass(frozen=True, slots=True)
class Reason:
    """A stable code, how often it occurred, and one of its messages."""

    code: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A box without a polygon, or an image that cannot be used (``name`` empty)."""

    image: str
    name: str
    file: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Failures:
    """All failures by reason, most frequent first, and the first ``LISTED`` of them."""

    count: int
    reasons: tuple[Reason, ...]
    listed: tuple[Failed, ...]


def of_run(path: Path) -> Failures:
    """Read ``failures.parquet`` as a stream."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    listed: list[Failed] = []
    for batch in pq.ParquetFile(source_of(path)).iter_batches():
        for row in batch.to_pylist():
            code, message = clip(row["code"]), clip(row["message"], LONGEST)
            counts[code] += 1
            examples.setdefault(code, message)
            if len(listed) < LISTED:
                listed.append(Failed(clip(row["image_id"]), clip(row["annotation_id"] or ""), clip(row["file"]), code, message))
    return _failures(counts, examples, listed)


def of_score(reasons: dict[str, int], missing: list[dict[str, object]]) -> Failures:
    """Give the truths without a prediction, from a score's ``missing_reasons`` and ``missing_ids``."""
    listed = [Failed(clip(one["image_id"]), clip(one["id"]), "", clip(one["reason"]), "") for one in missing[:LISTED]]
    return _failures(Counter(reasons), {}, listed)


def _failures(counts: Counter[str], examples: dict[str, str], listed: list[Failed]) -> Failures:
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:CODES]
    return Failures(sum(counts.values()), tuple(Reason(code, count, examples.get(code, "")) for code, count in ordered), tuple(listed))
