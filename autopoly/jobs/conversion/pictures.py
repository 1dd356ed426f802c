"""Write pictures that came inside a dataset (Parquet) as files, so that the names in a COCO result have files."""

from __future__ import annotations

import os
from pathlib import Path

from autopoly.errors import Problem
from autopoly.execute import parts
from autopoly.types import Record

LONGEST, LONGEST_PATH = 220, 3500
"""Bytes of a name, and characters of a path."""


def write(folder: Path, record: Record, scratch: Path) -> Problem | None:
    """Write the record's encoded picture under its own name, unchanged; it is put together in the folder ``scratch``.

    Give a Problem where its name can be no file's; raise RunError where the machine refuses.
    """
    target = Path(os.path.normpath(folder / record.file_name))
    steps = target.relative_to(folder).parts if folder in target.parents else ()
    # A name may also be one that another picture has taken for a folder, or the other way round.
    taken = any(target.parents[up].is_file() for up in range(len(steps) - 1)) or (bool(steps) and _fits(target) and target.is_dir())
    if not steps or not _fits(target) or taken:
        return Problem("image_not_written", f"{record.file_name!r} is no name for a file; run without --write-images")
    if record.data is None:
        return None
    if target.is_file():
        same = target.stat().st_size == len(record.data) and target.read_bytes() == record.data
        return None if same else Problem("image_not_written", f"{record.file_name!r} is another picture's name too; give each its own")
    with parts.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    parts.commit(target, record.data, durable=False, scratch=scratch)
    return None


def _fits(target: Path) -> bool:
    try:
        encoded = [os.fsencode(step) for step in target.parts]
    except UnicodeEncodeError:
        return False
    # Aside, a file's name grows by the number of a process.
    return "\0" not in str(target) and all(len(step) <= LONGEST for step in encoded) and len(str(target)) < LONGEST_PATH
