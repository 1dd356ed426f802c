"""Put the parts of a run back onto its source: stream the source again, one part in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autopoly.errors import Failure, RunError
from autopoly.execute.parts import part_path
from autopoly.execute.shards import Shard
from autopoly.jobs.conversion import part_rows
from autopoly.jobs.conversion.part_rows import Row
from autopoly.jobs.source import choose
from autopoly.types import Dataset, Id, Instance, Mask, Record, Rle, is_truth, mask_source_of

KEYS = ("images", "boxes", "predicted", "kept", "none", "below_min_quality", "skipped_crowd", "left_out_categories")
"""What is counted; ``none`` are boxes without a polygon, each with a row in failures.parquet. Those of a polygon that was estimated to be
worse than asked for are no failures: they are ``below_min_quality``."""
MASKLESS = "without_truth_mask"
TRUTHS = "truths"
"""Counted beside them: instances whose mask in the source can be measured against."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a run and the source they belong to. ``before`` is the result a retry improves, None for a whole run."""

    dataset: Dataset
    shards: Sequence[Shard]
    folder: Path
    mark: str
    categories: frozenset[Id] | None = None
    before: Dataset | None = None

    def rows(self, shard: Shard, polygons: bool = True) -> list[Row]:
        """Read the rows of a shard, ``polygons`` with them or not; a retry has no parts for shards without failures."""
        path = part_path(self.folder, shard.number, self.mark)
        if self.before is not None and not path.exists():
            return []
        return part_rows.decode(path, self.mark, polygons)


@dataclass(slots=True)
class Tally:
    """Counts of one pass over the result."""

    counts: Counter[str] = field(default_factory=Counter)


def records(parts: Parts, tally: Tally | None = None) -> Iterator[Record]:
    """Give every record of the run with its polygons, in source order; what the source said of crowd regions stays as it was.

    Raise RunError for a part that is damaged or lacks an annotation.
    """
    place = 0
    for shard in parts.shards:
        rows = {row.ordinal: row for row in parts.rows(shard) if row.ordinal is not None}
        for number in range(shard.start, shard.stop):
            whole = parts.dataset.record(number, picture=False)
            record = choose(whole, parts.categories)
            old, place = _before(parts.before, place, record)
            instances = tuple(
                _filled(one, rows.get(one.ordinal), None if old is None else old.instances[at], parts, shard)
                for at, one in enumerate(record.instances)
            )
            decoded = (row.size for one in instances if (row := rows.get(one.ordinal)) and row.size)
            size = record.size or next(decoded, None if old is None else old.size)
            if tally is not None:
                _count(tally.counts, instances, len(whole.instances))
                tally.counts[TRUTHS] += sum(map(is_truth, record.instances))
                tally.counts[MASKLESS] += sum(one.mask is None and not one.crowd for one in record.instances)
            yield replace(record, instances=instances, size=size)


def failures(parts: Parts) -> Iterator[Failure]:
    """Give every failure of the run, in source order."""
    for shard in parts.shards:
        for row in parts.rows(shard, polygons=False):
            failure = row.failure()
            if failure is not None:
                yield failure


def _filled(one: Instance, row: Row | None, old: Instance | None, parts: Parts, shard: Shard) -> Instance:
    if one.crowd:
        return one
    if row is not None and row.instance_id != part_rows.text_of(one.instance_id):
        path = part_path(parts.folder, shard.number, parts.mark)
        raise RunError(f"{path}: is of another source, which changed; run again with --overwrite")
    if row is None:
        if old is None:
            path = part_path(parts.folder, shard.number, parts.mark)
            raise RunError(f"{path}: has nothing on annotation {one.instance_id}; delete it and run again")
        source = mask_source_of(old) or ("none" if old.mask is None else "predicted")
        if source == "kept":
            return replace(one, mask_source="kept")
        if source == "predicted" and isinstance(old.mask, Rle):
            # Run lengths do not have the polygon's own box: the annotation stays as it was written.
            return replace(one, mask=old.mask, quality=old.quality, extra=old.extra)
        return replace(one, mask=old.mask if source == "predicted" else None, quality=old.quality, mask_source=source)
    if row.mask_source == "kept":
        return replace(one, mask_source="kept")
    mask: Mask | None = row.polygons if row.mask_source == "predicted" else None
    return replace(one, mask=mask, quality=row.quality, mask_source=row.mask_source)


def _before(dataset: Dataset | None, place: int, record: Record) -> tuple[Record | None, int]:
    """Give the record at ``place`` in the finished result, and the place of the next; raise RunError where it is of other annotations."""
    if dataset is None:
        return None, place
    old = dataset.record(place, picture=False) if place < len(dataset.counts) else None
    if not (record.listed or record.instances) and (old is None or str(old.image_id) != str(record.image_id)):
        return None, place  # Neither an image nor a box told the writer of it.
    if old is None or _names(old) != _names(record):
        raise RunError(f"image {record.image_id}: the finished result does not match the source; run again with --overwrite")
    return old, place + 1


def _names(record: Record) -> list[str]:
    """Give the ids of the instances; those without one are called by their place, which is another in a result with fewer categories."""
    return ["" if (name := str(one.instance_id)).startswith("#") else name for one in record.instances]


def _count(counts: Counter[str], instances: Sequence[Instance], boxes: int) -> None:
    counts["images"] += 1
    counts["boxes"] += len(instances)
    counts["left_out_categories"] += boxes - len(instances)
    for one in instances:
        source = mask_source_of(one)
        below = source == "none" and one.quality is not None
        counts["skipped_crowd" if one.crowd else "below_min_quality" if below else f"{source}"] += 1
