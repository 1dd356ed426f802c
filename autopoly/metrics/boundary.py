"""Boundary F at r px: how much of two boundaries lies within r pixels of the other, in absolute pixels of the full image.

The definition is DAVIS' ``db_eval_boundary`` with ``bound_th = r >= 1``. A pixel is on the boundary where it differs from its eastern,
southern or south-eastern neighbour: the boundary lies half a pixel towards the origin, and the image border is not a boundary.

A window is enough: it has the value of the whole image when it holds both masks and one pixel more on each side that is not the image's
own border.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

ELEMENT = "disk"
"""Structuring element: {(x, y): x^2 + y^2 <= r^2}; r = 1 is the cross of 5 pixels, r = 2 has 13.

A 3x3 square would lift F_1px by 5 to 10 points.
"""
MARGIN = 1
"""Pixels a window needs around both masks, as far as the image goes."""


@cache
def disk(radius: int) -> NDArray[np.uint8]:
    """Give the (2r + 1, 2r + 1) structuring element of ``radius`` pixels, ones inside."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)


def boundary_map(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mark the boundary pixels of a (H, W) mask of zeros and ones, H and W >= 1.

    The last row and column compare along themselves, the last corner is 0.
    """
    edges = np.zeros_like(mask)
    inner = mask[:-1, :-1]
    edges[:-1, :-1] = (inner ^ mask[:-1, 1:]) | (inner ^ mask[1:, :-1]) | (inner ^ mask[1:, 1:])
    edges[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    edges[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return edges


def boundary_f(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], radii: Sequence[int] = (1, 2)) -> tuple[float, ...]:
    """Give boundary F of two (H, W) masks of zeros and ones over the same window, one value per radius in pixels.

    With P the share of predicted boundary within r of the true one and R the share of true boundary within r of the predicted, F = 2PR /
    (P + R). F = 0 where one boundary is empty, or one mask (a whole image has no boundary either); else 1 where both are.
    """
    if prediction.size == 0:
        return (1.0,) * len(radii)
    predicted_edges, true_edges = boundary_map(prediction), boundary_map(truth)
    predicted, true = cv2.countNonZero(predicted_edges), cv2.countNonZero(true_edges)
    if not predicted or not true:
        return (float(predicted == true and bool(prediction[0, 0]) == bool(truth[0, 0])),) * len(radii)
    values = []
    for radius in radii:
        element = disk(radius)
        precision = cv2.countNonZero(cv2.bitwise_and(predicted_edges, cv2.dilate(true_edges, element))) / predicted
        recall = cv2.countNonZero(cv2.bitwise_and(true_edges, cv2.dilate(predicted_edges, element))) / true
        values.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return tuple(values)
