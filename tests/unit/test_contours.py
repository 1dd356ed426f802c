import numpy as np
import pytest
import shapely

from autopoly.errors import DataError
from autopoly.geometry.contours import box_contour, clockwise, resample, signed_area, single_ring, trace_field, trace_mask
from autopoly.geometry.polygons import to_shapely
from autopoly.types import Polygon

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], dtype=float)  # clockwise on screen


def picture(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def square(x: float, y: float, side: float) -> Polygon:
    return Polygon(SQUARE / 10 * side + (x, y))


def test_the_contour_of_a_box_starts_at_the_top_middle_and_runs_clockwise():
    contour = box_contour(np.array([10.0, 20, 30, 40]), 8)
    assert contour.tolist() == [[20, 20], [30, 20], [30, 30], [30, 40], [20, 40], [10, 40], [10, 30], [10, 20]]
    assert signed_area(contour) == 400


def test_the_points_of_a_long_box_are_equally_spaced_along_it():
    contour = box_contour(np.array([0.0, 0, 100, 10]), 44)
    assert np.allclose(np.abs(np.diff(contour, axis=0)).sum(axis=1), 5)
    assert contour.min(axis=0).tolist() == [0, 0]
    assert contour.max(axis=0).tolist() == [100, 10]


def test_area_is_positive_clockwise_on_screen():
    assert signed_area(SQUARE) == 100
    assert signed_area(SQUARE[::-1]) == -100
    assert signed_area(clockwise(SQUARE[::-1])) == 100
    assert clockwise(SQUARE) is SQUARE


def test_resampling_spaces_points_by_arc_length_from_the_first_vertex():
    assert resample(SQUARE, 8).tolist() == [[0, 0], [5, 0], [10, 0], [10, 5], [10, 10], [5, 10], [0, 10], [0, 5]]
    assert resample(SQUARE, 4, start=5).tolist() == [[5, 0], [10, 5], [5, 10], [0, 5]]
    assert np.allclose(resample(SQUARE, 4, start=45), [[5, 0], [10, 5], [5, 10], [0, 5]])


def test_resampling_a_single_place_repeats_it_and_nothing_is_an_error():
    assert resample(np.array([[3.0, 4]] * 3), 2).tolist() == [[3, 4], [3, 4]]
    assert resample(np.array([[3.0, 4]]), 2, start=1.0).tolist() == [[3, 4], [3, 4]]
    with pytest.raises(DataError, match="without vertices"):
        resample(np.zeros((0, 2)), 4)


def test_one_pixel_is_its_unit_square():
    (polygon,) = trace_mask(picture("...", "..#", "..."))
    assert sorted(polygon.exterior.tolist()) == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert signed_area(polygon.exterior) == 1
    assert polygon.holes == ()


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (0, 0)])
def test_an_empty_mask_has_no_outline(shape):
    assert trace_mask(np.zeros(shape, dtype=bool)) == ()


def test_a_full_mask_is_one_rectangle_with_corners_only():
    (polygon,) = trace_mask(np.ones((5, 7), dtype=bool))
    assert sorted(polygon.exterior.tolist()) == [[0, 0], [0, 5], [7, 0], [7, 5]]


def test_a_hole_and_an_island_in_it():
    outer, island = trace_mask(picture("#####", "#...#", "#.#.#", "#...#", "#####"))
    assert signed_area(outer.exterior) == 25
    assert [signed_area(hole) for hole in outer.holes] == [-9]
    assert signed_area(island.exterior) == 1
    assert island.holes == ()


def test_pixels_that_meet_at_a_corner_are_two_parts():
    assert [signed_area(polygon.exterior) for polygon in trace_mask(picture("##.", "##.", "..#"))] == [4, 1]


def test_a_part_that_closes_on_itself_over_a_corner_keeps_a_valid_ring():
    (polygon,) = trace_mask(picture("####", "#..#", "#.##", "###."))
    shape = to_shapely(polygon)
    assert shape.is_valid
    assert shape.area == 12
    (polygon,) = trace_mask(picture("###", "#.#", "##."))  # the gap meets the outside at one corner
    assert to_shapely(polygon).is_valid
    assert to_shapely(polygon).area == 7


def test_a_mask_need_not_be_contiguous():
    mask = picture(".##.", ".##.", "....")
    (turned,) = trace_mask(mask.T)
    (cut,) = trace_mask(np.repeat(mask, 2, axis=1)[:, ::2])
    assert turned.exterior.min(axis=0).tolist() == [0, 1]
    assert cut.exterior.min(axis=0).tolist() == [1, 0]


def test_a_field_is_traced_between_its_samples():
    # A ramp in x: sample j lies at x = (j + 0.5) * 4 and has the value j, so 2.25 lies at x = 11.
    (polygon,) = trace_field(np.tile(np.arange(6.0), (5, 1)), 2.25, 4.0)
    shape = to_shapely(polygon)
    assert shape.is_valid
    assert shape.bounds == (11, 0, 24, 20)
    assert shape.area == pytest.approx(13 * 20)
    assert signed_area(polygon.exterior) > 0


def test_a_field_above_the_level_everywhere_is_the_whole_rectangle():
    (polygon,) = trace_field(np.ones((3, 5)), 0.5, 2.0)
    assert to_shapely(polygon).bounds == (0, 0, 10, 6)
    assert to_shapely(polygon).area == pytest.approx(60)


def test_a_field_below_the_level_has_no_outline():
    assert trace_field(np.zeros((3, 5)), 0.5, 2.0) == ()
    assert trace_field(np.zeros((0, 5)), 0.5, 2.0) == ()


def test_a_ring_shaped_field_has_a_hole_and_the_areas_of_its_circles():
    y, x = np.mgrid[:64, :64] + 0.5
    distance = np.hypot(x - 32, y - 32)
    (polygon,) = trace_field(6 - np.abs(distance - 20), 0.0, 0.5)
    assert signed_area(polygon.exterior) == pytest.approx(np.pi * 13**2, rel=2e-3)
    assert [signed_area(hole) for hole in polygon.holes] == [pytest.approx(-np.pi * 7**2, rel=4e-3)]


def test_a_single_part_stays_as_it_is_but_clockwise():
    ring = single_ring([Polygon(SQUARE[::-1], holes=(SQUARE / 5 + 2,))])
    assert signed_area(ring) == 100
    assert sorted(ring.tolist()) == sorted(SQUARE.tolist())


def test_parts_are_joined_by_thin_bridges_along_the_shortest_tree():
    parts = [square(0, 0, 10), square(20, 0, 10), square(40, 0, 10)]
    ring = shapely.Polygon(single_ring(parts))
    assert ring.is_valid
    assert ring.bounds == (0, 0, 50, 10)
    bridge = np.sqrt(300) / 100 * 2  # of which the half inside the box is kept: two bridges of 10 px
    assert ring.area == pytest.approx(300 + 10 * bridge, rel=2e-2)


def test_parts_that_meet_at_a_corner_become_one_ring():
    ring = shapely.Polygon(single_ring([square(0, 0, 10), square(10, 10, 10)]))
    assert ring.is_valid
    assert ring.area == pytest.approx(200, rel=1e-3)


def test_a_self_crossing_part_is_resolved_and_useless_parts_are_passed_over():
    bow_tie = Polygon(np.array([[0, 0], [10, 10], [10, 0], [0, 10]], dtype=float))
    line = Polygon(np.array([[0, 0], [5, 5], [9, 9]], dtype=float))
    ring = shapely.Polygon(single_ring([bow_tie, line, Polygon(np.full((3, 2), np.nan)), Polygon(np.zeros((2, 2)))]))
    assert ring.is_valid
    assert ring.area == pytest.approx(50, rel=1e-2)


@pytest.mark.parametrize("polygons", [[], [Polygon(np.zeros((2, 2)))], [Polygon(np.array([[0, 0], [5, 5], [9, 9.0]]))]])
def test_nothing_with_an_area_is_an_error(polygons):
    with pytest.raises(DataError, match="area"):
        single_ring(polygons)
