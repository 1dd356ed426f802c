"""Polygons as the tool writes them: valid, inside the picture, simple, in a fixed order. V polygon vertices."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely
from shapely import MultiPolygon
from shapely.geometry.base import BaseGeometry

from autopoly.types import FloatArray, Polygon

DECIMALS = 2
"""Digits of a written coordinate."""

_CELL = 10.0 ** (-2 * DECIMALS)
_REACH = 1e6
"""Coordinates are cut off there, px."""


def clean(
    polygons: Iterable[Polygon],
    size: tuple[int, int],
    tolerance: float = 0.5,
    smallest_part: float = 0.05,
    smallest_hole: float = 0.01,
    minimum_area: float = 0.25,
) -> tuple[Polygon, ...]:
    """Make polygons fit to be written.

    The result is a union of disjoint polygons, each valid for shapely *after* rounding to two decimals, clipped to a picture of ``size``
    (height, width), simplified by ``tolerance`` px (0 keeps all vertices), exteriors clockwise on screen, the largest first. Parts under
    ``smallest_part`` of the whole area are dropped, holes under ``smallest_hole`` of it filled (a speck of a hole would force COCO's
    run-length form on the instance), and both under ``minimum_area`` px^2. Any input is taken: self-crossings are resolved, rings that are
    not finite left out. () comes back where nothing with an area is left.
    """
    shapes = [shape for polygon in polygons if (shape := _shape(polygon)) is not None]
    if not shapes:
        return ()
    whole = shapes[0] if len(shapes) == 1 else shapely.union_all(shapes)
    height, width = size
    low_x, low_y, high_x, high_y = whole.bounds
    if low_x < 0 or low_y < 0 or high_x > width or high_y > height:
        whole = shapely.intersection(whole, shapely.box(0, 0, width, height))
    parts = _areas(_simplified(whole, tolerance))
    least_hole = max(smallest_hole * sum(part.area for part in parts), minimum_area)
    parts = [_without_specks(part, least_hole) for part in parts]
    least = max(smallest_part * sum(part.area for part in parts), minimum_area)
    kept = sorted((part for part in parts if part.area >= least), key=lambda part: (-part.area, part.bounds))
    return tuple(from_shapely(part) for part in kept)


def components(polygons: Iterable[Polygon]) -> tuple[Polygon, ...]:
    """Give the connected parts of the region that polygons cover, the largest first; () where nothing has an area."""
    parts = sorted(_areas(union(polygons)), key=lambda part: (-part.area, part.bounds))
    return tuple(from_shapely(part) for part in parts)


def to_shapely(polygon: Polygon) -> shapely.Polygon:
    """Give a polygon as shapely's; it need not be valid."""
    return shapely.Polygon(polygon.exterior, [hole for hole in polygon.holes if len(hole) >= 3])


def from_shapely(shape: shapely.Polygon) -> Polygon:
    """Take a shapely polygon: exterior clockwise on screen, holes the other way, no vertex repeated."""
    # shapely's counter-clockwise has y up, a picture has y down.
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.orient_polygons(shape))]
    # The ring comes closed: each vertex that differs from the next, and the last never does from the first.
    opened = [ring[:-1][(ring[1:] != ring[:-1]).any(axis=1)] for ring in rings]
    return Polygon(opened[0], tuple(opened[1:]))


def bounds(polygons: Iterable[Polygon]) -> FloatArray:
    """Give the tight box (4,) xyxy of polygons; zeros for none."""
    rings = [polygon.exterior for polygon in polygons]
    if not rings:
        return np.zeros(4)
    points = np.concatenate(rings)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def union(polygons: Iterable[Polygon]) -> BaseGeometry:
    """Give the region that polygons cover, as one valid shapely geometry."""
    return shapely.union_all([shape for polygon in polygons if (shape := _shape(polygon)) is not None])


def iou(first: Iterable[Polygon], second: Iterable[Polygon]) -> float:
    """Give the exact intersection over union of the regions of two polygon sets, 0 where the union is empty."""
    a, b = union(first), union(second)
    both = a.intersection(b).area
    whole = a.area + b.area - both
    return float(both / whole) if whole > 0 else 0.0


def _shape(polygon: Polygon) -> BaseGeometry | None:
    if len(polygon.exterior) < 3 or not np.isfinite(polygon.exterior).all():
        return None
    holes = [_tame(hole) for hole in polygon.holes if len(hole) >= 3 and np.isfinite(hole).all()]
    shape: BaseGeometry = shapely.Polygon(_tame(polygon.exterior), holes)
    if not shape.is_valid:
        shape = _mended(shape)
    return shape if shape.area > 0 else None


def _tame(ring: FloatArray) -> FloatArray:
    # Areas overflow with 1e200, and crossings of edges are lost between 1e-200 and 0.
    return np.round(ring.clip(-_REACH, _REACH), 6)


def _mended(shape: BaseGeometry) -> BaseGeometry:
    """Make an invalid region valid.

    Every enclosed face counts: a loop of a self-crossing contour is part of the object, not a hole in it.
    """
    try:
        mended: BaseGeometry = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    except shapely.GEOSException:
        # Rings that touch nearly, but not quite, can be too much for that method; this one builds from the crossings of all edges.
        mended = shapely.make_valid(shape, method="linework")
    return mended if mended.is_valid else shapely.buffer(mended, 0)


def _areas(shape: BaseGeometry) -> list[shapely.Polygon]:
    """Give the parts of a geometry that have an area; lines and points of a collection are dropped."""
    if isinstance(shape, shapely.Polygon):
        return [shape] if shape.area > 0 else []
    if isinstance(shape, (MultiPolygon, shapely.GeometryCollection)):
        return [part for member in shape.geoms for part in _areas(member)]
    return []


def _without_specks(part: shapely.Polygon, minimum_area: float) -> shapely.Polygon:
    if not part.interiors:
        return part
    return shapely.Polygon(part.exterior, [hole for hole in part.interiors if shapely.Polygon(hole).area >= max(minimum_area, _CELL)])


def _simplified(whole: BaseGeometry, tolerance: float) -> BaseGeometry:
    """Move the outline by ``tolerance`` px at most, to fewer vertices (0: all of them), on the written decimals and valid."""
    if tolerance <= 0:
        return _rounded(whole)
    quick = _ring_by_ring(whole, tolerance)
    # Ten times slower, it looks out for other edges in the way.
    return _rounded(shapely.simplify(whole, tolerance, preserve_topology=True)) if quick is None else quick


def _ring_by_ring(whole: BaseGeometry, tolerance: float) -> BaseGeometry | None:
    """Simplify each ring as if it were alone, and round it; None where that does not give a valid region with as many rings."""
    rings, owners = shapely.get_rings(_areas(whole), return_index=True)
    points, places = shapely.get_coordinates(shapely.simplify(rings, tolerance, preserve_topology=False), return_index=True)
    if not len(rings) or np.bincount(places, minlength=len(rings)).min() < 4:
        return None
    parts = shapely.polygons(shapely.linearrings(to_grid(points), indices=places), indices=owners)
    shape: BaseGeometry = parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
    return shape if shape.is_valid else None


def _rounded(shape: BaseGeometry) -> BaseGeometry:
    """Round to the written decimals and stay valid: rounding can make an edge touch or cross another."""
    for shrink in (0.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0):
        shape = _on_grid(shape)
        if shape.is_valid:
            return shape
        # Mending puts new vertices where edges cross, and rounding those can make new crossings. It rarely takes more than two rounds;
        # edges that only just touch may need to be drawn apart by some hundredths of a pixel.
        shape = _mended(shape)
        if shrink:
            shape = shapely.buffer(MultiPolygon(_areas(shape)), -shrink * 10**-DECIMALS, join_style="mitre")
    return MultiPolygon([part for part in map(_on_grid, _areas(shape)) if part.is_valid])


def _on_grid(shape: BaseGeometry) -> BaseGeometry:
    return shapely.transform(shape, to_grid)


def to_grid(points: FloatArray) -> FloatArray:
    """Round coordinates to the decimals that are written."""
    # Adding 0 turns -0 into 0.
    return np.round(points, DECIMALS) + 0.0
