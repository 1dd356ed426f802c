import numpy as np
import pytest

from autopoly.geometry.boxes import problem_of, scale_xyxy, xywh_to_xyxy, xyxy_to_xywh


def test_corner_and_size_become_two_corners_and_back():
    xywh = np.array([[10, 20, 30, 40], [0.5, 0.25, 1, 2]])
    xyxy = xywh_to_xyxy(xywh)
    assert xyxy.tolist() == [[10, 20, 40, 60], [0.5, 0.25, 1.5, 2.25]]
    assert xyxy_to_xywh(xyxy).tolist() == xywh.tolist()


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 3, 4)])
def test_any_leading_shape_is_kept(shape):
    boxes = np.ones(shape)
    assert xywh_to_xyxy(boxes).shape == xyxy_to_xywh(boxes).shape == scale_xyxy(boxes, 2).shape == shape


def test_scaling_keeps_the_centre():
    assert scale_xyxy([10, 20, 30, 60], 1.5).tolist() == [5, 10, 35, 70]
    assert scale_xyxy([10, 20, 30, 60], 0).tolist() == [20, 40, 20, 40]


@pytest.mark.parametrize(
    "box, size, code, says",
    [
        ([0, 0, np.nan, 5], (10, 10), "box_not_finite", "nan"),
        ([0, 0, np.inf, 5], None, "box_not_finite", "inf"),
        ([3, 2, 3, 5], (10, 10), "box_empty", "width 0"),
        ([3, 5, 8, 2], None, "box_empty", "height -3"),
        ([20, 0, 25, 5], (10, 20), "box_outside_image", "20 x 10"),
        ([-5, -5, 0, 5], (10, 20), "box_outside_image", "-5"),
        ([0, 10, 5, 15], (10, 20), "box_outside_image", "20 x 10"),
    ],
)
def test_an_unusable_box_is_named_by_code_and_numbers(box, size, code, says):
    problem = problem_of(np.array(box, dtype=float), size)
    assert problem is not None
    assert problem.code == code
    assert says in problem.message
    assert "\n" not in problem.message


@pytest.mark.parametrize(
    "box, size",
    [([0, 0, 20, 10], (10, 20)), ([-50, -50, 0.5, 0.5], (10, 20)), ([19.5, 9.5, 99, 99], (10, 20)), ([900, 900, 901, 901], None)],
)
def test_a_box_with_pixels_of_the_image_has_no_problem(box, size):
    assert problem_of(np.array(box, dtype=float), size) is None
