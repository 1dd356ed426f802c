import numpy as np
import pytest

from autopoly.geometry.contours import box_contour, resample
from autopoly.geometry.matching import match

BOX = np.array([10.0, 20, 110, 120])
DIAMOND = np.array([[60, 20], [110, 70], [60, 120], [10, 70]], dtype=float)


def circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([60 + 50 * np.sin(angle), 70 - 50 * np.cos(angle)], axis=1)  # clockwise from the top


def test_a_box_matches_itself():
    assert np.allclose(match(box_contour(BOX, 128), BOX, 128), box_contour(BOX, 128))


def test_a_diamond_takes_its_corners_and_splits_its_sides_evenly():
    assert np.allclose(match(DIAMOND, BOX, 16), resample(DIAMOND, 16))


def test_inside_a_segment_the_share_of_arc_length_is_kept():
    # The top point lies at 30 % of the top side: the segment from it to the right middle is 70 + 50 px of the box.
    ring = np.array([[40, 20], [110, 70], [60, 120], [10, 70]], dtype=float)
    share = ((60 - 40) + 25) / 120  # vertex 1 of 16 lies 25 px behind the top middle, (60, 20)
    assert np.allclose(match(ring, BOX, 16)[1], ring[0] + share * (ring[1] - ring[0]))


def test_a_circle_is_matched_at_its_four_touching_points():
    target = match(circle(512), BOX, 128)
    assert np.allclose(target[[0, 32, 64, 96]], [[60, 20], [110, 70], [60, 120], [10, 70]])
    assert np.allclose(np.hypot(*(target - (60, 70)).T), 50, atol=1e-2)


@pytest.mark.parametrize("shift", [1, 100, 511])
def test_where_the_ring_starts_does_not_matter(shift):
    ring = circle(512) * (1, 0.5) + np.sin(np.arange(512) / 9)[:, None]
    assert np.allclose(match(np.roll(ring, shift, axis=0), BOX, 128), match(ring, BOX, 128))


def test_a_moved_and_scaled_box_has_the_same_targets():
    jittered = np.array([-30.0, 5, 270, 305])
    assert np.allclose(match(circle(512), jittered, 64), match(circle(512), BOX, 64))


def test_the_middle_of_several_touching_points_counts():
    top = np.array([[20.0, 20], [55, 20], [100, 20]])
    ring = np.concatenate([top, [[110, 70], [60, 120], [10, 70]]])
    assert np.allclose(match(ring, BOX, 400)[395], [55, 20])  # 5 px before the top middle


def test_touching_points_out_of_order_fall_back_to_quarters_of_the_ring():
    backwards = circle(512)[::-1]
    target = match(backwards, BOX, 128)
    assert np.allclose(target[0], [60, 20])
    assert np.allclose(target, resample(np.roll(circle(512)[::-1], 1, axis=0), 128), atol=1e-6)


def test_one_corner_may_touch_two_sides():
    triangle = np.array([[10, 20], [110, 20], [10, 120]], dtype=float)
    target = match(triangle, BOX, 64)
    assert target.shape == (64, 2)
    assert np.isfinite(target).all()
    assert ((target[:, 0] - 10) + (target[:, 1] - 20) <= 100 + 1e-9).all()


def test_a_mirrored_ring_has_mirrored_targets():
    leaf = np.array([[10, 20], [60, 40], [110, 120], [40, 70]], dtype=float)  # touches top and left in one point
    mirrored = match((leaf * (-1, 1) + (120, 0))[::-1], BOX, 64)
    assert np.allclose(np.roll(mirrored[::-1], 1, axis=0) * (-1, 1) + (120, 0), match(leaf, BOX, 64))
