"""Parquet: a file, or a folder of files of one kind (by name); the layouts of :mod:`autopoly.formats.parquet_layout`, and autopoly's own.

Only ids and boxes are looked at when a file is opened; rows are read by row group, and embedded pictures a few at a time.
The box convention is as told, else as the file's own metadata says, else detected, and said in the header's notes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autopoly.errors import DataError, Problem
from autopoly.formats.annotation import instance_of, with_note
from autopoly.formats.base import check_bbox_format, decode_json, is_id, is_number, outside_root, picture_root, read_box, size_from, xywh_of
from autopoly.formats.parquet_index import Index, build, embedded_name
from autopoly.formats.parquet_layout import OBJECT_NAMES, Layout, recognise
from autopoly.formats.parquet_row import annotation_from, image_from, merged, polygons_from
from autopoly.formats.parquet_table import Table
from autopoly.formats.parquet_write import write
from autopoly.types import Category, Header, Id, Instance, Record

__all__ = ["ParquetDataset", "matches", "read", "write"]

RESULT, FAILURES = "annotations.parquet", "failures.parquet"
"""In the folder of a finished run the second lies beside the first, and holds no boxes to read."""
ENDINGS = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"GIF8", ".gif"),
    (b"II*", ".tif"),
    (b"MM", ".tif"),
)


def matches(path: Path) -> bool:
    """Say whether a path is a ``.parquet`` file or a folder with some; never raise.

    A folder with ``annotations.json`` is COCO: the folder of a finished run has both, and a list of failures.
    """
    if path.is_dir():
        return any(path.glob("*.parquet")) and not (path / "annotations.json").is_file()
    return path.suffix.lower() in (".parquet", ".pq")


def read(path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> ParquetDataset:
    """Open Parquet annotations; raise DataError for files that are damaged, have no boxes, or lists of unequal length."""
    check_bbox_format(bbox_format)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if path / RESULT in files:
        files = [file for file in files if file.name != FAILURES]
    if not files:
        raise DataError(f"{path}: no .parquet files in this folder")
    return ParquetDataset(path, files, images, bbox_format)


class ParquetDataset:
    """Records of Parquet files: a row each, or (one row a box) an image each, in the order they are met."""

    def __init__(self, path: Path, files: Sequence[Path], images: Path | None, bbox_format: str | None) -> None:
        """Count boxes; raise DataError for what cannot be read."""
        self._table, self.files = Table(files), files
        self._layout = _layout_of(self._table)
        if self._layout.picture is not None:
            self._table.picture = (self._layout.picture, self._layout.picture_struct)
        self.image_root = picture_root(path if path.is_dir() else path.parent, images)
        metadata = _own_metadata(self._table.schemas[0].metadata or {})
        try:
            index: Index = build(self._table, self._layout, self.image_root)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            line = " ".join(str(error).split())[:160]
            raise DataError(f"{files[0]}: the columns of boxes, labels or ids hold what they cannot ({line}); check their types") from error
        self._index = index
        self.counts = index.counts
        self._starts = np.cumsum(index.counts) - index.counts
        notes = list(index.notes)
        if bbox_format is not None:
            self._convention = bbox_format
        elif metadata.get("bbox") in ("xywh", "xyxy"):
            self._convention = metadata["bbox"]
        elif self._layout.own or self._layout.corners:
            self._convention = "xyxy"
        else:
            self._convention = index.convention
            notes.append(f"boxes are read as {index.convention}: {index.reason}; --bbox-format says otherwise")
        categories = tuple(_category(one) for one in metadata.get("categories", [])) or index.categories
        self._numbers: Mapping[str, Id] = {one.name: one.category_id for one in categories}
        self.header = Header("parquet", categories, tuple(notes), metadata.get("extra", {}))
        self._opened = self.header
        self._unsound: set[int] = set()

    def record(self, index: int, picture: bool = True) -> Record:
        """Read record ``index``, with its encoded picture if it has one; raise IndexError outside, DataError for uneven lists.

        Without ``picture`` that is read only where the image's name depends on it.
        """
        if not 0 <= index < len(self.counts):
            raise IndexError(f"record {index} of {len(self.counts)}")
        numbers = self._index.rows_of(index)
        rows = self._table.rows(numbers)
        data, embedded = self._picture(rows[0], numbers[0], picture)
        image, problem, listed = self._image(rows[0], index, (data or b"") if embedded else None, self._table.where(numbers[0]))
        size = size_from(image.get("height"), image.get("width"))
        start = int(self._starts[index])
        if self._layout.own:
            renamed = {} if self._index.new_ids.of(index) is None else {"image_id": image["id"]}
            annotations = [_own_annotation(row) | renamed for row in rows if not _is_empty(row)]
        elif self._layout.kind == "rows":
            annotations = [self._from_row(row) for row in rows if not self._has_no_box(row)]
        else:
            annotations = self._from_lists(rows[0], numbers[0])
        if len(annotations) != self.counts[index]:
            raise DataError(f"{self._table.where(numbers[0])}: changed while it was being used; run again")
        kept = [row for row in rows if not _is_empty(row)] if self._layout.own else [None] * len(annotations)
        instances = tuple(
            self._instance(annotation, start + place, image["id"], size, row)
            for place, (annotation, row) in enumerate(zip(annotations, kept, strict=True))
        )
        name = image.get("file_name")
        return Record(index, image["id"], name if isinstance(name, str) else "", size, instances, data, listed, problem, image)

    def _picture(self, row: Mapping[str, Any], number: int, wanted: bool) -> tuple[bytes | None, bool]:
        """Give the encoded picture, None also where nobody needs it, and whether there is one."""
        embedded = self._table.has_picture(number)
        if (
            not wanted
            and embedded is not None
            and (not embedded or embedded_name(_nested(row, self._layout.of_image.get("file_name", ""))))
        ):
            return None, embedded
        data = self._table.picture_of(number)
        return data, data is not None

    def _image(self, row: Mapping[str, Any], index: int, data: bytes | None, where: str) -> tuple[dict[str, Any], Problem | None, bool]:
        """Give the COCO image of a record, what is wrong with it, and whether the source lists it."""
        listed = True
        if self._layout.own:
            image, extra = image_from(row), _extra(row)
            listed = "_image" not in extra or extra["_image"] is not None
            if isinstance(held := extra.get("_image"), dict):
                image = merged(image, held)
        else:
            image = self._foreign_image(row, index, data)
        new_id = self._index.new_ids.of(index)
        if new_id is not None or not is_id(image.get("id")):
            given = image.get("id")
            image["id"] = new_id if new_id is not None else "" if given is None else str(given)
        if not listed:
            return image, Problem("image_not_listed", f"image {image['id']!r} is not among the source's images; add it there"), False
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            return image, Problem("image_missing", f"{where}: image {image['id']!r} has no file name; add one"), True
        return image, outside_root(name), True

    def _foreign_image(self, row: Mapping[str, Any], index: int, data: bytes | None) -> dict[str, Any]:
        roles = self._layout.of_image
        found = {role: _nested(row, name) for role, name in roles.items()}
        name = found.get("file_name")
        image: dict[str, Any] = {"id": found.get("image_id")}
        if data is not None:
            # The picture is here, and only needs a name of its own.
            name = embedded_name(name) or f"{index:08d}{next((ending for start, ending in ENDINGS if data.startswith(start)), '.img')}"
            if self._index.repeated[index]:
                stem, ending = os.path.splitext(name)
                name = f"{stem}-{index}{ending}"
        image["file_name"] = name
        image |= {role: found[role] for role in ("width", "height") if size_from(found.get(role), 1)}
        if self._layout.kind != "rows":
            used = {*roles.values(), *self._layout.per_box, self._layout.objects, self._layout.picture}
            image |= {key: value for key, value in row.items() if key not in used and key not in image and value is not None}
        return image

    def _from_lists(self, row: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """Give the annotations of a row that holds an image: lists side by side become one dict a box."""
        objects = self._layout.objects
        held = row[objects] if objects is not None else {name: row[name] for name in self._layout.per_box}
        if isinstance(held, list):
            return [self._named(one or {}) for one in held]
        lists = {name: values for name, values in (held or {}).items() if values is not None}
        lengths = {name: len(values) if isinstance(values, list) else -1 for name, values in lists.items()}
        count = lengths.get(self._layout.of_object["bbox"], 0)
        if any(length not in (count, -1) for length in lengths.values()):
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(f"{self._table.where(number)}: lists of unequal length ({told}); each needs one entry a box")
        return [self._named({name: values[place] for name, values in lists.items() if lengths[name] == count}) for place in range(count)]

    def _from_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Give the annotation of a row that holds a box."""
        image = {*self._layout.of_image.values(), self._layout.picture}
        fields = {name: value for name, value in row.items() if name not in image}
        if self._layout.corners:
            fields["bbox"] = [fields.pop(name) for name in self._layout.corners]
        return self._named(fields)

    def _named(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Call the fields of an annotation what COCO calls them; labels become category ids, and stay beside them."""
        roles = {name: role for role, name in self._layout.of_object.items()}
        named = {roles.get(name, name): value for name, value in fields.items() if value is not None}
        label = named.get("category")
        if "category_id" not in named and label is not None:
            named["category_id"] = label if is_number(label) else self._numbers.get(str(label), str(label))
            if is_number(label):
                del named["category"]
        return {name: named[name] for name in sorted(named, key=_coco_order)}

    def _has_no_box(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row only names an image: no box, and nothing else about one."""
        names = self._layout.corners or (self._layout.of_object["bbox"],)
        label = [self._layout.of_object.get(role) for role in ("category", "category_id")]
        return all(row[name] is None for name in (*names, *(name for name in label if name is not None)))

    def _instance(
        self, annotation: dict[str, Any], ordinal: int, image_id: Id, size: tuple[int, int] | None, own: Mapping[str, Any] | None
    ) -> Instance:
        if own is None:
            annotation.setdefault("id", ordinal + 1)
            annotation["image_id"] = image_id
        given = own["bbox"] if own is not None and own["bbox"] is not None else annotation.get("bbox")
        box, problem = read_box(given, size, self._convention)
        if own is None:
            # COCO's form, whatever the source's; a box without usable numbers stays as it is.
            annotation["bbox"] = given if self._convention == "xywh" or np.isnan(box).any() else xywh_of(box)
        instance, sound = instance_of(annotation, ordinal, size)
        polygons, drawable = polygons_from(own, size) if own is not None else ((), True)
        sound = sound and drawable
        if not sound and ordinal not in self._unsound:
            self._unsound.add(ordinal)
            self.header = with_note(self._opened, len(self._unsound))
        return replace(instance, box=box, problem=None if instance.crowd else problem, mask=polygons or instance.mask)


def _layout_of(table: Table) -> Layout:
    """Say what the columns mean, the same in every file; raise DataError for a file whose types make them mean something else."""
    layouts = {id(schema): recognise(schema, str(path)) for path, schema in zip(table.paths, table.schemas, strict=True)}
    first = layouts[id(table.schemas[0])]
    for path, schema in zip(table.paths, table.schemas, strict=True):
        # Names of categories, and fields that are only carried, may be in some files alone.
        if replace(layouts[id(schema)], labels=first.labels, per_box=first.per_box) != first:
            raise DataError(f"{path}: its columns are of other types than those of {table.paths[0].name}; write both in one way")
    return first


def _own_annotation(row: Mapping[str, Any]) -> dict[str, Any]:
    extra = {name: value for name, value in _extra(row).items() if name != "_image"}
    return merged(annotation_from(row), extra)


def _is_empty(row: Mapping[str, Any]) -> bool:
    """Say whether a row of ours stands for an image without boxes."""
    return all(row[name] is None for name in ("annotation_id", "bbox", "category_id", "category"))


def _extra(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        extra = decode_json((row["extra"] or "{}").encode())
    except (ValueError, RecursionError):
        return {"extra": row["extra"]}
    return extra if isinstance(extra, dict) else {"extra": extra}


def _own_metadata(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    try:
        own = json.loads(metadata.get(b"autopoly", b"{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(own, dict):
        return {}
    # Anybody may have written this: only what is as we write it counts.
    listed = own.get("categories")
    categories = [one for one in listed if isinstance(one, dict) and is_id(one.get("id"))] if isinstance(listed, list) else []
    return own | {"categories": categories, "extra": own["extra"] if isinstance(own.get("extra"), dict) else {}}


def _category(fields: Mapping[str, Any]) -> Category:
    return Category(
        fields["id"], str(fields.get("name", fields["id"])), {key: value for key, value in fields.items() if key not in ("id", "name")}
    )


def _nested(row: Mapping[str, Any], name: str) -> Any:
    outer, _, inner = name.partition(".")
    value = row.get(name) if name in row else row.get(outer)
    return value.get(inner) if inner and isinstance(value, dict) else value


def _coco_order(name: str) -> tuple[int, str]:
    order = ("id", "image_id", "category_id", "category", "bbox", *OBJECT_NAMES)
    return (order.index(name) if name in order else len(order), name)
