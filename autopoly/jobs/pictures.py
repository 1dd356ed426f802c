"""Write pictures that came inside a dataset (Parquet) as files, so that the names in a COCO result have files."""

from __future__ import annotations

import os
from pathlib import Path

from autopoly.errors import DataError
from autopoly.types import Record


def write(folder: Path, record: Record) -> None:
    """Write the record's encoded picture under its own name, unchanged; raise DataError for a name that leaves the folder."""
    target = Path(os.path.normpath(folder / record.file_name))
    if not record.file_name or folder not in target.parents:
        raise DataError(f"image {record.image_id}: {record.file_name!r} is no name for a file; run without --write-images")
    if record.data is None or (target.is_file() and target.stat().st_size == len(record.data)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside.write_bytes(record.data)
    os.replace(aside, target)
