"""Give a pixel that several objects claim to the one that is surest of it. N crops of one picture, G rows and columns of mask logits.

Not in the paper, which outlines one object at a time; but who has boxes for a man and for the elephant behind him wants no pixel in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.crops import Crop
from autopoly.types import FloatArray

NESTED = 0.6
"""Share of the smaller of two objects from which one lies in the other, a part in its whole, or both are one: each keeps what it claims."""
NOWHERE = -30.0
"""Logit of what lies outside a crop."""
Logits = NDArray[np.float32]


def settled(crops: Sequence[Crop], logits: Sequence[Logits]) -> list[Logits]:
    """Give the mask logits (G, G) of the N objects of one picture so that no two claim a pixel: each less those of its surest rival.

    Their zero lines then meet where two objects are equally sure. Objects that are nested (``NESTED``) are no rivals.
    """
    rivals = [np.zeros_like(one) for one in logits]
    windows = np.array([_window(crop, one) for crop, one in zip(crops, logits, strict=True)]).reshape(-1, 4)
    cells = np.array([_cell(crop, one) for crop, one in zip(crops, logits, strict=True)])
    areas = cells * [(one > 0).sum() for one in logits]
    for pair in _meeting(windows):
        fine, coarse = sorted(pair, key=lambda at: float(cells[at]))
        other = _seen(crops[fine], crops[coarse], logits[coarse])
        both = cells[fine] * ((logits[fine] > 0) & (other > 0)).sum()
        if 0 < both <= NESTED * areas[list(pair)].min():
            np.maximum(rivals[fine], other, out=rivals[fine])
            np.maximum(rivals[coarse], _seen(crops[coarse], crops[fine], logits[fine]), out=rivals[coarse])
    return [one - rival for one, rival in zip(logits, rivals, strict=True)]


def _cell(crop: Crop, logits: Logits) -> float:
    """Give the area of a cell, image px squared."""
    return float(np.prod(crop.pixels.shape[0] / logits.shape[0] / crop.scale))


def _window(crop: Crop, logits: Logits) -> FloatArray:
    """Give the box (4,) around what is claimed, xyxy in image px; without an area where nothing is."""
    rows, columns = np.flatnonzero((logits > 0).any(1)), np.flatnonzero((logits > 0).any(0))
    if not len(rows):
        return np.zeros(4)
    corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) / logits.shape[0]
    return crop.from_sides(corners).ravel()


def _meeting(windows: FloatArray) -> Iterator[tuple[int, int]]:
    """Find the pairs of windows (N, 4) that share an area."""
    for at in range(len(windows) - 1):
        low, high = np.maximum(windows[at, :2], windows[at + 1 :, :2]), np.minimum(windows[at, 2:], windows[at + 1 :, 2:])
        for other in np.flatnonzero((low < high).all(axis=1)):
            yield at, at + 1 + int(other)


def _seen(crop: Crop, other: Crop, logits: Logits) -> Logits:
    """Read the logits (G, G) of another crop at the cells of this one."""
    count = logits.shape[0]
    # Cell centres lie at +0.5 in both.
    first, second = other.to_sides(crop.from_sides(np.array([[0.5, 0.5], [1.5, 1.5]]) / count)) * count - 0.5
    matrix = np.array([[second[0] - first[0], 0, first[0]], [0, second[1] - first[1], first[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(logits, matrix, (count, count), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=NOWHERE)
    return np.asarray(seen, dtype=np.float32)
