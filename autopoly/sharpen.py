"""Move outlines of large objects onto the edges that the picture shows, at a finer resolution than the network's. V ring points.

Not in the paper. The network sees an object of 600 px in steps of three; what lies between is in the picture, and the edge pass reads it in
strips along the outline (:mod:`autopoly.strips`, :mod:`autopoly.network.edge`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopoly import strips
from autopoly.crops import cut
from autopoly.types import FloatArray, Polygon

SMALLEST_SIDE = 100.0
"""Shorter box side, image px, from which a picture shows more than the network has seen."""
SHORTEST = 8 * strips.REACH
"""Length of a ring, crop sides, from which it is moved."""
Offsets = Callable[[NDArray[np.uint8]], FloatArray]
"""The edge pass: strips (M, 4, T, N) to how many rows outwards the edge lies, (M, N)."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """An outline to move, image px, with the picture (H, W, 3) and box (4,) it was predicted for, and the mask logits of that crop."""

    image: NDArray[np.uint8]
    box: FloatArray
    polygons: tuple[Polygon, ...]
    mask_logits: NDArray[np.float32]


def is_large(box: FloatArray) -> bool:
    """Say whether the outline of a box (4,) xyxy, image px, can gain."""
    return bool(min(box[2] - box[0], box[3] - box[1]) >= SMALLEST_SIDE)


def is_long(ring: FloatArray) -> bool:
    """Say whether a ring (V, 2), crop sides, has strips that do not look across the whole of it."""
    return strips.length(ring) >= SHORTEST


def sharpened(looks: Sequence[Look], search_scale: float, offsets: Offsets) -> list[tuple[Polygon, ...]]:
    """Give the outlines of ``looks`` on the edges, in their order; not cleaned: a moved ring may cross itself."""
    crops = [cut(look.image, look.box, search_scale, strips.SIDE) for look in looks]
    drawn = [[polygon.mapped(crop.to_sides) for polygon in look.polygons] for look, crop in zip(looks, crops, strict=True)]
    seen = [
        strips.strip(crop.pixels, look.mask_logits, ring)
        for look, crop, polygons in zip(looks, crops, drawn, strict=True)
        for polygon in polygons
        for ring in filter(is_long, polygon.rings)
    ]
    if not seen:
        return [look.polygons for look in looks]
    rows = iter(offsets(np.stack(seen)))

    def moved(ring: FloatArray) -> FloatArray:  # in the order of the strips
        return strips.move(ring, next(rows) * strips.STEP) if is_long(ring) else ring

    return [
        tuple(polygon.mapped(moved).mapped(crop.from_sides) for polygon in polygons) for crop, polygons in zip(crops, drawn, strict=True)
    ]
