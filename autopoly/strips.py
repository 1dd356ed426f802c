"""Strips of a crop along a ring, and rings moved by what was seen in them.

E crop px of a side, N places along a ring, T across, V vertices.

A strip unrolls the neighbourhood of an outline: one column per place, from ``REACH`` inside of it (row 0) to ``REACH`` outside (row T - 1).
Rings are in *crop sides* here, (0, 0) to (1, 1): one strip fits crops of every size.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.geometry.contours import resample
from autopoly.types import FloatArray

SIDE = 448
"""Side of the crop that strips are cut from, finer than the network's own."""
PLACES, ACROSS = 128, 25
REACH = 0.036
"""Half a strip, in crop sides: 5 % of the box at a search scale of 1.4."""
STEP = 2 * REACH / (ACROSS - 1)

_ACROSS = np.linspace(-REACH, REACH, ACROSS)


def normals(ring: FloatArray) -> FloatArray:
    """Give the outward unit normals (V, 2) of a ring (V, 2) that is clockwise on screen; zero where neighbours coincide."""
    tangent = np.roll(ring, -1, axis=0) - np.roll(ring, 1, axis=0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12))


def length(ring: FloatArray) -> float:
    """Give the length of a ring (V, 2), crop sides."""
    return float(np.linalg.norm(np.roll(ring, -1, axis=0) - ring, axis=1).sum())


def places(ring: FloatArray) -> FloatArray:
    """Give every point of the strip of a ring (V, 2): (T, N, 2)."""
    centres = resample(ring, PLACES)
    return np.asarray(centres + normals(centres) * _ACROSS[:, None, None])


def look(image: NDArray[Any], where: FloatArray) -> NDArray[Any]:
    """Read a crop or any map of it, (E, E) or (E, E, C), bilinearly at points (T, N, 2) in crop sides; (T, N) or (T, N, C)."""
    index = (where * (image.shape[1], image.shape[0]) - 0.5).astype(np.float32)
    return cv2.remap(image, index[..., 0], index[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def strip(pixels: NDArray[np.uint8], mask_logits: NDArray[np.float32], ring: FloatArray) -> NDArray[np.uint8]:
    """Give what is seen along a ring: (4, T, N) uint8, the crop's RGB and the mask's probability in 255ths."""
    where = places(ring)
    inside = 255 / (1 + np.exp(-look(mask_logits, where).astype(np.float64).clip(-30, 30)))
    return np.concatenate([look(pixels, where), inside.round().astype(np.uint8)[..., None]], axis=2).transpose(2, 0, 1)


def move(ring: FloatArray, offsets: FloatArray) -> FloatArray:
    """Move a ring (V, 2) along its normals by ``offsets`` (N,) at the strip's places, in crop sides; the vertices (V, 2) keep their detail.

    An offset between two places is interpolated by arc length; so is the normal, which corners of a traced ring would make jump.
    """
    steps = np.linalg.norm(np.roll(ring, -1, axis=0) - ring, axis=1)
    total = steps.sum()
    if not total > 0:
        return ring
    at = np.concatenate([[0.0], np.cumsum(steps)[:-1]]) / total * PLACES
    low = np.floor(at).astype(np.int64) % PLACES
    share = (at - np.floor(at))[:, None]
    shifts = normals(resample(ring, PLACES)) * offsets[:, None]
    return np.asarray(ring + shifts[low] * (1 - share) + shifts[(low + 1) % PLACES] * share)
