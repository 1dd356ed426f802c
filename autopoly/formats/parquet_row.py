"""Rows of autopoly's own Parquet layout, back to COCO annotations, images and masks. V polygon vertices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from autopoly.formats.base import read_box, xywh_of
from autopoly.formats.segmentation import is_ring
from autopoly.geometry import raster
from autopoly.types import FloatArray, Polygon


def annotation_from(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give the COCO annotation that the columns hold, without ``extra``; null columns are no fields."""
    annotation: dict[str, Any] = {}
    for name, column in (("id", "annotation_id"), ("image_id", "image_id"), ("category_id", "category_id")):
        if row.get(column) is not None:
            annotation[name] = row[column]
    if row.get("bbox") is not None:
        box, problem = read_box(row["bbox"], None, "xyxy")
        annotation["bbox"] = row["bbox"] if problem is not None and problem.code == "box_malformed" else xywh_of(box)
    if row.get("rle") is not None and row.get("height") is not None:
        annotation["segmentation"] = {"size": [row["height"], row["width"]], "counts": row["rle"]}
    elif row.get("polygons") is not None and not row.get("holes"):
        annotation["segmentation"] = row["polygons"]
    return annotation | {name: row[name] for name in ("area", "score", "mask_source") if row.get(name) is not None}


def image_from(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give the COCO image that the columns hold, without ``extra``; null columns are no fields."""
    pairs = (("id", "image_id"), ("file_name", "file_name"), ("width", "width"), ("height", "height"))
    return {name: row[column] for name, column in pairs if row.get(column) is not None}


def merged(fields: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Put the fields of ``extra`` over those of the columns; null there removes a field that the column made up."""
    both = {**fields, **extra}
    return {name: value for name, value in both.items() if not (value is None and name in fields)}


def polygons_from(row: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[tuple[Polygon, ...], bool]:
    """Give polygons with their holes, each hole in the smallest exterior that has most of its vertices, and whether all rings were sound.

    No polygon is (); ``size`` is the picture's (height, width).
    """
    rings = [values for name in ("polygons", "holes") for values in row.get(name) or []]
    exteriors, holes = ([_ring(values) for values in row.get(name) or [] if is_ring(values)] for name in ("polygons", "holes"))
    if not raster.can_be_drawn(exteriors + holes, size):
        return (), False
    owned: list[list[FloatArray]] = [[] for _ in exteriors]
    for hole in holes:
        if exteriors:
            owned[_owner(hole, exteriors)].append(hole)
    polygons = tuple(Polygon(exterior, tuple(inside)) for exterior, inside in zip(exteriors, owned, strict=True))
    return polygons, len(exteriors) + len(holes) == len(rings)


def _ring(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64).reshape(-1, 2)


def _owner(hole: FloatArray, exteriors: list[FloatArray]) -> int:
    if len(exteriors) == 1:
        return 0

    def fits(index: int) -> tuple[float, float]:
        outline = exteriors[index].astype(np.float32)
        inside = sum(cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in hole)
        return inside, -float(cv2.contourArea(outline))

    return max(range(len(exteriors)), key=fits)
