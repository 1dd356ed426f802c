"""Which point of the true outline each contour vertex should reach: segment-wise matching (paper, III-D). K vertices, V ring points."""

from __future__ import annotations

import numpy as np

from autopoly.types import FloatArray


def match(ring: FloatArray, box_xyxy: FloatArray, k: int) -> FloatArray:
    """Give the target (K, 2) on a true ring (V, 2), clockwise, of each vertex of the box's contour.

    The four points where the ring touches its own box (top, right, bottom, left) split the ring and the perimeter of ``box_xyxy`` (4,);
    inside a segment vertices are matched in proportion to arc length. The box may be jittered: a touching point keeps its relative place on
    its side. Where the four points are out of order along the ring, four equal quarters from the top point on take their place. Ring and
    box must have a length above 0.
    """
    count = len(ring)
    closed = np.concatenate([ring, ring[:1]])
    steps = np.diff(closed, axis=0)
    along = np.concatenate([[0.0], np.cumsum(np.sqrt((steps * steps).sum(axis=1)))])
    length = along[-1]
    touching = [_extreme(ring, axis, sign) for axis, sign in ((1, -1), (0, 1), (1, 1), (0, -1))]
    start = along[touching[0]]
    on_ring = [(along[index] - start) % length for index in touching]
    if touching[3] == touching[0]:  # one point touches top and left: the way round ends there
        on_ring[3] = length
    low, high = ring.min(axis=0), ring.max(axis=0)
    relative = (ring[touching] - low) / np.maximum(high - low, 1e-9)
    x1, y1, x2, y2 = box_xyxy
    width, height = x2 - x1, y2 - y1
    # Places of the four points on the perimeter, measured clockwise from the top left corner.
    on_box = np.array(
        [
            relative[0, 0] * width,
            width + relative[1, 1] * height,
            width + height + (1 - relative[2, 0]) * width,
            2 * width + height + (1 - relative[3, 1]) * height,
        ]
    )
    perimeter = 2 * (width + height)
    if not on_ring[1] <= on_ring[2] <= on_ring[3]:
        on_ring = [0.0, length / 4, length / 2, length * 3 / 4]
    vertices = (width / 2 + np.arange(k) * (perimeter / k) - on_box[0]) % perimeter
    places = np.append(on_box - on_box[0], perimeter)
    target = (np.interp(vertices, places, [*on_ring, length]) + start) % length
    where = np.clip(np.searchsorted(along, target, side="right") - 1, 0, count - 1)
    share = (target - along[where]) / np.maximum(along[where + 1] - along[where], 1e-9)
    matched: FloatArray = closed[where] + steps[where] * share[:, None]
    return matched


def _extreme(ring: FloatArray, axis: int, sign: int) -> int:
    """Give the index of the ring's outermost point along an axis; the middle one where several are outermost."""
    values = ring[:, axis] * sign
    ties = np.flatnonzero(values >= values.max() - 1e-6)
    if len(ties) == 1:
        return int(ties[0])
    middle = (ring[ties, 1 - axis].min() + ring[ties, 1 - axis].max()) / 2
    return int(ties[np.argmin(np.abs(ring[ties, 1 - axis] - middle))])
