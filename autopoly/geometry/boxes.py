"""Boxes: (..., 4) float64, x1 y1 x2 y2 half-open in image px unless the name says xywh."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from autopoly.errors import Problem
from autopoly.types import FloatArray


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> FloatArray:
    """Turn corner-and-size boxes (..., 4) into two-corner boxes."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> FloatArray:
    """Turn two-corner boxes (..., 4) into corner-and-size boxes."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def scale_xyxy(boxes_xyxy: ArrayLike, factor: float) -> FloatArray:
    """Scale boxes (..., 4) about their centres."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2 * factor
    return np.concatenate([centre - half, centre + half], axis=-1)


def problem_of(box_xyxy: FloatArray, size: tuple[int, int] | None) -> Problem | None:
    """Say why a box (4,) can get no polygon in a picture of ``size`` (height, width; None = unknown), or None when it can."""
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    if not np.isfinite(box_xyxy).all():
        return Problem("box_not_finite", f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has a number that is not finite; mend it in the source")
    if x2 <= x1 or y2 <= y1:
        return Problem("box_empty", f"box has width {x2 - x1:g} and height {y2 - y1:g}; both must be above 0 (are xywh and xyxy mixed up?)")
    if size is not None and (x1 >= size[1] or y1 >= size[0] or x2 <= 0 or y2 <= 0):
        return Problem("box_outside_image", f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside its image of {size[1]} x {size[0]} px")
    return None
