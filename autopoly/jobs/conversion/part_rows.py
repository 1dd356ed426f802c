"""The rows of a part: what became of each annotation, put back later by the ordinal it carries."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autopoly.errors import Failure, RunError, plain_line
from autopoly.storage import parquet_bytes
from autopoly.types import Id, Polygon

SCHEMA = pa.schema(
    [
        ("record", pa.int64()),
        ("ordinal", pa.int64()),
        ("image_id", pa.string()),
        ("instance_id", pa.string()),
        ("file", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask_source", pa.string()),
        ("quality", pa.float64()),
        ("polygons", pa.list_(pa.list_(pa.list_(pa.float64())))),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
FAILURES = pa.schema(
    [
        ("record_id", pa.int64()),
        ("image_id", pa.string()),
        ("annotation_id", pa.string()),
        ("file", pa.string()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)


@dataclass(slots=True)
class Row:
    """What became of one annotation, or (``ordinal`` None) why an image without annotations cannot be used.

    ``size`` is the decoded picture's (height, width), None where it was not decoded. ``code`` None means no failure.
    """

    record: int
    ordinal: int | None
    image_id: str
    instance_id: str | None
    file: str
    size: tuple[int, int] | None = None
    mask_source: Literal["predicted", "kept", "none"] = "none"
    quality: float | None = None
    polygons: tuple[Polygon, ...] = ()
    stage: str | None = None
    code: str | None = None
    message: str | None = None

    def fail(self, stage: str, code: str, message: str) -> None:
        """Make it a failure: no polygon, and why."""
        self.mask_source, self.polygons = "none", ()
        self.stage, self.code, self.message = stage, code, plain_line(message)

    def failure(self) -> Failure | None:
        """Give the row of ``failures.parquet``, or None where nothing failed."""
        if self.code is None:
            return None
        return Failure(self.record, self.image_id, self.instance_id, self.file, self.stage or "", self.code, self.message or "")


def text_of(name: Id) -> str:
    """Give an id as text that a table can hold: lone surrogates, which only JSON's escapes can carry, become question marks."""
    return str(name).encode("utf-8", "replace").decode()


def encode(rows: Sequence[Row], mark: str) -> bytes:
    """Put rows, and the fingerprint of the run they belong to, into the bytes of a Parquet file; the same rows give the same bytes."""
    table = pa.Table.from_pylist([_as_dict(row) for row in rows], schema=SCHEMA.with_metadata({"fingerprint": mark}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode(path: Path, mark: str, polygons: bool = True) -> list[Row]:
    """Read a part back, in the order written; raise RunError for one that is damaged or of another run.

    Without ``polygons`` they stay unread, which is most of the work, and the rows have none.
    """
    columns = None if polygons else [name for name in SCHEMA.names if name != "polygons"]
    try:
        # A part is small: threads would cost more than they save.
        table = pq.read_table(parquet_bytes(path), columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path}: damaged part ({' '.join(str(error).split())[:120]}); delete it and run again") from error
    if (table.schema.metadata or {}).get(b"fingerprint") != mark.encode():
        raise RunError(f"{path}: a part of another run; delete it and run again")
    return [_from_dict(row) for row in table.to_pylist()]


def write_failures(failures: Iterable[Failure], path: Path) -> dict[str, int]:
    """Write ``failures.parquet`` as a stream (also when there are none) and count its rows by code."""
    counts: dict[str, int] = {}
    with pq.ParquetWriter(path, FAILURES, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for failure in failures:
            counts[failure.code] = counts.get(failure.code, 0) + 1
            batch.append({name: getattr(failure, name) for name in FAILURES.names})
            if len(batch) == 10_000:
                writer.write_table(pa.Table.from_pylist(batch, schema=FAILURES))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=FAILURES))
    return dict(sorted(counts.items()))


def read_failures(path: Path) -> dict[int, set[str]]:
    """Give the annotation ids that failed, by record; an image-level row gives its record an empty set."""
    try:
        table = pq.read_table(parquet_bytes(path), columns=["record_id", "annotation_id"])
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); run again with --overwrite") from error
    failed: dict[int, set[str]] = {}
    for record, annotation in zip(table["record_id"].to_pylist(), table["annotation_id"].to_pylist(), strict=True):
        failed.setdefault(record, set()).update(() if annotation is None else (annotation,))
    return failed


def _as_dict(row: Row) -> dict[str, Any]:
    height, width = row.size or (None, None)
    rings = [[ring.ravel().tolist() for ring in polygon.rings] for polygon in row.polygons]
    values = {name: getattr(row, name) for name in SCHEMA.names if name not in ("height", "width", "polygons")}
    return values | {"height": height, "width": width, "polygons": rings}


def _from_dict(values: dict[str, Any]) -> Row:
    height, width = values.pop("height"), values.pop("width")
    shapes = [[np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings] for rings in values.pop("polygons", ())]
    polygons = tuple(Polygon(rings[0], tuple(rings[1:])) for rings in shapes)
    return Row(size=None if height is None else (height, width), polygons=polygons, **values)
