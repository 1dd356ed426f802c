"""Contours: closed rings, clockwise on screen, first vertex not repeated. K contour vertices, V polygon vertices, H W rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from shapely import MultiPolygon, box, buffer, distance, intersection, make_valid, union_all
from shapely import Polygon as ShapelyPolygon
from shapely.geometry import LineString
from shapely.ops import nearest_points

from autopoly.errors import DataError
from autopoly.types import FloatArray, Polygon


def box_contour(box_xyxy: FloatArray, k: int) -> FloatArray:
    """Give K points along a box (4,), equally spaced by arc length, clockwise from the middle of its top side; (K, 2) image px."""
    x1, y1, x2, y2 = box_xyxy
    middle = (x1 + x2) / 2
    return resample(np.array([[middle, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]), k)


def resample(ring: FloatArray, k: int, start: float = 0.0) -> FloatArray:
    """Give K points (K, 2), equally spaced by arc length along a ring (V, 2), the first ``start`` px after its first vertex.

    A ring of one place repeated gives that place K times. Raise DataError for a ring without vertices.
    """
    if not len(ring):
        raise DataError("a ring without vertices cannot be resampled")
    closed = np.concatenate([ring, ring[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    where = start + np.arange(k) * (along[-1] / k)
    if start:
        where %= max(along[-1], np.finfo(np.float64).tiny)
    return np.stack([np.interp(where, along, closed[:, 0]), np.interp(where, along, closed[:, 1])], axis=1)


def signed_area(ring: FloatArray) -> float:
    """Give the shoelace area of a ring (V, 2), px^2: positive when it is clockwise on screen (y down)."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def clockwise(ring: FloatArray) -> FloatArray:
    """Give the ring (V, 2) clockwise on screen, turned round if need be."""
    return ring if signed_area(ring) >= 0 else ring[::-1]


def trace_mask(mask: NDArray[np.bool_]) -> tuple[Polygon, ...]:
    """Trace a mask (H, W) along its pixel *edges*: filling the result gives the same mask, at every size.

    One polygon per 4-connected part, holes included, vertices at corners only; () for an empty mask. (``cv2.findContours`` traces pixel
    centres and loses half a pixel all round: IoU 0.67 for a disk of 8 px.)
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8) if mask.flags.c_contiguous else mask.astype(np.uint8))
    if width == 0:
        return ()
    # Only the mask's own box is looked at: an object of 50 px in a street scene costs what 50 px cost.
    _, labels = cv2.connectedComponents(mask[y : y + height, x : x + width].astype(np.uint8), connectivity=4)
    padded: NDArray[np.int32] = np.pad(labels, 1)
    inside = (padded > 0).astype(np.int8)
    turns = _turns(padded)
    edges = _edges(np.diff(inside, axis=0)[:, 1:-1], turns, horizontal=True)
    edges |= _edges(-np.diff(inside, axis=1)[1:-1].T, turns, horizontal=False)
    corner = np.array([x, y], dtype=np.float64)
    exteriors: dict[int, FloatArray] = {}
    holes: dict[int, list[FloatArray]] = {}
    for key in list(edges):
        if key not in edges:  # on a ring that was walked
            continue
        ring, label = _walk(edges, key, padded, turns)
        if signed_area(ring) > 0:
            exteriors[label] = ring + corner
        else:
            holes.setdefault(label, []).append(ring + corner)
    return tuple(Polygon(exteriors[label], tuple(holes.get(label, ()))) for label in sorted(exteriors))


def _turns(labels: NDArray[np.int32]) -> NDArray[np.int8]:
    """Say at every grid corner (y, x) how rings turn where only two diagonal pixels meet: +1 right, -1 left, 0 at any other corner.

    Pixels of one part turn left, which leaves a hole that touches the outline in a point; pixels of two parts turn right and stay apart.
    """
    filled = labels > 0
    north_west, north_east, south_west, south_east = filled[:-1, :-1], filled[:-1, 1:], filled[1:, :-1], filled[1:, 1:]
    y, x = np.nonzero((north_west == south_east) & (north_east == south_west) & (north_west != north_east))
    main = filled[y, x]
    one_part = np.where(main, labels[y, x] == labels[y + 1, x + 1], labels[y, x + 1] == labels[y + 1, x])
    turns = np.zeros(north_west.shape, dtype=np.int8)
    turns[y, x] = np.where(one_part, -1, 1)
    return turns


_Corner = tuple[int, int, int]  # x, y, and at a saddle the direction (+1, -1) in which a ring arrives there, else 0


def _edges(change: NDArray[np.int8], turns: NDArray[np.int8], horizontal: bool) -> dict[_Corner, tuple[int, int]]:
    """Give the maximal straight edges with the inside on their right, start corner -> end corner.

    ``change`` has one line per grid line: +1 where the edge goes towards larger coordinates, -1 where it goes back.
    """
    line, at = np.nonzero(np.diff(np.pad(change, ((0, 0), (1, 1))), axis=1))
    # Between two break points of one line the change is constant; where it is not 0 there is an edge.
    same = line[:-1] == line[1:]
    line, begin, end = line[:-1][same], at[:-1][same], at[1:][same]
    sign = change[line, np.minimum(begin, change.shape[1] - 1)].astype(np.int64)
    line, begin, end, sign = (values[sign != 0] for values in (line, begin, end, sign))
    tail, head = np.where(sign > 0, begin, end), np.where(sign > 0, end, begin)
    x, y = (tail, line) if horizontal else (line, tail)
    # A right turn from +y leads to -x, from +x to +y: where an edge leaves a saddle tells how a ring arrives there.
    arrival = sign * turns[y, x] * (-1 if horizontal else 1)
    keys = zip(x.tolist(), y.tolist(), arrival.tolist(), strict=True)
    heads = zip(head.tolist(), line.tolist(), strict=True) if horizontal else zip(line.tolist(), head.tolist(), strict=True)
    return dict(zip(keys, heads, strict=True))


def _walk(
    edges: dict[_Corner, tuple[int, int]], key: _Corner, labels: NDArray[np.int32], turns: NDArray[np.int8]
) -> tuple[FloatArray, int]:
    """Take the ring that begins at ``key`` out of ``edges``; give it (V, 2) with the label of the part on its right."""
    ring = []
    while (head := edges.pop(key, None)) is not None:
        ring.append(key[:2])
        direction = (head[0] > key[0]) + (head[1] > key[1]) or -1
        key = (*head, direction if turns[head[1], head[0]] else 0)
    (x1, y1), (x2, y2) = ring[0], ring[1]
    x, y = min(x1, x2), min(y1, y2)
    # The pixel on the right of the first edge; labels have a margin of one pixel.
    row = y + (x2 > x1) if y1 == y2 else y + 1
    column = x + 1 if y1 == y2 else x + (y2 < y1)
    return np.array(ring, dtype=np.float64), int(labels[row, column])


def trace_field(field: NDArray[np.floating], level: float, cell: float) -> tuple[Polygon, ...]:
    """Trace where a sampled field (H, W) rises above ``level``, between its samples (marching squares), with holes.

    Sample (i, j) lies at ((j + 0.5) * cell, (i + 0.5) * cell); outlines stay inside [0, W * cell] x [0, H * cell], and what is above the
    level at an outermost sample reaches the edge. () when no sample is above the level.
    """
    above = field > level
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    if not len(rows):
        return ()
    # Only the samples around those above the level are looked at.
    y, x = _window(rows, field.shape[0]), _window(columns, field.shape[1])
    samples = field[y.clip(0, field.shape[0] - 1)[:, None], x.clip(0, field.shape[1] - 1)].astype(np.float64)
    beyond = min(float(samples.min()), level) - 1
    samples[(y < -1) | (y > field.shape[0])] = beyond
    samples[:, (x < -1) | (x > field.shape[1])] = beyond
    found = contour_generator((x + 0.5) * cell, (y + 0.5) * cell, samples, fill_type=FillType.OuterOffset).filled(level, np.inf)
    limits = np.array([field.shape[1], field.shape[0]], dtype=np.float64) * cell
    polygons = []
    for part, ends in zip(found[0], found[1], strict=True):
        assert part is not None
        assert ends is not None
        # contourpy turns exteriors one way and holes the other: with y down, clockwise and counter-clockwise.
        points = np.minimum(np.maximum(part, 0), limits)
        rings = [points[a : b - 1] for a, b in pairwise(ends.tolist())]
        polygons.append(Polygon(rings[0], tuple(rings[1:])))
    return tuple(polygons)


def _window(above: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Give the places of samples to trace, those ``above`` the level and one more on each side, of ``count`` in a row.

    At an end of the row there are two more: its last sample repeated, so that outlines go straight on to the edge, and a place beyond it.
    """
    first, last = int(above[0]), int(above[-1])
    return np.arange(first - 1 if first > 0 else -2, last + 2 if last < count - 1 else count + 2)


def single_ring(polygons: Sequence[Polygon]) -> FloatArray:
    """Give one simple ring (V, 2), clockwise, for an instance in one or more parts: exteriors joined by thin bridges, holes ignored.

    Bridges follow the shortest tree over the parts. Self-intersections are resolved first. Raise DataError when nothing has an area.
    """
    rings = [np.round(polygon.exterior, 6) for polygon in polygons if len(polygon.exterior) >= 3 and np.isfinite(polygon.exterior).all()]
    whole = union_all([buffer(make_valid(ShapelyPolygon(ring)), 0) for ring in rings])
    if not whole.area > 0:
        raise DataError("no part of the instance has an area; give its polygon at least three vertices off one line")
    if isinstance(whole, MultiPolygon):
        whole = _bridged(whole)
    return clockwise(np.asarray(whole.exterior.coords[:-1], dtype=np.float64))


def _bridged(parts: MultiPolygon) -> ShapelyPolygon:
    pieces = sorted(parts.geoms, key=lambda piece: -piece.area)
    half_width = parts.area**0.5 / 100
    # Prim's tree from the largest part: bridges between nearest parts cross no third one.
    near = np.asarray(distance(pieces[0], pieces))
    source = np.zeros(len(pieces), dtype=np.int64)
    near[0] = np.inf
    bridges = []
    while np.isfinite(near).any():
        new = int(near.argmin())
        bridges.append(LineString(nearest_points(pieces[source[new]], pieces[new])).buffer(half_width, quad_segs=2))
        reach = np.asarray(distance(pieces[new], pieces))
        source[reach < near] = new
        near = np.where(np.isfinite(near), np.minimum(near, reach), np.inf)
        near[new] = np.inf
    # A bridge along the outermost edge would move the instance's extreme points, which matching relies on.
    joined = union_all([*pieces, *intersection(bridges, box(*parts.bounds))])
    return joined if isinstance(joined, ShapelyPolygon) else max(joined.geoms, key=lambda piece: piece.area)
