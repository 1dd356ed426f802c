"""THE rasteriser: polygons to pixels and run-length masks, by pycocotools, everywhere in autopoly. H W rows and columns.

Polygons are a union of their parts with holes cut out. A ring of fewer than three vertices is ignored; no polygon gives an empty mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from autopoly.errors import DataError
from autopoly.types import FloatArray, Mask, Polygon, Rle

RASTERISER = "pycocotools"
"""Printed with every score: the same polygon filled by another library differs by up to 10 points of IoU at 20 px."""
LONGEST_OUTLINE = 5e6
"""Of all rings of a mask, px: pycocotools holds some hundred bytes for each px of it, and checks no allocation."""

CONNECTIVITY = 8
"""Pixels that touch at a corner are of one component, where boxes are cut and where results are scored."""


def fill(polygons: Sequence[Polygon], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill polygons on a grid of ``size`` (height, width); (H, W) bool. Raise DataError for a vertex that is not finite."""
    return fill_window(polygons, (0, 0, size[1], size[0]))


def fill_window(polygons: Sequence[Polygon], window_xyxy: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Fill polygons in a window of whole pixels: the same pixels as cutting it out of the full mask, at the cost of the columns it has.

    Pixels left of 0 or above 0 are outside every picture, hence empty. Raise DataError for a vertex that is not finite.
    """
    x1, y1, x2, y2 = window_xyxy
    mask = np.zeros((max(y2 - y1, 0), max(x2 - x1, 0)), dtype=bool)
    _paint(mask, (x1, y1), [polygon.exterior for polygon in polygons if not polygon.holes])
    for polygon in polygons:
        if polygon.holes:
            # Holes are cut before the part joins the others: another part may fill them.
            part = np.zeros_like(mask)
            _paint(part, (x1, y1), [polygon.exterior])
            _paint(part, (x1, y1), polygon.holes, cut=True)
            mask |= part
    return mask


def to_rle(polygons: Sequence[Polygon], size: tuple[int, int]) -> Rle:
    """Give polygons as a run-length mask of a picture of ``size`` (height, width)."""
    if any(polygon.holes for polygon in polygons):
        return encode(fill(polygons, size))
    rle = _draw([polygon.exterior for polygon in polygons], size)
    return encode(np.zeros(size, dtype=bool)) if rle is None else rle


def of_mask(mask: Mask, size: tuple[int, int]) -> Rle:
    """Give any mask as a run-length mask; polygons need the picture's ``size`` (height, width)."""
    return mask if isinstance(mask, Rle) else to_rle(mask, size)


def encode(mask: NDArray[np.bool_]) -> Rle:
    """Encode (H, W) bool."""
    return _rle(coco.encode(np.asfortranarray(mask, dtype=np.uint8)))


def of_counts(counts: Sequence[int], size: tuple[int, int]) -> Rle:
    """Give uncompressed counts, whose sum is that of the pixels, as a run-length mask of ``size`` (height, width); no pixel is touched."""
    borders, times = np.unique(np.cumsum(np.asarray(counts, dtype=np.int64)), return_counts=True)
    # An empty run puts two borders in one place: they cancel.
    kept = borders[(times % 2 == 1) & (borders < size[0] * size[1])]
    runs = np.diff(kept, prepend=0, append=size[0] * size[1])
    return _rle(coco.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size))


def can_be_drawn(rings: Sequence[FloatArray], size: tuple[int, int] | None) -> bool:
    """Say whether rings (V, 2) are finite, and together short enough to be drawn in a picture of ``size`` (None: unknown)."""
    return all(np.isfinite(ring).all() for ring in rings) and not _too_long(rings, size or (1, 1))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Decode to (H, W) bool."""
    return np.asarray(coco.decode(_object(rle)), dtype=bool)


def merge(rles: Sequence[Rle], intersect: bool = False) -> Rle:
    """Give the union (or intersection) of one or more masks of one size. Raise DataError for none, or where sizes differ."""
    sizes = {rle.size for rle in rles}
    if len(sizes) != 1:
        # pycocotools would give an empty mask of size 0.
        raise DataError(
            f"only masks of one size can be merged, got sizes (height, width) {sorted(sizes)}; check the image sizes in the source"
        )
    return _rle(coco.merge([_object(rle) for rle in rles], intersect=intersect))


def area(rle: Rle) -> float:
    """Count the pixels of a mask."""
    return float(coco.area(_object(rle)))


def xyxy_of(rle: Rle) -> FloatArray:
    """Give the tight box (4,) of a mask; zeros when it is empty."""
    x, y, w, h = np.asarray(coco.toBbox(_object(rle)), dtype=np.float64)
    return np.array([x, y, x + w, y + h])


def _drawable(rings: Sequence[FloatArray]) -> list[FloatArray]:
    drawable = [ring for ring in rings if len(ring) >= 3]
    if not all(np.isfinite(ring).all() for ring in drawable):
        raise DataError("a polygon has a coordinate that is not finite; mend it in the source")
    return drawable


def _draw(rings: Sequence[FloatArray], size: tuple[int, int]) -> Rle | None:
    """Draw the union of rings; None where no ring has three vertices or the picture no pixel."""
    rings = _drawable(rings)
    if not rings or min(size) <= 0:
        return None
    clipped = _clipped(rings, size)
    if _too_long(rings, size):
        raise DataError(
            f"an outline of {_outline(clipped):.3g} px is longer than can be drawn ({LONGEST_OUTLINE:.0e} px); "
            "mend the polygon in the source"
        )
    return _rle(coco.merge(coco.frPyObjects([ring.reshape(-1).tolist() for ring in clipped], *size)))


def _clipped(rings: Sequence[FloatArray], size: tuple[int, int]) -> list[FloatArray]:
    # pycocotools walks every edge in fifths of a pixel, on or off the picture: a stray coordinate of 1e9 px would take all memory.
    reach = 4.0 * max(*size, 25_000)
    return [ring.clip(-reach, reach) for ring in rings]


def _too_long(rings: Sequence[FloatArray], size: tuple[int, int]) -> bool:
    # Most are far from the limit: only what might be beyond it is clipped and measured.
    most = sum(2.0 * len(ring) * float(np.abs(ring).max(initial=0)) for ring in rings)
    return most > LONGEST_OUTLINE and _outline(_clipped(rings, size)) > LONGEST_OUTLINE


def _outline(rings: Sequence[FloatArray]) -> float:
    """Measure what pycocotools walks: the longer side of every edge, px."""
    return sum(float(np.abs(ring - np.roll(ring, 1, axis=0)).max(axis=1).sum()) for ring in rings if len(ring))


def _paint(mask: NDArray[np.bool_], corner: tuple[int, int], rings: Sequence[FloatArray], cut: bool = False) -> None:
    """Set (or cut out) the pixels of rings in a window whose top left pixel is ``corner`` (x, y).

    Rings are drawn in the picture's frame, since moving them would change pycocotools' rounding; only the columns they touch are unpacked.
    """
    rings = _drawable(rings)
    if not rings:
        return
    points = np.concatenate(rings)
    low, high = np.floor(points.min(axis=0)) - 1, np.ceil(points.max(axis=0)) + 1
    left, top = (int(value) for value in np.maximum(low, np.maximum(corner, 0)))
    right, bottom = (int(value) for value in np.minimum(high, np.add(corner, mask.shape[::-1])))
    rle = _draw(rings, (bottom, right)) if right > left and bottom > top else None
    if rle is None:
        return
    borders = np.cumsum(run_lengths(rle.counts)) - left * bottom
    change = np.zeros((right - left) * bottom + 1, dtype=np.uint8)
    # Runs alternate from empty on; borders before the window only decide how it begins. An empty run puts two borders in one place.
    np.bitwise_xor.at(change, borders.clip(0, len(change) - 1), 1)
    filled = np.bitwise_xor.accumulate(change[:-1]).view(np.bool_).reshape(right - left, bottom).T[top:]
    view = mask[top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]]
    if cut:
        view &= ~filled
    else:
        view |= filled


def run_lengths(compressed: bytes) -> NDArray[np.int64]:
    """Unpack COCO's counts.

    Five bits a byte, lowest first, bit 32 set while more follow; from the fourth count on the difference to the last but one.
    """
    characters = np.frombuffer(compressed, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(~characters & 32)
    first = np.append(0, last[:-1] + 1)
    place = np.arange(len(characters)) - np.repeat(first, last - first + 1)
    counts = np.add.reduceat((characters & 31) << (5 * place), first)
    # Bit 16 of the last byte is the sign.
    counts -= ((characters[last] & 16) != 0) * (np.int64(1) << (5 * (last - first + 1)))
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def _object(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts}


def _rle(encoded: dict[str, Any]) -> Rle:
    counts = encoded["counts"]
    return Rle((int(encoded["size"][0]), int(encoded["size"][1])), counts.encode() if isinstance(counts, str) else counts)
