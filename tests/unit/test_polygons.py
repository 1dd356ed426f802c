import numpy as np
import pytest
import shapely

from autopoly.geometry.contours import signed_area
from autopoly.geometry.polygons import bounds, clean, components, from_shapely, iou, to_shapely, union
from autopoly.types import Polygon

SIZE = (40, 50)


def rectangle(x1: float, y1: float, x2: float, y2: float) -> Polygon:
    return Polygon(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=float))


def areas(polygons: tuple[Polygon, ...]) -> list[float]:
    return [pytest.approx(to_shapely(polygon).area) for polygon in polygons]


def test_a_clean_ring_keeps_its_shape():
    (polygon,) = clean([rectangle(2, 3, 12, 9)], SIZE)
    assert sorted(polygon.exterior.tolist()) == [[2, 3], [2, 9], [12, 3], [12, 9]]
    assert signed_area(polygon.exterior) == 60
    (turned,) = clean([Polygon(rectangle(2, 3, 12, 9).exterior[::-1])], SIZE)
    assert signed_area(turned.exterior) == 60


def test_the_picture_cuts_polygons_off():
    (polygon,) = clean([rectangle(-10, -10, 100, 5)], SIZE)
    assert bounds([polygon]).tolist() == [0, 0, 50, 5]
    assert clean([rectangle(60, 0, 70, 10)], SIZE) == ()
    assert clean([rectangle(50, 0, 70, 10)], SIZE) == ()  # touches the picture's edge only


def test_simplifying_drops_vertices_within_the_tolerance():
    wavy = np.array([[0, 0], [10, 0.3], [20, 0], [20, 20], [0, 20]], dtype=float)
    assert len(clean([Polygon(wavy)], SIZE, tolerance=0.5)[0].exterior) == 4
    assert len(clean([Polygon(wavy)], SIZE, tolerance=0)[0].exterior) == 5


def test_coordinates_are_rounded_to_two_decimals():
    (polygon,) = clean([rectangle(1.23456, 2.34567, 10.98765, 9.87654)], SIZE)
    assert sorted(map(tuple, polygon.exterior.tolist())) == [(1.23, 2.35), (1.23, 9.88), (10.99, 2.35), (10.99, 9.88)]


def test_loops_of_a_self_crossing_contour_belong_to_the_object():
    turn = np.arange(5) * 4 * np.pi / 5
    star = Polygon(np.stack([np.sin(turn), -np.cos(turn)], axis=1) * 15 + 20)
    (polygon,) = clean([star], SIZE, tolerance=0)
    assert polygon.holes == ()
    # Ten triangles between the centre, a tip and a notch.
    notch = 15 * np.sin(np.pi / 10) / np.sin(7 * np.pi / 10)
    assert to_shapely(polygon).area == pytest.approx(10 * 0.5 * 15 * notch * np.sin(np.pi / 5), rel=1e-3)


def test_parts_come_largest_first_and_crumbs_are_dropped():
    parts = [rectangle(0, 0, 2, 2), rectangle(10, 10, 30, 30), rectangle(40, 0, 46, 6)]
    assert areas(clean(parts, SIZE)) == [400, 36]
    assert areas(clean(parts, SIZE, smallest_part=0)) == [400, 36, 4]
    assert areas(clean(parts[::-1], SIZE, smallest_part=0)) == [400, 36, 4]
    assert areas(clean(parts, SIZE, smallest_part=0, minimum_area=5)) == [400, 36]


def test_overlapping_parts_become_one():
    assert areas(clean([rectangle(0, 0, 10, 10), rectangle(5, 0, 15, 10)], SIZE)) == [150]


def test_holes_run_counter_clockwise_and_specks_of_holes_are_filled():
    holes = (rectangle(5, 5, 10, 10).exterior, rectangle(15, 15, 15.3, 15.3).exterior)
    (polygon,) = clean([Polygon(rectangle(0, 0, 20, 20).exterior, holes)], SIZE, tolerance=0)
    assert [signed_area(hole) for hole in polygon.holes] == [-25]
    assert signed_area(polygon.exterior) == 400


def test_a_narrow_neck_that_rounding_closes_leaves_two_valid_parts():
    neck = np.array(
        [[0, 0], [10, 0], [10, 4.999], [20, 4.999], [20, 0], [30, 0], [30, 10], [20, 10], [20, 5.001], [10, 5.001], [10, 10], [0, 10]]
    )
    found = clean([Polygon(neck)], SIZE, tolerance=0)
    assert areas(found) == [100, 100]
    assert all(to_shapely(polygon).is_valid for polygon in found)


@pytest.mark.parametrize(
    "ring",
    [
        np.zeros((0, 2)),
        np.array([[1.0, 1], [2, 2]]),
        np.full((5, 2), 3.0),
        np.array([[0.0, 0], [10, 10], [20, 20]]),
        np.array([[0, 0], [np.nan, 5], [5, 5]]),
        np.array([[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1]]),
        np.array([[0, 0], [10, 0], [20, 0], [10, 0]]),
    ],
)
def test_nothing_to_see_gives_nothing(ring):
    assert clean([Polygon(np.asarray(ring, dtype=float))], SIZE) == ()


def test_no_polygon_gives_nothing():
    assert clean([], SIZE) == ()
    assert components([]) == ()
    assert union([]).is_empty
    assert bounds([]).tolist() == [0, 0, 0, 0]


def test_a_huge_coordinate_is_cut_off_like_any_other():
    assert areas(clean([rectangle(10, 10, 1e300, 1e300)], SIZE)) == [40 * 30]


def test_polygons_go_to_shapely_and_back():
    polygon = Polygon(rectangle(0, 0, 9, 9).exterior, (rectangle(3, 3, 6, 6).exterior[::-1],))
    shape = to_shapely(polygon)
    assert shape.area == 72
    back = from_shapely(shape)
    assert to_shapely(back).equals(shape)
    assert signed_area(back.exterior) == 81
    assert [signed_area(hole) for hole in back.holes] == [-9]
    repeated = from_shapely(shapely.Polygon([(0, 0), (0, 0), (4, 0), (4, 4), (4, 4), (0, 0), (0, 0)]))
    assert sorted(repeated.exterior.tolist()) == [[0, 0], [4, 0], [4, 4]]


def test_bounds_are_over_all_parts():
    assert bounds([rectangle(1, 2, 3, 4), rectangle(-1, 3, 2, 9)]).tolist() == [-1, 2, 3, 9]


def test_iou_of_shifted_squares_by_formula():
    for shift in (0, 1, 5, 10, 20):
        overlap = max(10 - shift, 0) * 10
        assert iou([rectangle(0, 0, 10, 10)], [rectangle(shift, 0, shift + 10, 10)]) == pytest.approx(overlap / (200 - overlap))
    assert iou([], []) == 0
    assert iou([rectangle(0, 0, 10, 10)], []) == 0


def test_iou_counts_overlapping_parts_once_and_holes_not():
    framed = Polygon(rectangle(0, 0, 10, 10).exterior, (rectangle(2, 2, 8, 8).exterior,))
    assert iou([framed], [rectangle(0, 0, 10, 10)]) == pytest.approx(0.64)
    assert iou([rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)], [rectangle(0, 0, 10, 10)]) == 1


def test_components_are_the_connected_parts():
    found = components([rectangle(0, 0, 5, 5), rectangle(20, 0, 30, 10), rectangle(4, 4, 9, 9)])
    assert areas(found) == [100, 49]


def test_only_holes_that_matter_are_kept():
    def holed(side):
        return Polygon(rectangle(0, 0, 20, 20).exterior, (rectangle(5, 5, 5 + side, 5 + side).exterior[::-1],))

    assert [len(clean([holed(side)], SIZE, tolerance=0)[0].holes) for side in (1.9, 2.1)] == [0, 1]
    assert len(clean([holed(1.9)], SIZE, tolerance=0, smallest_hole=0)[0].holes) == 1
