"""How far the rest of a contour goes with a corrected vertex."""

from __future__ import annotations

import numpy as np
import pytest

from autopoly.geometry.contours import resample, signed_area
from autopoly.geometry.corrections import followed, threaded
from autopoly.types import FloatArray

COUNT = 128


@pytest.fixture
def free() -> FloatArray:
    angle = np.arange(COUNT) * 2 * np.pi / COUNT
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1) * 50 + 100


def held_at(*vertices: int) -> np.ndarray:
    held = np.zeros(COUNT, bool)
    held[list(vertices)] = True
    return held


def test_neighbours_go_along_less_and_less_and_the_far_side_stays(free: FloatArray) -> None:
    places = free + np.array([0, -10])
    moved = followed(free, free, places, held_at(2)) - free
    np.testing.assert_array_equal(moved[2], (0, -10))
    shares = -moved[2:14, 1] / 10
    assert (np.diff(shares) < 0).all()
    assert shares[1] > 0.75 and shares[11] < 0.02
    np.testing.assert_allclose(moved[3:40], moved[[(4 - at) % COUNT for at in range(3, 40)]], atol=1e-9)  # around the ends of the array too
    assert np.abs(moved[50:80]).max() < 1e-6


def test_the_network_is_heard_near_a_correction_and_not_done_twice(free: FloatArray) -> None:
    places = free + np.array([6, 0])
    refined = free.copy()
    refined[20:41] += (8, 0)  # Of which three quarters count beside the correction: the whole of it.
    found = followed(free, refined, places, held_at(30)) - free
    np.testing.assert_allclose(found[26:35, 0], (0, 2, 4, 6, 6, 6, 4, 2, 0), atol=1e-9)
    refined[60:100] += (50, 50)
    np.testing.assert_array_equal(followed(free, refined, places, held_at(30)) - free, found)


def test_corrections_side_by_side_are_all_kept(free: FloatArray) -> None:
    rng = np.random.default_rng(0)
    places = free + rng.normal(0, 5, free.shape)
    held = held_at(0, 1, 2, 60, 127)
    found = followed(free, free, places, held)
    np.testing.assert_array_equal(found[held], places[held])
    assert np.abs(found - free).max() < 60


def test_corrections_beyond_one_point_of_the_outline_leave_the_rest_on_it() -> None:
    outline = np.array([[20.0, 0], [100, 0], [100, 100], [20, 100]])
    places, held = np.zeros((COUNT, 2)), held_at(3, 5)
    places[[3, 5]] = (120, -10), (125, -15)  # the corner at (100, 0) is the nearest to both
    laid = threaded(outline, resample(outline, COUNT), places, held)
    np.testing.assert_array_equal(laid[held], places[held])
    assert 7000 < signed_area(laid) < 9000


def test_no_correction_and_nothing_but_corrections(free: FloatArray) -> None:
    np.testing.assert_array_equal(followed(free, free + 1, free + 5, np.zeros(COUNT, bool)), free + 1)
    np.testing.assert_array_equal(followed(free, free + 1, free + 5, np.ones(COUNT, bool)), free + 5)
