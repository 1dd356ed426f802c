"""Recognise what the columns of a Parquet file mean: the three layouts people have, and the names they give to things.

- ``objects``: one row an image, a struct of lists or a list of structs with the boxes (Hugging Face), ``image`` as struct{bytes, path} or
  path;
- ``lists``: one row an image, a column with the list of its boxes;
- ``rows``: one row a box (what autopoly writes itself).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from autopoly.errors import DataError

BOXES = ("bbox", "bboxes", "boxes", "box")
OBJECT_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("annotation_id", "ann_id", "bbox_id", "box_id", "object_id", "id"),
    "category_id": ("category_id", "category_ids", "class_id", "class_ids", "label_id"),
    "category": ("category", "categories", "label", "labels", "class", "classes", "category_name", "class_name"),
    "score": ("score", "scores", "confidence"),
    "area": ("area", "areas"),
    "iscrowd": ("iscrowd", "is_crowd"),
    "segmentation": ("segmentation", "segmentations"),
}
IMAGE_NAMES: Mapping[str, tuple[str, ...]] = {
    "image_id": ("image_id", "img_id", "id"),
    "file_name": ("file_name", "filename", "image_path", "file_path", "path", "image", "image_name"),
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
}
PICTURES = ("image", "img", "picture", "photo", "image_bytes", "bytes")
CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
OWN = frozenset({"image_id", "file_name", "annotation_id", "category_id", "bbox", "polygons", "holes", "rle", "extra"})


NESTED, TEXTS = ("bbox", "polygons", "holes"), ("file_name", "rle", "extra")
"""The types our own layout is known by, beside its names: others may call their columns so."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns mean: ``of_object`` and ``of_image`` map our names to the file's; ``objects`` is the column that holds the structs.

    ``picture`` is the column with encoded pictures, ``picture_struct`` whether it is a struct{bytes, path}; ``corners`` four columns that
    are a box; ``own`` our own layout; ``labels`` the names of category numbers; ``per_box`` the columns or fields with one entry a box.
    """

    kind: Literal["objects", "lists", "rows"]
    of_object: Mapping[str, str]
    of_image: Mapping[str, str]
    objects: str | None = None
    picture: str | None = None
    picture_struct: bool = False
    corners: tuple[str, ...] = ()
    own: bool = False
    labels: tuple[str, ...] = ()
    per_box: tuple[str, ...] = field(default=())


def recognise(schema: pa.Schema, where: str) -> Layout:
    """Say what the columns of a schema mean; raise DataError, with the names there are and those looked for, where no boxes are found."""
    types = {one.name: one.type for one in schema}
    picture, picture_struct = _picture(types)
    labels = _class_labels(schema.metadata or {})
    own = (
        types.keys() >= OWN
        and all(is_list(types[name]) or pa.types.is_null(types[name]) for name in NESTED)
        and all(_is_text(types[name]) for name in TEXTS)
    )
    for name, kind in types.items():
        if (inner := _struct_in(kind)) is not None and (box := _first(BOXES, inner)) is not None:
            of_object = {"bbox": box, **_roles(OBJECT_NAMES, inner)}
            of_image = _image_roles(types, picture, picture_struct, taken=())
            return Layout("objects", of_object, of_image, name, picture, picture_struct, labels=labels, per_box=tuple(inner))
    box = _first(BOXES, [name for name, kind in types.items() if is_list(kind)])
    if box is not None and is_list(types[box].value_type):
        lists = [name for name, kind in types.items() if is_list(kind)]
        of_object = {"bbox": box, **_roles(OBJECT_NAMES, lists)}
        of_image = _image_roles(types, picture, picture_struct, taken=of_object.values())
        return Layout("lists", of_object, of_image, None, picture, picture_struct, labels=labels, per_box=tuple(of_object.values()))
    corners = next((names for names in CORNERS if all(name in types for name in names)), ())
    if box is not None or corners:
        of_image = _image_roles(types, picture, picture_struct, taken=(), skip=("id",))
        free = [name for name in types if name not in of_image.values()]
        of_object = {**({"bbox": box} if box is not None else {}), **_roles(OBJECT_NAMES, free)}
        if not of_image.keys() & {"image_id", "file_name"}:
            raise DataError(
                f"{where}: one row a box, but no column names its image; looked for {_listed(IMAGE_NAMES['image_id'])} or file_name"
            )
        return Layout("rows", of_object, of_image, None, picture, picture_struct, () if box is not None else corners, own, labels)
    raise DataError(
        f"{where}: no boxes found in columns {_listed(types)}; looked for {_listed(BOXES)} (lists, or inside a struct such as 'objects'), "
        "or four columns such as xmin ymin xmax ymax"
    )


def _picture(types: Mapping[str, Any]) -> tuple[str | None, bool]:
    for name in PICTURES:
        kind = types.get(name)
        if kind is not None and pa.types.is_struct(kind) and "bytes" in [one.name for one in kind]:
            return name, True
        if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return name, False
    return None, False


def _image_roles(
    types: Mapping[str, Any], picture: str | None, picture_struct: bool, taken: Iterable[str], skip: tuple[str, ...] = ()
) -> dict[str, str]:
    plain = [name for name, kind in types.items() if not pa.types.is_nested(kind) and name not in (picture, *taken, *skip)]
    roles = _roles(IMAGE_NAMES, plain)
    # Hugging Face's image struct knows its path itself.
    if picture_struct and "file_name" not in roles and picture is not None and "path" in [one.name for one in types[picture]]:
        roles["file_name"] = f"{picture}.path"
    return roles


def _roles(wanted: Mapping[str, tuple[str, ...]], names: Iterable[str]) -> dict[str, str]:
    found = {role: _first(variants, names) for role, variants in wanted.items()}
    return {role: name for role, name in found.items() if name is not None}


def _first(variants: Iterable[str], names: Iterable[str]) -> str | None:
    there = set(names)
    return next((name for name in variants if name in there), None)


def _struct_in(kind: Any) -> list[str] | None:
    if is_list(kind):
        kind = kind.value_type
    return [one.name for one in kind] if pa.types.is_struct(kind) else None


def is_list(kind: Any) -> bool:
    """Say whether an Arrow type is one of lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind))


def _class_labels(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """Find the names that Hugging Face's ``ClassLabel`` gives to category numbers; none where the file has no such metadata."""
    try:
        tree = json.loads(metadata.get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return ()
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            names = node.get("names")
            if node.get("_type") == "ClassLabel" and isinstance(names, list):
                return tuple(map(str, names))
            stack += node.values()
    return ()


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "")
