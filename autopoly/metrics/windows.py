"""Cut windows out of run-length masks without ever decoding the image around them.

A mask is held as its runs of ones, in COCO's order: down the columns, from the left. Letters: R runs, H W rows and columns of the image,
h w of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopoly.errors import DataError
from autopoly.types import Rle

Box = tuple[int, int, int, int]
"""x1 y1 x2 y2, half-open, whole image px."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of ones of an (H, W) mask: ``start`` and ``stop`` (R,), half-open, pixel (row i, col j) having number j * H + i."""

    height: int
    width: int
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @property
    def area(self) -> int:
        """Number of ones, px."""
        return int((self.stop - self.start).sum())


def runs(rle: Rle) -> Runs:
    """Read COCO's compressed counts; raise :class:`DataError` where they are not the counts of a mask of that size."""
    height, width = rle.size
    symbols = np.frombuffer(rle.counts, np.uint8).astype(np.int64) - 48
    # Each count is written in groups of 5 bits, lowest first; bit 5 says that another follows, bit 4 of the last is the sign.
    last = np.flatnonzero((symbols & 32) == 0)
    if symbols.size and (symbols.min() < 0 or symbols.max() > 63 or not last.size or last[-1] != symbols.size - 1):
        raise DataError("a run-length mask has broken counts; write it again with pycocotools")
    if not last.size:
        none = np.zeros(0, np.int64)
        return Runs(height, width, none, none)
    first = np.concatenate(([0], last[:-1] + 1))
    shift = 5 * (np.arange(symbols.size) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((symbols & 31) << shift, first)
    values -= np.where(symbols[last] & 16, np.left_shift(1, shift[last] + 5), 0)
    # From the fourth on, a count is written as its difference to the one two before.
    counts = values.copy()
    counts[1::2] = np.cumsum(values[1::2])
    counts[2::2] = np.cumsum(values[2::2])
    ends = np.cumsum(counts)
    if counts.min() < 0 or ends[-1] != height * width:
        raise DataError(f"a run-length mask of size {height}x{width} has counts for {int(ends[-1])} pixels; its size and counts disagree")
    stop = ends[1::2]
    start = ends[0 : 2 * stop.size : 2]
    full = stop > start
    return Runs(height, width, start[full], stop[full])


def bounds(mask: Runs) -> Box | None:
    """Give the smallest box that holds every one; None for an empty mask."""
    if not mask.start.size:
        return None
    left, right = int(mask.start[0]) // mask.height, int(mask.stop[-1] - 1) // mask.height
    top_column, top = np.divmod(mask.start, mask.height)
    bottom_column, bottom = np.divmod(mask.stop - 1, mask.height)
    if (top_column != bottom_column).any():  # a run that goes on in the next column has touched the lowest row and the highest
        return left, 0, right + 1, mask.height
    return left, int(top.min()), right + 1, int(bottom.max()) + 1


def window_of(boxes: list[Box | None], margin: int, size: tuple[int, int]) -> Box:
    """Give the box that holds ``boxes`` and ``margin`` px around them, as far as the image of ``size`` (height, width) goes.

    It is 0 0 0 0 for no box.
    """
    held = [box for box in boxes if box is not None]
    if not held:
        return 0, 0, 0, 0
    height, width = size
    left, top = min(box[0] for box in held), min(box[1] for box in held)
    right, bottom = max(box[2] for box in held), max(box[3] for box in held)
    return max(left - margin, 0), max(top - margin, 0), min(right + margin, width), min(bottom + margin, height)


def cut(mask: Runs, window: Box) -> NDArray[np.uint8]:
    """Give the (h, w) zeros and ones of ``mask`` in ``window``, which lies inside the image."""
    left, top, right, bottom = window
    rows, columns = bottom - top, right - left
    # Numbering the window's own pixels down its columns keeps the order, so a run stays a run and only its ends move.
    ends = np.empty(2 * mask.start.size, np.int64)
    ends[0::2], ends[1::2] = mask.start, mask.stop
    column, row = np.divmod(ends, mask.height)
    row = np.minimum(np.maximum(row - top, 0), rows)
    marks = np.empty(ends.size + 2, np.int64)
    marks[0], marks[-1] = 0, rows * columns
    marks[1:-1] = np.minimum(np.maximum((column - left) * rows + row, 0), rows * columns)
    lengths = marks[1:] - marks[:-1]
    pattern = np.zeros(lengths.size, np.uint8)
    pattern[1::2] = 1
    return np.ascontiguousarray(np.repeat(pattern, lengths).reshape(columns, rows).T)


def paste(mask: NDArray[np.uint8], window: Box, size: tuple[int, int]) -> Runs:
    """Give the runs, in an image of ``size`` (height, width), of the (h, w) zeros and ones ``mask`` of ``window``.

    The inverse of :func:`cut`.
    """
    left, top, _, _ = window
    rows = mask.shape[0] + 1
    column_wise = np.zeros((mask.shape[1], rows), np.int8)  # a row of zeros below, so that no run goes on in the next column
    column_wise[:, :-1] = mask.T
    edges = np.flatnonzero(np.diff(column_wise.ravel(), prepend=0))
    column, row = np.divmod(edges, rows)
    ends = (column + left) * size[0] + row + top
    start, stop = ends[0::2], ends[1::2]
    apart = start[1:] != stop[:-1]  # runs over the full height of the image do go on
    return Runs(size[0], size[1], start[np.concatenate(([True], apart))[: start.size]], stop[np.concatenate((apart, [True]))[: stop.size]])


def rle_of(mask: Runs) -> Rle:
    """Write COCO's compressed counts: the inverse of :func:`runs`."""
    ends = np.empty(2 * mask.start.size, np.int64)
    ends[0::2], ends[1::2] = mask.start, mask.stop
    counts = np.diff(ends, prepend=0, append=mask.height * mask.width)
    if counts.size > 1 and counts[-1] == 0:
        counts = counts[:-1]
    values = counts.copy()
    values[3:] -= counts[1:-2]
    symbols = bytearray()
    for value in values.tolist():
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            symbols.append(48 + (bits | (32 if more else 0)))
    return Rle((mask.height, mask.width), bytes(symbols))
