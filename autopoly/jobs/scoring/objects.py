"""The masks a score compares: whole instances, or their connected components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from autopoly.errors import DataError
from autopoly.geometry import raster
from autopoly.metrics.windows import Runs, bounds, cut, paste, rle_of, runs, window_of
from autopoly.types import Instance, Mask, Polygon, Rle

LARGEST = 400_000_000
"""Pixels of a window that masks are opened in. Sizes of a file without pictures are only claims."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A mask to score, of ``instance`` or of a component of it: as counts, as runs, and as ``polygons`` where it came so.

    ``side`` is the box's shorter, px.
    """

    instance: Instance
    rle: Rle
    runs: Runs
    side: float
    polygons: tuple[Polygon, ...] = ()


def target(instance: Instance, size: tuple[int, int]) -> Target:
    """Rasterise an instance with a mask in an image of ``size`` (height, width).

    Raise :class:`DataError` where the mask is not one of this image.
    """
    mask = instance.mask or ()
    if isinstance(mask, Rle) and tuple(mask.size) != tuple(size):
        raise DataError(f"annotation {instance.instance_id}: its mask is {mask.size[0]}x{mask.size[1]}, its image {size[0]}x{size[1]}")
    rle, found = _drawn(mask, size)
    return Target(instance, rle, found, _side(instance, found), () if isinstance(mask, Rle) else mask)


def region(instance: Instance, size: tuple[int, int]) -> Target | None:
    """Rasterise a region in which nothing is judged: its mask, else the rectangle of its box (KITTI's DontCare).

    None where it has neither.
    """
    if instance.mask:
        try:
            return target(instance, size)
        except DataError:  # a region that cannot be read as drawn still covers its box
            pass
    x1, y1, x2, y2 = np.clip(instance.box, 0, [size[1], size[0]] * 2)
    if not (x2 > x1 and y2 > y1):
        return None
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    return target(replace(instance, mask=(Polygon(corners),)), size)


def can_be_opened(window: tuple[int, int, int, int]) -> bool:
    """Say whether the pixels of a window x1 y1 x2 y2 fit into memory."""
    return (window[2] - window[0]) * (window[3] - window[1]) <= LARGEST


def components(whole: Target) -> list[Target]:
    """Split into connected components, largest first; none for an empty mask. Their side is that of their own tight box."""
    window = window_of([bounds(whole.runs)], 0, whole.rle.size)
    if not can_be_opened(window):
        return [whole]
    mask = cut(whole.runs, window)
    if not mask.any():
        return []
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=raster.CONNECTIVITY)
    parts = []
    for label in range(1, count):
        left, top, width, height = stats[label, : cv2.CC_STAT_AREA].tolist()
        part = (labels[top : top + height, left : left + width] == label).astype(np.uint8)
        left, top = left + window[0], top + window[1]
        parts.append(paste(part, (left, top, left + width, top + height), whole.rle.size))
    return [_part(whole, part, ()) for part in sorted(parts, key=lambda part: -part.area)]


def parts(whole: Target) -> list[Target]:
    """Split a prediction into what it was made of: one part per polygon that covers a pixel, or the components of a run-length mask."""
    if not whole.polygons:
        return components(whole)
    drawn = [(_drawn((polygon,), whole.rle.size)[1], polygon) for polygon in whole.polygons]
    return [_part(whole, part, (polygon,)) for part, polygon in drawn if part.area]


def size_of(records: Sequence[tuple[int, int] | None], instances: Sequence[Instance]) -> tuple[int, int] | None:
    """Give the first size (height, width) known: of ``records``, else of the run-length masks of ``instances``; None where nothing says."""
    for size in records:
        if size is not None:
            return size
    return next(((one.mask.size[0], one.mask.size[1]) for one in instances if isinstance(one.mask, Rle)), None)


def _drawn(mask: Mask, size: tuple[int, int]) -> tuple[Rle, Runs]:
    """Rasterise; polygons with holes in a window, since runs alone cannot cut holes out."""
    if isinstance(mask, Rle) or not any(polygon.holes for polygon in mask):
        rle = raster.of_mask(mask, size)
        return rle, runs(rle)
    corners = np.concatenate([polygon.exterior for polygon in mask])
    low, high = np.floor(corners.min(0)).astype(int) - 1, np.ceil(corners.max(0)).astype(int) + 1
    window = window_of([(int(low[0]), int(low[1]), int(high[0]), int(high[1]))], 0, size)
    if not can_be_opened(window):
        raise DataError(
            f"a polygon with holes covers a window of {window[2] - window[0]} x {window[3] - window[1]} px; mend it in the source"
        )
    if window[2] <= window[0] or window[3] <= window[1]:
        window = (0, 0, 1, 1)
    found = paste(raster.fill_window(mask, window).astype(np.uint8), window, size)
    return rle_of(found), found


def _part(whole: Target, part: Runs, polygons: tuple[Polygon, ...]) -> Target:
    tight = bounds(part)
    side = float(min(tight[2] - tight[0], tight[3] - tight[1])) if tight else 0.0
    return Target(whole.instance, rle_of(part), part, side, polygons)


def _side(instance: Instance, found: Runs) -> float:
    """Give the shorter side of the box as given; of the mask's own box where the source's is none."""
    width, height = float(instance.box[2] - instance.box[0]), float(instance.box[3] - instance.box[1])
    if width > 0 and height > 0:
        return min(width, height)
    tight = bounds(found)
    return float(min(tight[2] - tight[0], tight[3] - tight[1])) if tight else 0.0
