"""COCO's ``segmentation``: read in all the forms that occur, written in two (polygons, RLE where there are holes). V polygon vertices."""

from __future__ import annotations

from typing import Any

import numpy as np

from autopoly.formats.base import LONGEST_SIDE, MOST_PIXELS, is_number
from autopoly.geometry import raster
from autopoly.types import Mask, Polygon, Rle

LONGEST_EXTENT = 65_535
"""px."""
LONGEST_NUMBER = 7
"""Characters of a compressed run length: more are beyond any picture."""


def parse(value: Any, size: tuple[int, int] | None) -> tuple[Mask | None, bool]:
    """Read a list of rings, one flat ring, or RLE with counts as text or list; give the mask, and whether all was sound.

    Nothing is raised. The mask is None for a missing or empty field (sound), and for one where nothing can be used (not sound). ``size`` is
    the picture's (height, width): an RLE of another size is not sound. Each ring becomes a polygon without holes, since COCO unites them.
    """
    if value is None or value == []:
        return None, True
    if isinstance(value, dict):
        rle = _rle(value)
        sound = rle is not None and (size is None or rle.size == size)
        return (rle, True) if sound else (None, False)
    if not isinstance(value, list):
        return None, False
    rings = [value] if is_number(value[0]) else value
    good = [np.array(ring, dtype=np.float64).reshape(-1, 2) for ring in rings if is_ring(ring)]
    if not good or not raster.can_be_drawn(good, size):
        return None, False
    return tuple(Polygon(ring) for ring in good), len(good) == len(rings)


def dump(mask: Mask, size: tuple[int, int] | None, decimals: int | None = 2) -> list[list[float]] | dict[str, Any]:
    """Give a mask as COCO writes it: rings of x, y, ... rounded to ``decimals`` (None: as they are), or RLE where there are holes.

    No polygon gives []. RLE has text counts. A picture of unknown ``size`` is taken to end where the polygons do.
    """
    if isinstance(mask, Rle) or any(polygon.holes for polygon in mask):
        rle = raster.of_mask(mask, size or extent(mask))
        return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}
    return [flat(polygon.exterior, decimals) for polygon in mask]


def flat(ring: Any, decimals: int | None) -> list[float]:
    """Give a ring (V, 2) as x, y, x, y, ..."""
    values = np.asarray(ring, dtype=np.float64).ravel()
    numbers: list[float] = (values if decimals is None else np.round(values, decimals) + 0.0).tolist()
    return numbers


def extent(mask: Mask) -> tuple[int, int]:
    """Give the (height, width) of the smallest picture that holds a mask, each ``LONGEST_EXTENT`` at most; (1, 1) for an empty one."""
    if isinstance(mask, Rle):
        return mask.size
    corner = np.ceil(np.max([[1.0, 1.0], *(polygon.exterior.max(axis=0) for polygon in mask)], axis=0)).clip(None, LONGEST_EXTENT)
    return int(corner[1]), int(corner[0])


def bounds_xywh(mask: Mask) -> list[float] | None:
    """Give the tight box of a mask, xywh with two decimals; None for an empty mask."""
    if isinstance(mask, Rle):
        x1, y1, x2, y2 = raster.xyxy_of(mask)
    elif mask:
        x1, y1 = np.min([polygon.exterior.min(axis=0) for polygon in mask], axis=0)
        x2, y2 = np.max([polygon.exterior.max(axis=0) for polygon in mask], axis=0)
    else:
        return None
    box = [round(float(one), 2) for one in (x1, y1, x2 - x1, y2 - y1)]
    return box if box[2] > 0 and box[3] > 0 else None


def is_ring(ring: Any) -> bool:
    """Say whether a value is a list of three or more x, y within a billion px."""
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2 or not all(is_number(one) for one in ring):
        return False
    return all(abs(one) < 1e9 for one in ring)


def _rle(value: dict[str, Any]) -> Rle | None:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(one, int) and 0 < one < LONGEST_SIDE for one in size):
        return None
    height, width = size
    if height * width >= MOST_PIXELS:
        return None
    if isinstance(counts, str):
        runs = _runs(counts)
        sound = runs is not None and runs.min(initial=0) >= 0 and int(runs.sum()) == height * width
        return Rle((height, width), counts.encode("ascii")) if sound else None
    if not isinstance(counts, list) or not all(isinstance(one, int) and 0 <= one <= height * width for one in counts):
        return None
    return raster.of_counts(counts, (height, width)) if sum(counts) == height * width else None


def _runs(text: str) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """Decode COCO's compressed counts to run lengths; None for what is not such a text.

    pycocotools trusts its input, so a damaged text must be found before it gets there.
    """
    if not text.isascii():
        return None
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    longest = int(np.diff(np.flatnonzero((codes & 32) == 0), prepend=-1).max())
    return raster.run_lengths(text.encode("ascii")) if longest <= LONGEST_NUMBER else None
