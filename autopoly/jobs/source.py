"""Open what is to be converted, the same way in the driver and in every worker, and choose what of it counts."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autopoly import formats
from autopoly.errors import DataError
from autopoly.execute.parts import file_digest
from autopoly.storage import ObjectPath, explain, place
from autopoly.types import Dataset, Header, Id, Record

HASHED_WHOLE = 1 << 30
PICTURES = {".png"}
"""Masks: a tree of ADE20K has a million."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a dataset is and how to read it: travels to workers, which open it for themselves."""

    path: Path
    format: str
    images: Path | None = None
    bbox_format: str | None = None

    def open(self) -> Dataset:
        """Read the annotations; pixels stay on disk. Raise DataError for what cannot be read."""
        dataset: Dataset = formats.FORMATS[self.format].read(self.path, images=self.images, bbox_format=self.bbox_format)
        return dataset


def locate(path: Path, format_name: str | None, images: Path | None, bbox_format: str | None) -> Source:
    """Find out what format a source has, where the user did not say; raise DataError in one line."""
    path, images = place(path), None if images is None else place(images)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check SOURCE")
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder of pictures; check --images")
    name = format_name or formats.detect(path)
    if name not in formats.FORMATS:
        raise DataError(f"--from {name}: unknown format; expected one of {', '.join(formats.FORMATS)}")
    if isinstance(path, ObjectPath) and name not in formats.REMOTE:
        known = " and ".join(formats.REMOTE)
        raise DataError(f"{path}: {name} is read from file systems only ({known} from object stores too); copy it to a folder first")
    return Source(path.resolve(), name, images.resolve() if images else None, bbox_format)


def digest(path: Path, dataset: Dataset) -> str:
    """Hash what was read of the source at ``path``: its annotation file, or each of several by name and content, and the boxes per record.

    Masks that are pictures, and files beyond 1 GiB, count by size and time of change. Photos do not count.
    """
    if len(dataset.files) == 1:
        return _mark(dataset.files[0])
    state = hashlib.blake2b(np.asarray(dataset.counts, dtype=np.int64).tobytes(), digest_size=16)
    for file in dataset.files:
        state.update(f"{os.path.relpath(str(file), str(path))}\n{_mark(file)}\n".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def category_ids(header: Header, wanted: Collection[str]) -> frozenset[Id] | None:
    """Find the ids of categories given by name or id; None (all) where none is given; DataError for one the dataset does not have."""
    if not wanted:
        return None
    found: set[Id] = set()
    for text in wanted:
        hits = {category.category_id for category in header.categories if text in (category.name, str(category.category_id))}
        if not hits:
            names = [category.name for category in header.categories]
            near = difflib.get_close_matches(text, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
            raise DataError(f"--categories {text}: the dataset has no such category; {hint}")
        found |= hits
    return frozenset(found)


def choose(record: Record, categories: frozenset[Id] | None) -> Record:
    """Give the record with the instances of these categories alone (None: all of them)."""
    if categories is None:
        return record
    return replace(record, instances=tuple(one for one in record.instances if one.category_id in categories))


def _mark(path: Path) -> str:
    if isinstance(path, ObjectPath):
        found = path.info()
        size, changed = found.size, found.mtime_ns
    else:
        status = path.stat()
        size, changed = status.st_size, status.st_mtime_ns
    if size > HASHED_WHOLE or path.suffix.lower() in PICTURES:
        return f"{size}-{changed}"
    try:
        return file_digest(path)
    except OSError as error:
        if isinstance(path, ObjectPath):
            explain(path, error)
        raise
