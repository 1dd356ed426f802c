"""Cut an instance into the boxes of its connected parts, given or found, and join what was predicted for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from autopoly.errors import Problem
from autopoly.formats.base import short
from autopoly.geometry import raster
from autopoly.geometry.boxes import xywh_to_xyxy
from autopoly.geometry.polygons import bounds, clean, iou, to_grid, to_shapely
from autopoly.jobs.conversion.work import Annotator, Image, Prediction
from autopoly.types import FloatArray, Instance, Polygon, Rle

MOST = 1000
"""Components of one instance: each is a crop of its own."""
SAME = 0.7
"""IoU from which a part's second outline counts as that of the same part; below, something else in the part's box was outlined."""


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The parts of one instance together, and the estimated IoU of its first outline: that of the parts knows nothing of missing ones."""

    polygons: tuple[Polygon, ...]
    quality: float
    parts: tuple[Polygon, ...]


def predict_parts(annotator: Annotator, items: Sequence[tuple[Image, FloatArray]], overlaps: bool = False) -> list[list[Prediction]]:
    """Predict boxes (N, 4) of pictures as :meth:`Annotator.predict` does, then once more each part of an object with several, in a closer
    crop around it.

    A part's second outline replaces its first where the two agree (``SAME``). An object in one part costs nothing more.
    """
    first = annotator.predict(items, overlaps)
    parts = [[part for one in found for part in one.parts] for found in first]
    closer = [(image, np.stack([bounds((part,)) for part in one])) for (image, _), one in zip(items, parts, strict=True) if one]
    again = iter(annotator.predict(closer, overlaps=True) if closer else ())
    result: list[list[Prediction]] = []
    for (image, _), found, one in zip(items, first, parts, strict=True):
        second = iter(next(again) if one else ())
        result.append([_replaced(whole, [next(second) for _ in whole.parts], (image.shape[0], image.shape[1])) for whole in found])
    return result


def _replaced(whole: Prediction, second: Sequence[Prediction], size: tuple[int, int]) -> Prediction:
    pairs = list(zip(whole.parts, second, strict=True))
    same = [iou((part,), new.polygons) >= SAME for part, new in pairs]
    if not any(same):
        return whole
    pieces = [new.polygons if agreed else (part,) for (part, new), agreed in zip(pairs, same, strict=True)]
    # Two parts may now touch or overlap.
    polygons = clean([polygon for piece in pieces for polygon in piece], size, tolerance=0, smallest_part=0)
    return Joined(polygons, whole.quality, whole.parts)


def boxes_of(instance: Instance, size: tuple[int, int], from_truth: bool) -> FloatArray | Problem:
    """Give the boxes (N, 4) xyxy of an instance's components, in image px of a picture of ``size``; N is at least 1.

    They come from the instance's ``component_boxes`` field (a list of xywh), or with ``from_truth`` from the connected parts of its mask.
    An instance without that field or mask has one component: its own box. A field or mask that cannot be used is a Problem.
    """
    if from_truth and isinstance(instance.mask, Rle) and instance.mask.size != size:
        line = f"the mask has {instance.mask.size[1]} x {instance.mask.size[0]} px, its picture {size[1]} x {size[0]}; mend the source"
        return Problem("mask_size_mismatch", line)
    if from_truth:
        found = instance.box[None] if instance.mask is None else _parts_of_mask(instance, size)
        return found if len(found) <= MOST else _too_many(f"the mask has {len(found):,} components")
    field = instance.extra.get("component_boxes")
    if field is None or (isinstance(field, list) and not field):
        return instance.box[None]
    try:
        xywh = np.asarray(field, np.float64)
    except (TypeError, ValueError, OverflowError):
        return _unusable(instance)
    if xywh.ndim == 2 and len(xywh) > MOST:
        return _too_many(f"component_boxes has {len(xywh):,} boxes")
    if xywh.ndim != 2 or xywh.shape[1] != 4 or not np.isfinite(xywh).all() or (xywh[:, 2:] <= 0).any():
        return _unusable(instance)
    return xywh_to_xyxy(xywh)


def join(pieces: Sequence[tuple[tuple[Polygon, ...], float]]) -> tuple[tuple[Polygon, ...], float]:
    """Join the polygons and qualities predicted for the components of one instance: all polygons, and the mean quality by area.

    No polygons at all: the plain mean of the qualities, 0 for no pieces.
    """
    polygons = tuple(polygon for found, _ in pieces for polygon in found)
    if len(pieces) < 2:
        return polygons, pieces[0][1] if pieces else 0.0
    areas = np.array([sum(to_shapely(polygon).area for polygon in found) for found, _ in pieces])
    qualities = np.array([quality for _, quality in pieces])
    if areas.sum() <= 0:
        return polygons, float(qualities.mean())
    return polygons, float((qualities * areas).sum() / areas.sum())


def rounded(polygons: Sequence[Polygon]) -> tuple[Polygon, ...]:
    """Round vertices to the two decimals that are written, so that an area counted before and after a file is read back is the same."""
    return tuple(polygon.mapped(to_grid) for polygon in polygons)


def _parts_of_mask(instance: Instance, size: tuple[int, int]) -> FloatArray:
    assert instance.mask is not None
    mask = raster.decode(raster.of_mask(instance.mask, size)).view(np.uint8)
    found = cv2.connectedComponentsWithStats(mask, connectivity=raster.CONNECTIVITY)[2][1:, : cv2.CC_STAT_AREA]  # without what is outside
    return xywh_to_xyxy(found.astype(np.float64)) if len(found) else instance.box[None]


def _too_many(said: str) -> Problem:
    return Problem("too_many_components", f"{said}, {MOST} at most are run")


def _unusable(instance: Instance) -> Problem:
    return Problem(
        "bad_component_boxes", f"component_boxes {short(instance.extra.get('component_boxes'))} is no list of [x, y, w, h] with w, h > 0"
    )
