import numpy as np
import pytest
from pycocotools import mask as coco

from autopoly.errors import DataError
from autopoly.geometry import raster
from autopoly.geometry.contours import trace_mask
from autopoly.types import Polygon, Rle


def rectangle(x1: float, y1: float, x2: float, y2: float) -> Polygon:
    return Polygon(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=float))


def test_a_rectangle_fills_the_pixels_it_covers():
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 2:7] = True
    assert (raster.fill([rectangle(2, 1, 7, 4)], (6, 8)) == expected).all()


def test_parts_are_a_union_and_holes_are_cut_from_their_own_part_only():
    outer = Polygon(rectangle(0, 0, 8, 8).exterior, (rectangle(2, 2, 6, 6).exterior,))
    mask = raster.fill([outer, rectangle(3, 3, 5, 5)], (8, 8))
    assert mask.sum() == 64 - 16 + 4
    assert mask[3, 3]
    assert not mask[2, 2]
    assert raster.area(raster.to_rle([outer, rectangle(3, 3, 5, 5)], (8, 8))) == 52


@pytest.mark.parametrize("polygons", [(), (Polygon(np.zeros((0, 2))),), (Polygon(np.array([[0.0, 0], [5, 5]])),)])
def test_no_ring_of_three_vertices_is_an_empty_mask(polygons):
    assert not raster.fill(polygons, (4, 5)).any()
    assert raster.to_rle(polygons, (4, 5)) == raster.encode(np.zeros((4, 5), dtype=bool))
    assert raster.xyxy_of(raster.to_rle(polygons, (4, 5))).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
def test_a_picture_without_pixels_has_an_empty_mask(size):
    assert raster.fill([rectangle(0, 0, 2, 2)], size).shape == size
    assert raster.area(raster.to_rle([rectangle(0, 0, 2, 2)], size)) == 0


def test_a_stray_coordinate_neither_hangs_nor_wraps_round():
    assert raster.fill([rectangle(2, 1, 1e15, 4)], (6, 8)).sum() == 18
    assert raster.fill([rectangle(-1e15, -1e15, 1e15, 1e15)], (6, 8)).all()


def test_a_vertex_that_is_not_finite_is_an_error():
    with pytest.raises(DataError, match="not finite"):
        raster.fill([rectangle(0, 0, np.nan, 4)], (6, 8))
    with pytest.raises(DataError, match="not finite"):
        raster.to_rle([rectangle(0, 0, np.inf, 4)], (6, 8))


def test_a_window_may_reach_beyond_the_top_left_corner():
    window = raster.fill_window([rectangle(-5, -5, 2, 1)], (-3, -2, 4, 3))
    assert window.shape == (5, 7)
    assert window.sum() == 2
    assert window[2, 3:5].all()


def test_a_window_apart_from_the_polygon_is_empty():
    assert not raster.fill_window([rectangle(50, 50, 60, 60)], (0, 0, 10, 10)).any()
    assert raster.fill_window([rectangle(50, 50, 60, 60)], (10, 10, 10, 20)).shape == (10, 0)


def test_run_lengths_are_those_of_coco():
    mask = np.random.default_rng(0).random((13, 17)) < 0.4
    reference = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    rle = raster.encode(mask)
    assert rle == Rle((13, 17), reference["counts"])
    assert (raster.decode(rle) == mask).all()
    assert raster.area(rle) == mask.sum()


def test_the_box_of_a_mask_is_half_open():
    mask = np.zeros((10, 12), dtype=bool)
    mask[3:5, 2:9] = True
    assert raster.xyxy_of(raster.encode(mask)).tolist() == [2, 3, 9, 5]


def test_masks_are_merged_as_union_or_intersection():
    a, b = (raster.to_rle([rectangle(*xyxy)], (9, 9)) for xyxy in ((0, 0, 6, 6), (3, 3, 9, 9)))
    assert raster.area(raster.merge([a, b])) == 36 + 36 - 9
    assert raster.area(raster.merge([a, b], intersect=True)) == 9
    assert raster.merge([a]) == a


def test_masks_of_two_sizes_or_none_cannot_be_merged():
    with pytest.raises(DataError, match=r"\(2, 3\), \(3, 2\)"):
        raster.merge([raster.encode(np.ones((3, 2), dtype=bool)), raster.encode(np.ones((2, 3), dtype=bool))])
    with pytest.raises(DataError, match="one size"):
        raster.merge([])


def test_any_mask_becomes_run_lengths():
    rle = raster.to_rle([rectangle(1, 1, 4, 4)], (6, 6))
    assert raster.of_mask(rle, (1, 1)) is rle
    assert raster.of_mask((rectangle(1, 1, 4, 4),), (6, 6)) == rle
    assert raster.area(raster.of_mask((), (6, 6))) == 0


@pytest.mark.parametrize("diameter", [1, 2, 3, 5, 8, 16, 32, 64, 128])
def test_a_traced_disk_comes_back_exactly(diameter):
    y, x = np.mgrid[: diameter + 6, : diameter + 6] + 0.5
    mask = np.hypot(x - 3 - diameter / 2, y - 3 - diameter / 2) <= diameter / 2 + 1e-9
    assert mask.any()
    polygons = trace_mask(mask)
    assert len(polygons) == 1
    assert (raster.fill(polygons, mask.shape) == mask).all()
    assert (raster.decode(raster.to_rle(polygons, mask.shape)) == mask).all()
