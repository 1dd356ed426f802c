"""Which rows of Parquet annotations are of one image, and what an image is called whose id is another's, or that has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autopoly.types import Id

NONE = -1
"""Stands for an id or a name that is not there: Python's hash of a text is never -1."""
SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no two ids become one when they are multiplied by it."""


@dataclass(frozen=True, slots=True, eq=False)
class NewIds:
    """``rank`` (N,) of each image: 0 where it keeps its id, else how many got a new one so far; they count on from ``top``."""

    rank: NDArray[np.int64]
    top: int
    text: bool

    def of(self, record: int) -> Id | None:
        """Give the new id of a record, None where it has one of its own."""
        number = int(self.rank[record])
        if not number:
            return None
        return str(self.top + number) if self.text else self.top + number


class RowKeys:
    """The image ids and file names of rows as hashes, 16 bytes a row: there may be many millions."""

    def __init__(self) -> None:
        self._ids: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._names: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._top, self._text = 0, False

    def add(self, ids: pa.Array, names: pa.Array) -> None:
        """Note the ids and file names of the next rows."""
        found, given = _hashed(ids)
        self._ids.append(found)
        self._names.append(_hashed(names, but="")[0])
        self._top = max([self._top, *map(_number, given)])
        self._text = self._text or not all(isinstance(one, int) for one in given)

    def owners(self, starts: NDArray[np.int64], picture_of: Callable[[int], bytes | None]) -> NDArray[np.int64]:
        """Give the number of each row's image (N,), in the order they are met.

        Rows are of one image where id and file name are the same; a row without name joins the one image that has its id, where there is
        one. Where an id without any name comes back after other rows, or in another file (``starts``: its first row), the embedded
        pictures tell. A row without either is an image of its own.
        """
        ids, names = np.concatenate(self._ids), np.concatenate(self._names)
        nameless = (names == NONE) & (ids != NONE)
        if nameless.any():
            dense = np.unique(ids, return_inverse=True)[1]
            _name_by_picture(dense, names, nameless & ~np.isin(ids, ids[names != NONE]), starts, picture_of)
            _join_nameless(dense, names, nameless)
        keys = ids.view(np.uint64) * SPREAD ^ names.view(np.uint64)
        alone = (names == NONE) & (ids == NONE)
        keys[alone] = np.flatnonzero(alone)
        _, first, found = np.unique(keys, return_index=True, return_inverse=True)
        return np.asarray(np.argsort(np.argsort(first))[found])

    def new_ids(self, rows: NDArray[np.int64] | slice) -> tuple[NewIds, list[str]]:
        """Find images that have no id, or that of an earlier one; ``rows`` is the first row of each. Say so where others have ids."""
        ids = np.concatenate(self._ids)[rows]
        again = np.ones(len(ids), dtype=bool)
        again[np.unique(ids, return_index=True)[1]] = False
        again |= ids == NONE
        count, notes = int(again.sum()), []
        if count and (ids != NONE).any():
            notes.append(f"{count} images have the id of another picture, or none: they are numbered from {self._top + 1}")
        return NewIds(np.cumsum(again) * again, self._top, self._text), notes


def _name_by_picture(
    ids: NDArray[np.int64],
    names: NDArray[np.int64],
    bare: NDArray[np.bool_],
    starts: NDArray[np.int64],
    picture_of: Callable[[int], bytes | None],
) -> None:
    """Name the ``bare`` rows whose id comes back by their embedded pictures: one is read for each run of rows."""
    begins = np.append(True, ids[1:] != ids[:-1])
    begins[starts[starts < len(ids)]] = True
    first = np.flatnonzero(begins)
    asked = bare[first] & (np.bincount(ids[first]) > 1)[ids[first]]
    named = np.full(len(first), NONE, np.int64)
    for run in np.flatnonzero(asked).tolist():
        picture = picture_of(int(first[run]))
        named[run] = NONE if picture is None else hash(picture)
    run_of = np.cumsum(begins) - 1
    names[bare] = named[run_of[bare]]


def _join_nameless(ids: NDArray[np.int64], names: NDArray[np.int64], nameless: NDArray[np.bool_]) -> None:
    """Give rows without a name that of their id, where all other rows of the id have one name."""
    own, told = ids[names != NONE], names[names != NONE]
    least = np.full(int(ids.max()) + 1, np.iinfo(np.int64).max)
    most = np.full(len(least), np.iinfo(np.int64).min)
    np.minimum.at(least, own, told)
    np.maximum.at(most, own, told)
    joins = nameless & (names == NONE) & (least == most)[ids]
    names[joins] = least[ids[joins]]


def _hashed(column: pa.Array, but: Any = None) -> tuple[NDArray[np.int64], list[Any]]:
    """Give a hash for each row, NONE for null, NaN and ``but``, and the different values that were hashed."""
    encoded = column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    there = [one is not None and one == one and one != but for one in values]
    hashes = np.array([hash(str(one)) if held else NONE for one, held in zip(values, there, strict=True)] + [NONE], dtype=np.int64)
    places = pc.fill_null(encoded.indices.cast(pa.int64()), len(values)).to_numpy(zero_copy_only=False)
    return hashes[places], list(compress(values, there))


def _number(one: Any) -> int:
    """Give the whole number that an id is or is written as, 0 for any other."""
    if isinstance(one, str):
        return int(one) if one.isascii() and one.isdigit() and len(one) < 20 else 0
    return int(one) if isinstance(one, int | float) and abs(one) < 1 << 64 else 0
