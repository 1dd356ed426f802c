"""Cut the square that the network sees out of a picture. S crop side, H W rows and columns, V points.

Two frames meet here and nowhere else: image px and crop px. The search region (the box scaled by s about its centre) is *warped* to a
square, so the box is always the central square of the crop, whatever its aspect. The paper is silent on this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.geometry.boxes import scale_xyxy
from autopoly.types import FloatArray

OUTSIDE = 127
"""Grey level of what lies outside the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A crop's pixels (S, S, 3) uint8 RGB and where they come from: crop px = (image px - origin) * scale, per axis."""

    pixels: NDArray[np.uint8]
    origin: FloatArray
    scale: FloatArray

    def to_image(self, points_crop: NDArray[np.floating]) -> FloatArray:
        """Map (..., 2) crop px to image px."""
        return np.asarray(points_crop, dtype=np.float64) / self.scale + self.origin

    def to_sides(self, points: NDArray[np.floating]) -> FloatArray:
        """Map (..., 2) image px to crop sides, (0, 0) to (1, 1)."""
        return np.asarray(self.to_crop(points) / self.pixels.shape[0])

    def from_sides(self, points_sides: NDArray[np.floating]) -> FloatArray:
        """Map (..., 2) crop sides to image px."""
        return self.to_image(points_sides * self.pixels.shape[0])

    def to_crop(self, points: NDArray[np.floating]) -> FloatArray:
        """Map (..., 2) image px to crop px."""
        return (np.asarray(points, dtype=np.float64) - self.origin) * self.scale


def central_box(side: int, search_scale: float) -> FloatArray:
    """Give the place (4,) of the box in its own crop of ``side`` px, xyxy in crop px."""
    half = side / (2 * search_scale)
    return np.array([side / 2 - half, side / 2 - half, side / 2 + half, side / 2 + half])


def cut(image: NDArray[np.uint8], box_xyxy: FloatArray, search_scale: float, side: int) -> Crop:
    """Cut the search region of a box: (H, W, 3) uint8 and (4,) image px to a :class:`Crop` of ``side`` px. The box must have an area."""
    region = scale_xyxy(np.asarray(box_xyxy, dtype=np.float64), search_scale)
    pixels = resample(image, region, (side, side), OUTSIDE)
    return Crop(pixels, region[:2].copy(), side / (region[2:] - region[:2]))


def resample(image: NDArray[np.uint8], region_xyxy: FloatArray, size: tuple[int, int], outside: int) -> NDArray[np.uint8]:
    """Resample a region of a picture (H, W) or (H, W, 3) to ``size`` (rows, columns); ``outside`` fills what lies outside the picture.

    THE resampler. Bilinear, but every axis that shrinks is averaged over areas first: plain bilinear sampling aliases there.
    """
    rows, columns = size
    x1, y1, x2, y2 = region_xyxy
    height, width = image.shape[:2]
    left, top = max(int(np.floor(x1)) - 1, 0), max(int(np.floor(y1)) - 1, 0)
    right, bottom = min(int(np.ceil(x2)) + 1, width), min(int(np.ceil(y2)) + 1, height)
    if left >= right or top >= bottom:
        return np.full((*size, *image.shape[2:]), outside, dtype=np.uint8)
    part: Any = image[top:bottom, left:right]  # OpenCV's stubs give any number type
    part_columns, part_rows = right - left, bottom - top
    if x2 - x1 > columns:
        part_columns = max(1, round((right - left) * columns / (x2 - x1)))
    if y2 - y1 > rows:
        part_rows = max(1, round((bottom - top) * rows / (y2 - y1)))
    # One axis at a time: OpenCV averages areas only where *both* axes shrink.
    if part_columns != part.shape[1]:
        part = cv2.resize(part, (part_columns, part.shape[0]), interpolation=cv2.INTER_AREA)
    if part_rows != part.shape[0]:
        part = cv2.resize(part, (part.shape[1], part_rows), interpolation=cv2.INTER_AREA)
    # From a crop px index to an index in `part`: centres lie at +0.5 in both.
    zoom_x, zoom_y = part_columns / (right - left), part_rows / (bottom - top)
    step_x, step_y = (x2 - x1) / columns * zoom_x, (y2 - y1) / rows * zoom_y
    matrix = np.array(
        [[step_x, 0, (x1 - left) * zoom_x + step_x / 2 - 0.5], [0, step_y, (y1 - top) * zoom_y + step_y / 2 - 0.5]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(part, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,) * 3)
    return np.asarray(warped, dtype=np.uint8)
