"""What is looked at when Parquet annotations are opened: which rows belong to which image, how many boxes, categories, box convention."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autopoly import images as pictures
from autopoly.errors import DataError
from autopoly.formats.base import guess_convention, is_id, is_number, outside_root, size_from
from autopoly.formats.parquet_images import NewIds, RowKeys
from autopoly.formats.parquet_layout import Layout, is_list
from autopoly.formats.parquet_table import KEPT_BYTES, Table
from autopoly.types import Category, Id, Record

SAMPLE = 5000
"""Boxes looked at to tell xywh from xyxy."""
PEEKED = 20
"""Pictures whose size is looked up for that, where no column tells."""


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Rows (N,) in record order with the stop of each record, boxes per record, and what the boxes and labels look like."""

    order: NDArray[np.int64] | None
    repeated: NDArray[np.bool_]
    """Of each record: whether its embedded picture has the name of an earlier one."""
    new_ids: NewIds
    stops: NDArray[np.int64]
    counts: NDArray[np.int64]
    categories: tuple[Category, ...]
    convention: str
    reason: str
    notes: tuple[str, ...]

    def rows_of(self, record: int) -> list[int]:
        """Give the row numbers of a record, in the order of the file."""
        if self.order is None:
            return [record]
        start = int(self.stops[record - 1]) if record else 0
        return [int(row) for row in self.order[start : int(self.stops[record])]]


def build(table: Table, layout: Layout, root: str) -> Index:
    """Go once over ids, labels and boxes, a row group at a time; raise DataError for lists of unequal length, with the row."""
    scan = _Scan(table, layout)
    for rows in table.scan(scan.chosen):
        scan.add(rows)
    convention, reason = guess_convention(*scan.sample(root))
    order, stops, counts, notes = scan.grouped()
    new_ids, told = scan.keys.new_ids(slice(None) if order is None else order[np.append(0, stops)[:-1]])
    notes += told
    repeated = scan.repeated(order, stops)
    if count := int(repeated.sum()):
        notes.append(f"{count} pictures have the name of an earlier one: the number of their record is added to it")
    return Index(order, repeated, new_ids, stops, counts, _categories(scan.labels, layout), convention, reason, tuple(notes))


class _Scan:
    def __init__(self, table: Table, layout: Layout) -> None:
        self._table, self._layout = table, layout
        self._row = 0
        self.keys = RowKeys()
        self._filled: list[NDArray[np.int64]] = []
        self._boxes: list[tuple[int, Any, tuple[int, int] | None]] = []
        self._names: list[NDArray[np.int64]] = []
        self._named = layout.picture is not None and not layout.own and "file_name" in layout.of_image
        self.labels: dict[tuple[Any, Any], None] = {}

    def chosen(self, leaves: list[str]) -> list[str]:
        """Give those of a file's leaves that are looked at; a list of structs has two more steps in its path."""
        layout = self._layout
        inner = [layout.of_object[role] for role in ("bbox", "category_id", "category", "id") if role in layout.of_object]
        if layout.objects is not None:
            inner = [f"{layout.objects}.{name}" for name in inner]
        wanted = [*inner, *layout.corners, *layout.of_image.values(), *(["annotation_id"] if layout.own else [])]
        bare = [".".join(step for step in leaf.split(".") if step not in ("list", "element", "item", "array")) for leaf in leaves]
        return [
            leaf
            for leaf, short in zip(leaves, bare, strict=True)
            if any(short == one or short.startswith(f"{one}.") or leaf == one for one in wanted)
        ]

    def add(self, rows: pa.Table) -> None:
        if self._layout.kind == "rows":
            self._add_boxes(rows)
        else:
            self._add_images(rows)
        ids, files = (self._of_image(rows, role) for role in ("image_id", "file_name"))
        self.keys.add(ids, files)
        if self._named:
            names = map(embedded_name, files.to_pylist())
            self._names.append(np.fromiter((hash(name) if name else self._row + place for place, name in enumerate(names)), np.int64))
        self._row += rows.num_rows

    def _add_boxes(self, rows: pa.Table) -> None:
        layout = self._layout
        names = [*layout.corners, *(layout.of_object[role] for role in ("bbox", "category", "category_id") if role in layout.of_object)]
        # A row without any of these stands for an image without boxes.
        held = [pc.is_valid(_column(rows, name)) for name in (*names, *(["annotation_id"] if layout.own else []))]
        self._filled.append(functools.reduce(pc.or_, held).to_numpy(zero_copy_only=False).astype(np.int64))
        self._collect(self._object(rows, "category_id"), self._object(rows, "category"))
        if not layout.corners and len(self._boxes) < SAMPLE:
            heights, widths = (self._of_image(rows, role).to_pylist() for role in ("height", "width"))
            boxes = _column(rows, layout.of_object["bbox"]).slice(0, SAMPLE).to_pylist()
            self._boxes += [(self._row + place, box, size_from(heights[place], widths[place])) for place, box in enumerate(boxes)]

    def _add_images(self, rows: pa.Table) -> None:
        boxes = self._object(rows, "bbox")
        assert boxes is not None
        lengths = _lengths(boxes)
        self._filled.append(lengths)
        for role in ("category_id", "category", "id"):
            other = self._object(rows, role)
            if other is None or not is_list(other.type):
                continue
            there = pc.is_valid(other).to_numpy(zero_copy_only=False)
            uneven = np.flatnonzero((_lengths(other) != lengths) & there)
            if len(uneven):
                row = int(uneven[0])
                told = f"{self._layout.of_object['bbox']} {lengths[row]}, {self._layout.of_object[role]} {_lengths(other)[row]}"
                raise DataError(f"{self._table.where(self._row + row)}: lists of unequal length ({told}); each needs one entry a box")
        flat = [
            None if one is None else pc.list_flatten(one) if is_list(one.type) else None
            for one in map(self._object_of(rows), ("category_id", "category"))
        ]
        self._collect(*flat)
        if len(self._boxes) < SAMPLE:
            heights, widths = (self._of_image(rows, role).to_pylist() for role in ("height", "width"))
            for place, held in enumerate(boxes.slice(0, SAMPLE).to_pylist()):
                size = size_from(heights[place], widths[place])
                self._boxes += [(self._row + place, box, size) for box in held or []]
                if len(self._boxes) >= SAMPLE:
                    break

    def _object_of(self, rows: pa.Table) -> Any:
        return lambda role: self._object(rows, role)

    def _object(self, rows: pa.Table, role: str) -> Any:
        """Give the column of a role, out of the struct where there is one (then a list a row), None where the file has none."""
        name = self._layout.of_object.get(role)
        if name is None:
            return None
        if self._layout.objects is None:
            return _column(rows, name)
        held = _column(rows, self._layout.objects)
        if not is_list(held.type):
            return pc.struct_field(held, name)
        # A list of structs: the field of each, under the lists' own offsets.
        kind = pa.list_(held.type.value_type.field(name).type)
        return pa.array([None if one is None else [(each or {}).get(name) for each in one] for one in held.to_pylist()], type=kind)

    def _of_image(self, rows: pa.Table, role: str) -> Any:
        name = self._layout.of_image.get(role)
        return pa.nulls(rows.num_rows) if name is None else _column(rows, name)

    def _collect(self, numbers: Any, names: Any) -> None:
        """Note each pair of category id and name that occurs."""
        if numbers is None and names is None:
            return
        columns = [pa.nulls(len(names if numbers is None else numbers)) if one is None else one for one in (numbers, names)]
        pairs = pa.table(columns, names=["id", "name"]).group_by(["id", "name"], use_threads=False).aggregate([])
        for pair in zip(pairs["id"].to_pylist(), pairs["name"].to_pylist(), strict=True):
            if pair != (None, None):
                self.labels.setdefault(pair)

    def sample(self, root: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give boxes (N, 4) of four numbers and the sizes (N, 2) of their pictures, NaN where unknown."""
        numbers, sizes, peeked = [], [], dict[int, tuple[int, int] | None]()
        for row, box, size in self._boxes[:SAMPLE]:
            if not isinstance(box, list) or len(box) != 4 or not all(is_number(one) for one in box):
                continue
            if size is None and row not in peeked and len(peeked) < PEEKED:
                peeked[row] = self._peek(row, root)
            numbers.append(box)
            sizes.append(size or peeked.get(row) or (np.nan, np.nan))
        return np.array(numbers, dtype=np.float64).reshape(-1, 4), np.array(sizes, dtype=np.float64).reshape(-1, 2)

    def _peek(self, row: int, root: str) -> tuple[int, int] | None:
        name = self._layout.of_image.get("file_name")
        outer, _, inner = (name or "").partition(".")
        value = self._table.rows([row])[0].get(outer) if outer else None
        value = value.get(inner) if inner and isinstance(value, dict) else value
        record = Record(0, 0, value if isinstance(value, str) else "", None, (), self._table.picture_of(row))
        try:
            return pictures.size_of(record, root)
        except pictures.ImageProblem:
            return None

    def repeated(self, order: NDArray[np.int64] | None, stops: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say of each record whether its picture has the name of an earlier one."""
        again = np.full(len(stops), self._named)
        if self._named:
            names = np.concatenate([np.zeros(0, np.int64), *self._names])
            again[np.unique(names if order is None else names[order[np.append(0, stops)[:-1]]], return_index=True)[1]] = False
        return again

    def grouped(self) -> tuple[NDArray[np.int64] | None, NDArray[np.int64], NDArray[np.int64], list[str]]:
        filled = np.concatenate([np.zeros(0, np.int64), *self._filled])
        if self._layout.kind != "rows":
            return None, np.arange(1, len(filled) + 1), filled, []
        owners = self.keys.owners(self._table.starts, self._table.picture_of)
        order = np.argsort(owners, kind="stable")
        stops = np.cumsum(np.bincount(owners))
        counts = np.bincount(owners, weights=filled).astype(np.int64)
        scattered = len(owners) > 1 and bool((np.diff(owners) < 0).any())
        return order, stops, counts, [self._sorting()] if scattered else []

    def _sorting(self) -> str:
        """Say how to sort rows by image."""
        line = (
            "the rows of an image are not together: reading is slower than from a file sorted by image, by far where the columns take more "
        )
        line += f"than {KEPT_BYTES >> 20} MB"
        key = self._layout.of_image.get("image_id") or self._layout.of_image["file_name"]
        if "." in key:
            return line
        first = self._table.paths[0]
        source = str(first if len(self._table.paths) == 1 else first.parent)
        made = f"pq.write_table(pq.read_table({source!r}).sort_by({key!r}), 'sorted.parquet')"
        return f'{line}; sort it: python -c "import pyarrow.parquet as pq; {made}"'


def embedded_name(name: Any) -> str:
    """Name a picture that a file holds itself: a path of the machine that made the file becomes its last step; "" for none."""
    if not isinstance(name, str) or not outside_root(name):
        return name if isinstance(name, str) else ""
    return Path(name.replace("\\", "/")).name


def _categories(labels: Iterable[tuple[Any, Any]], layout: Layout) -> tuple[Category, ...]:
    """Give categories by id; labels without one are numbered from 1 by the alphabet, whatever the order of rows."""
    found: dict[Id, str] = {}
    nameless = []
    for number, name in labels:
        if is_id(number):
            found.setdefault(number, str(name) if name is not None else _label(number, layout))
        elif is_id(name) and not isinstance(name, str):
            found.setdefault(name, _label(name, layout))
        elif name is not None:
            nameless.append(str(name))
    for place, name in enumerate(sorted(set(nameless)), 1):
        found.setdefault(place, name)
    return tuple(Category(one, found[one]) for one in sorted(found, key=lambda one: (isinstance(one, str), one)))


def _label(number: Any, layout: Layout) -> str:
    return layout.labels[number] if isinstance(number, int) and 0 <= number < len(layout.labels) else str(number)


def _column(rows: pa.Table, name: str) -> Any:
    outer, _, inner = name.partition(".") if name not in rows.column_names else (name, "", "")
    column = rows.column(outer).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
    return pc.struct_field(column, inner) if inner else column


def _lengths(column: Any) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
