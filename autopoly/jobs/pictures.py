"""Write pictures that came inside a dataset (Parquet) as files, so that the names in a COCO result have files."""

from __future__ import annotations

import os
from pathlib import Path

from autopoly.errors import DataError
from autopoly.execute import parts
from autopoly.types import Record


def write(folder: Path, record: Record, scratch: Path) -> None:
    """Write the record's encoded picture under its own name, unchanged; it is put together in the folder ``scratch``.

    Raise DataError for a name that leaves the folder, RunError where it cannot be written.
    """
    target = Path(os.path.normpath(folder / record.file_name))
    if not record.file_name or folder not in target.parents:
        raise DataError(f"image {record.image_id}: {record.file_name!r} is no name for a file; run without --write-images")
    if record.data is None or (target.is_file() and target.stat().st_size == len(record.data)):
        return
    with parts.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    parts.commit(target, record.data, durable=False, scratch=scratch)
