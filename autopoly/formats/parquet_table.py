"""Rows of one or more Parquet files by number, without holding them all: the columns asked for, and encoded pictures one at a time.

Times come to the microsecond, which is as fine as Python's own.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autopoly.errors import DataError
from autopoly.storage import explain, source_of

KEPT, KEPT_BYTES = 6, 256 << 20
"""Row groups kept decoded, without pictures: so many always, more of them up to so many bytes. Rows not sorted by image need them all."""
GROUP_BYTES = 10_000
"""What holding a row group costs beside its values."""
OPEN = 32
"""Files kept open: a process may have a thousand or so, and a dataset more shards."""
PICTURES = 8
"""Rows whose pictures are decoded together."""
CURSORS = 3
"""Readers of pictures at different places: two shards at work, and one more."""
MOST_ROWS, MOST_VALUES = 20_000_000, 200_000_000
"""Of one row group: rows, and values of a column (a list has several a row). Writers make groups of a million rows or fewer."""


@dataclass(slots=True, eq=False)
class _Cursor:
    """Where a reader of a row group's pictures is: those ``held`` begin with row ``first`` of the group."""

    group: int
    batches: Iterator[list[bytes | None]]
    first: int = 0
    held: list[bytes | None] = field(default_factory=list)


class Table:
    """All rows of files of one schema, numbered through; ``picture`` is the column with encoded pictures, which ``rows`` leaves out."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the files' footers; raise DataError for a file that is no Parquet or has other columns than the first."""
        self.paths = list(files)
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._footers: list[pq.FileMetaData] = []
        self.schemas: list[pa.Schema] = []
        """Of each file, since writers differ in how they nest lists; equal ones are one object."""
        known: dict[bytes, pa.Schema] = {}
        for number, path in enumerate(files):
            file = self._file(number)
            self._footers.append(file.metadata)
            schema: pa.Schema = file.schema_arrow
            self.schemas.append(known.setdefault(schema.serialize().to_pybytes(), schema))
            if set(schema.names) != set(self.schemas[0].names):
                raise DataError(f"{path}: other columns than {files[0].name}; a folder must hold files of one kind")
        self._groups = [(number, group) for number, footer in enumerate(self._footers) for group in range(footer.num_row_groups)]
        sizes = [self._footers[number].row_group(group).num_rows for number, group in self._groups]
        self._stops = np.cumsum([0, *sizes])
        self.starts = np.cumsum([0, *(footer.num_rows for footer in self._footers)])[:-1]
        """The first row of each file."""
        self.picture: tuple[str, bool] | None = None
        self._decoded: OrderedDict[int, pa.Table] = OrderedDict()
        self._decoded_bytes = 0
        self._cursors: list[_Cursor] = []
        self._lock = threading.Lock()

    def where(self, row: int) -> str:
        """Name a row for a person: its file and its number there, from 0."""
        number = self._groups[int(np.searchsorted(self._stops, row, side="right")) - 1][0]
        return f"{self.paths[number]}: row {row - int(self.starts[number])}"

    def scan(self, choose: Callable[[list[str]], list[str]]) -> Iterator[pa.Table]:
        """Give some columns of every row group in turn: those that ``choose`` takes of a file's leaves."""
        for number, group in self._groups:
            yield self._read(number, group, choose(self._leaves(number)))

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Give rows as dicts, in the order asked for, without their pictures."""
        groups = np.searchsorted(self._stops, numbers, side="right") - 1
        given: list[dict[str, Any]] = [{}] * len(numbers)
        for group in dict.fromkeys(groups.tolist()):
            places = np.flatnonzero(groups == group)
            local = np.asarray(numbers, dtype=np.int64)[places] - self._stops[group]
            try:
                taken = self._group(group).take(pa.array(local)).to_pylist()
            except (ValueError, OverflowError, IndexError, pa.ArrowException) as error:
                raise DataError(
                    f"{self.where(int(numbers[int(places[0])]))}: cannot be read ({_said(error)}); copy the file again"
                ) from error
            for place, row in zip(places.tolist(), taken, strict=True):
                given[place] = row
        return given

    def has_picture(self, row: int) -> bool | None:
        """Say whether a row has a picture; None where its row group has both kinds, or does not tell."""
        if self.picture is None:
            return False
        number, inside = self._groups[int(np.searchsorted(self._stops, row, side="right")) - 1]
        group = self._footers[number].row_group(inside)
        told = group.column(self._leaves(number).index(self._heavy())).statistics
        if told is None or not told.has_null_count or told.null_count not in (0, group.num_rows):
            return None
        return bool(told.null_count == 0)

    def picture_of(self, row: int) -> bytes | None:
        """Give the encoded picture of a row, None where it has none.

        Rows asked for in order cost one pass over the file, by several readers at different places (``CURSORS``) one each.
        """
        if self.picture is None:
            return None
        with self._lock:
            group = int(np.searchsorted(self._stops, row, side="right")) - 1
            local = row - int(self._stops[group])
            # The one that has come nearest; else begin anew, in the place of the one that has rested longest.
            near = max((one for one in self._cursors if one.group == group and one.first <= local), key=lambda one: one.first, default=None)
            cursor = near or _Cursor(group, self._pictures(group))
            self._cursors = [*[one for one in self._cursors if one is not cursor][1 - CURSORS :], cursor]
            try:
                while local >= cursor.first + len(cursor.held):
                    cursor.first += len(cursor.held)
                    cursor.held = next(cursor.batches)
            except (OSError, StopIteration, pa.ArrowException) as error:
                self._cursors.remove(cursor)
                file = self.paths[self._groups[group][0]]
                raise _refusal(file, error, f"row {row - int(self.starts[self._groups[group][0]])}: its picture is damaged") from error
            return cursor.held[local - cursor.first]

    def _pictures(self, group: int) -> Iterator[list[bytes | None]]:
        number, inside = self._groups[group]
        assert self.picture is not None
        leaf, is_struct = self._heavy(), self.picture[1]
        for batch in self._file(number).iter_batches(batch_size=PICTURES, row_groups=[inside], columns=[leaf], use_threads=False):
            values = batch.column(0).to_pylist()
            yield [None if one is None else one["bytes"] for one in values] if is_struct else values

    def _group(self, group: int) -> pa.Table:
        with self._lock:
            if group not in self._decoded:
                number, inside = self._groups[group]
                self._decoded[group] = self._read(number, inside, self._light(number)).combine_chunks()
                self._decoded_bytes += self._decoded[group].nbytes + GROUP_BYTES
                while len(self._decoded) > KEPT and self._decoded_bytes > KEPT_BYTES:
                    self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes + GROUP_BYTES
            self._decoded.move_to_end(group)
            return self._decoded[group]

    def _light(self, number: int) -> list[str]:
        """Give the leaves of all columns of a file but the pictures."""
        return [leaf for leaf in self._leaves(number) if self.picture is None or leaf != self._heavy()]

    def _heavy(self) -> str:
        assert self.picture is not None
        name, is_struct = self.picture
        return f"{name}.bytes" if is_struct else name

    def _leaves(self, number: int) -> list[str]:
        schema = self._footers[number].schema
        return [schema.column(place).path for place in range(len(schema))]

    def _read(self, number: int, group: int, columns: Sequence[str]) -> pa.Table:
        try:
            table = self._file(number).read_row_group(group, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _refusal(self.paths[number], error, "damaged") from error
        wanted = pa.schema([one.with_type(_to_microseconds(one.type)) for one in table.schema])
        return table if wanted.equals(table.schema) else table.cast(wanted, safe=False)

    def _file(self, number: int) -> pq.ParquetFile:
        """Open a file, or take one of those that are; its footer is read once."""
        file = self._open.pop(number, None)
        if file is None and number < len(self._footers):
            file = pq.ParquetFile(source_of(self.paths[number]), metadata=self._footers[number])
        # What falls out is closed once nobody reads it any more.
        self._open[number] = file or _open(self.paths[number])
        if len(self._open) > OPEN:
            self._open.popitem(last=False)
        return self._open[number]


def _to_microseconds(kind: pa.DataType) -> pa.DataType:
    """Give the type with times that Python can hold instead of those in nanoseconds, also inside lists and structs."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(_to_microseconds(one.type)) for one in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_to_microseconds(kind.value_type)))
    return kind


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or "it ends too soon"


def _refusal(path: Path, error: BaseException, otherwise: str) -> DataError:
    """Say why a file cannot be read: what the machine says, where that is the reason, and not the file."""
    explain(path, error)
    if isinstance(error, OSError) and error.errno:
        return DataError(
            f"{path}: cannot be read ({os.strerror(error.errno)}); check its permissions and the limit of open files (ulimit -n)"
        )
    return DataError(f"{path}: {otherwise} ({_said(error)}); copy it again")


def _check_groups(path: Path, file: pq.ParquetFile) -> None:
    """Raise DataError for a row group that cannot be held: a few bytes can stand for any number of equal values."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        most = max((group.column(column).num_values for column in range(group.num_columns)), default=0)
        if not 0 <= group.num_rows <= MOST_ROWS or not 0 <= most <= MOST_VALUES:
            line = f"a row group of {group.num_rows:,} rows and {most:,} values is larger than is read"
            raise DataError(f"{path}: {line}; write it again with row groups of a million rows, if it is not damaged")


def _open(file: Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(source_of(file))
        # Both are made of the footer when they are asked for, and fail then.
        names = [*opened.schema_arrow.names, *(opened.schema.column(number).path for number in range(len(opened.schema)))]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _refusal(file, error, "not a Parquet file, or cut off") from error
    if len(set(opened.schema_arrow.names)) < len(opened.schema_arrow.names) or not names:
        raise DataError(f"{file}: two columns have one name, or there is none; write it again with names of their own")
    _check_groups(file, opened)
    return opened
