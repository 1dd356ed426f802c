"""Geometry on hostile input: whatever comes in, what goes out is valid, inside the picture and the same pixels everywhere."""

import cv2
import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autopoly.geometry import raster
from autopoly.geometry.contours import box_contour, clockwise, resample, signed_area, single_ring, trace_field, trace_mask
from autopoly.geometry.matching import match
from autopoly.geometry.polygons import clean, components, iou, to_shapely, union
from autopoly.types import Polygon

SIZE = (24, 30)
FRAME = shapely.box(0, 0, SIZE[1], SIZE[0])


def rings(numbers: st.SearchStrategy[float], most: int = 12) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.tuples(numbers, numbers), max_size=most).map(lambda points: np.array(points, dtype=np.float64).reshape(-1, 2))


# Whole numbers make collinear edges, repeated vertices and spikes; hundredths make rings at the limit of rounding; floats leave the frame.
NASTY = st.one_of(
    rings(st.integers(-3, 9).map(float)),
    rings(st.integers(0, 12).map(lambda number: number / 100)),
    rings(st.integers(0, 60).map(lambda number: number / 4 + 0.005)),
    rings(st.floats(-40, 60, allow_nan=False)),
    rings(st.floats(allow_nan=True, allow_infinity=True), 5),
)
FINITE = rings(st.floats(-40, 60, allow_nan=False))
POLYGONS = st.lists(st.builds(Polygon, NASTY, st.lists(NASTY, max_size=2).map(tuple)), max_size=3)
FINITE_POLYGONS = st.lists(st.builds(Polygon, FINITE, st.lists(FINITE, max_size=2).map(tuple)), max_size=3)
MASKS = st.tuples(st.integers(0, 12), st.integers(0, 12)).flatmap(lambda shape: arrays.arrays(np.bool_, shape))


@given(POLYGONS, st.sampled_from([0.0, 0.5, 3.0]))
@settings(max_examples=100, deadline=None)
def test_cleaned_polygons_are_valid_rounded_and_inside_the_picture(polygons, tolerance):
    found = clean(polygons, SIZE, tolerance)
    sizes = []
    for polygon in found:
        shape = to_shapely(polygon)
        assert shape.is_valid
        assert shape.area >= 0.25
        # By its bounds: FRAME.covers() is wrong about some polygons with a hole that touch the frame.
        x1, y1, x2, y2 = shape.bounds
        assert min(x1, y1) >= 0 and x2 <= SIZE[1] and y2 <= SIZE[0]
        assert signed_area(polygon.exterior) > 0
        assert all(signed_area(hole) < 0 for hole in polygon.holes)
        for ring in (polygon.exterior, *polygon.holes):
            assert len(ring) >= 3
            assert (np.round(ring, 2) == ring).all()
            assert (ring != np.roll(ring, 1, axis=0)).any(axis=1).all()
        sizes.append(shape.area)
    assert sizes == sorted(sizes, reverse=True)


@given(FINITE_POLYGONS)
@settings(max_examples=60, deadline=None)
def test_cleaning_without_thresholds_loses_no_area_to_speak_of(polygons):
    before = shapely.intersection(union(polygons), FRAME)
    after = union(clean(polygons, SIZE, tolerance=0, smallest_part=0, smallest_hole=0, minimum_area=0))
    # Rounding moves an edge by at most 0.0071 px; mending by some hundredths more where edges all but touch.
    assert shapely.symmetric_difference(before, after).area <= 0.02 * before.length + 0.01


@given(POLYGONS)
@settings(max_examples=100, deadline=None)
def test_cleaning_is_deterministic_and_stable(polygons):
    once = clean(polygons, SIZE)
    again = clean(polygons, SIZE)
    assert [polygon.exterior.tolist() for polygon in once] == [polygon.exterior.tolist() for polygon in again]
    twice = clean(once, SIZE, tolerance=0, smallest_part=0)
    assert len(twice) == len(once)
    assert np.isclose(sum(to_shapely(polygon).area for polygon in twice), sum(to_shapely(polygon).area for polygon in once))


@given(FINITE_POLYGONS, FINITE_POLYGONS)
@settings(max_examples=100, deadline=None)
def test_iou_is_symmetric_bounded_and_one_with_itself(first, second):
    value = iou(first, second)
    assert 0 <= value <= 1 + 1e-9
    assert np.isclose(value, iou(second, first), atol=1e-9)
    if union(first).area > 1e-6:
        assert np.isclose(iou(first, first), 1)


@given(MASKS)
@settings(max_examples=100, deadline=None)
def test_a_traced_mask_is_valid_and_fills_to_itself(mask):
    polygons = trace_mask(mask)
    assert (raster.fill(polygons, mask.shape) == mask).all()
    assert (raster.decode(raster.to_rle(polygons, mask.shape)) == mask).all()
    assert sum(to_shapely(polygon).area for polygon in polygons) == mask.sum()
    assert all(to_shapely(polygon).is_valid for polygon in polygons)
    if mask.size:
        assert len(polygons) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    for polygon in polygons:
        for ring in (polygon.exterior, *polygon.holes):
            steps = ring - np.roll(ring, 1, axis=0)
            assert ((steps != 0).sum(axis=1) == 1).all()  # along the grid
            assert (((steps != 0) & (np.roll(steps, 1, axis=0) != 0)).sum(axis=1) == 0).all()  # a corner at every vertex


@given(FINITE_POLYGONS, st.tuples(*[st.integers(-5, 30)] * 4))
@settings(max_examples=100, deadline=None)
def test_a_window_has_the_pixels_of_the_whole(polygons, corners):
    x1, y1, x2, y2 = min(corners[0], corners[2]), min(corners[1], corners[3]), max(corners[0], corners[2]), max(corners[1], corners[3])
    whole = np.pad(raster.fill(polygons, (30, 30)), ((5, 0), (5, 0)))
    assert (raster.fill_window(polygons, (x1, y1, x2, y2)) == whole[y1 + 5 : y2 + 5, x1 + 5 : x2 + 5]).all()


@given(FINITE_POLYGONS)
@settings(max_examples=60, deadline=None)
def test_run_lengths_and_pixels_agree(polygons):
    rle = raster.to_rle(polygons, SIZE)
    mask = raster.fill(polygons, SIZE)
    assert (raster.decode(rle) == mask).all()
    assert raster.area(rle) == mask.sum()


@given(st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(-4, 4))))
@settings(max_examples=60, deadline=None)
def test_a_traced_field_separates_the_samples_above_the_level(field):
    field = np.where(np.abs(field) < 0.01, 0.01, field)  # a sample on the level itself may go to either side
    outline = union(trace_field(field, 0.0, 2.0))
    assert outline.is_empty or shapely.box(0, 0, field.shape[1] * 2, field.shape[0] * 2).buffer(1e-9).covers(outline)
    y, x = np.mgrid[: field.shape[0], : field.shape[1]] * 2 + 1.0
    assert (shapely.contains_xy(outline, x, y) == (field > 0)).all()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_parts_joined_to_one_ring_keep_their_bounds_and_little_is_added(squares):
    parts = [Polygon(np.array([[x, y], [x + s, y], [x + s, y + s], [x, y + s]], dtype=float)) for x, y, s in squares]
    ring = single_ring(parts)
    shape, whole = shapely.Polygon(ring), union(parts)
    assert shape.is_valid
    assert signed_area(ring) > 0
    assert shape.buffer(1e-6).covers(whole)
    assert np.allclose(shape.bounds, whole.bounds)
    holes = shape.area - shapely.union_all([shapely.Polygon(part.exterior) for part in components(parts)]).area
    if len(components(parts)) == 1:
        assert abs(holes) < 1e-9


@given(
    arrays.arrays(np.float64, st.tuples(st.integers(3, 40), st.just(2)), elements=st.integers(0, 50).map(float)),
    st.integers(4, 64),
    st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(1, 80), st.floats(1, 80)),
)
@settings(max_examples=60, deadline=None)
def test_every_target_lies_on_the_ring(ring, k, xywh):
    ring = clockwise(ring)
    line = shapely.LinearRing(ring)
    if line.length == 0:
        return
    x, y, width, height = xywh
    target = match(ring, np.array([x, y, x + width, y + height]), k)
    assert target.shape == (k, 2)
    assert (shapely.distance(line, shapely.points(target)) < 1e-6).all()


@given(
    arrays.arrays(np.float64, st.tuples(st.integers(3, 20), st.just(2)), elements=st.floats(-50, 50)),
    st.integers(3, 64),
    st.floats(0, 300),
)
@settings(max_examples=100, deadline=None)
def test_resampled_points_lie_on_the_ring_at_equal_arc_length(ring, k, start):
    line = shapely.LinearRing(ring)
    points = resample(ring, k, start)
    assert points.shape == (k, 2)
    if line.length > 1e-3:
        expected = shapely.line_interpolate_point(line, (start + np.arange(k) * line.length / k) % line.length)
        assert np.allclose(points, shapely.get_coordinates(expected), atol=1e-6)


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0.5, 500), st.floats(0.5, 500), st.integers(4, 200))
@settings(max_examples=100, deadline=None)
def test_the_contour_of_a_box_lies_on_the_box(x, y, width, height, k):
    contour = box_contour(np.array([x, y, x + width, y + height]), k)
    assert (shapely.distance(shapely.box(x, y, x + width, y + height).exterior, shapely.points(contour)) < 1e-6).all()
    assert np.allclose(contour[0], [x + width / 2, y])
    assert signed_area(contour) > 0
