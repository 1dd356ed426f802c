"""THE rasteriser: polygons to pixels and run-length masks, by pycocotools, everywhere in autopoly. H W rows and columns, V polygon vertices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from autopoly.types import FloatArray, Mask, Polygon, Rle

RASTERISER = "pycocotools"
"""Printed with every score: the same polygon filled by another library differs by up to 10 points of IoU at 20 px."""


def fill(polygons: Sequence[Polygon], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill polygons on a grid of ``size`` (height, width): parts are a union, holes are cut out; (H, W) bool, empty for no polygon."""
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        part = _fill_ring(polygon.exterior, size)
        for hole in polygon.holes:
            part &= ~_fill_ring(hole, size)
        mask |= part
    return mask


def fill_window(polygons: Sequence[Polygon], window_xyxy: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Fill polygons in a window of whole pixels, at the cost of the window alone: the same pixels as cutting it out of the full mask."""
    x1, y1, x2, y2 = window_xyxy
    shift = np.array([x1, y1], dtype=np.float64)
    moved = [Polygon(p.exterior - shift, tuple(hole - shift for hole in p.holes)) for p in polygons]
    return fill(moved, (y2 - y1, x2 - x1))


def to_rle(polygons: Sequence[Polygon], size: tuple[int, int]) -> Rle:
    """Give polygons as a run-length mask of a picture of ``size`` (height, width)."""
    if any(polygon.holes for polygon in polygons):
        return encode(fill(polygons, size))
    rings = [polygon.exterior for polygon in polygons if len(polygon.exterior) >= 3]
    if not rings:
        return encode(np.zeros(size, dtype=bool))
    return _rle(coco.merge(coco.frPyObjects([ring.reshape(-1).tolist() for ring in rings], *size)))


def of_mask(mask: Mask, size: tuple[int, int]) -> Rle:
    """Give any mask as a run-length mask; polygons need the picture's ``size`` (height, width)."""
    return mask if isinstance(mask, Rle) else to_rle(mask, size)


def encode(mask: NDArray[np.bool_]) -> Rle:
    """Encode (H, W) bool."""
    return _rle(coco.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Decode to (H, W) bool."""
    return np.asarray(coco.decode(_object(rle)), dtype=bool)


def merge(rles: Sequence[Rle], intersect: bool = False) -> Rle:
    """Give the union (or intersection) of masks of one size."""
    return _rle(coco.merge([_object(rle) for rle in rles], intersect=intersect))


def area(rle: Rle) -> float:
    """Count the pixels of a mask."""
    return float(coco.area(_object(rle)))


def xyxy_of(rle: Rle) -> FloatArray:
    """Give the tight box (4,) of a mask; zeros when it is empty."""
    x, y, w, h = np.asarray(coco.toBbox(_object(rle)), dtype=np.float64)
    return np.array([x, y, x + w, y + h])


def _fill_ring(ring: FloatArray, size: tuple[int, int]) -> NDArray[np.bool_]:
    if len(ring) < 3:
        return np.zeros(size, dtype=bool)
    return np.asarray(coco.decode(coco.frPyObjects([ring.reshape(-1).tolist()], *size))[..., 0], dtype=bool)


def _object(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts}


def _rle(encoded: dict[str, Any]) -> Rle:
    counts = encoded["counts"]
    return Rle((int(encoded["size"][0]), int(encoded["size"][1])), counts.encode() if isinstance(counts, str) else counts)
