"""The crop sampler: frames, borders, and no aliasing where a box is shrunk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoly.crops import OUTSIDE, cut, resample


def test_box_is_the_central_square_whatever_its_aspect() -> None:
    picture = np.zeros((100, 200, 3), dtype=np.uint8)
    picture[30:50, 60:140] = 255
    crop = cut(picture, np.array([60.0, 30.0, 140.0, 50.0]), 1.4, 224)
    white = crop.pixels[..., 0] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    np.testing.assert_allclose([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1], [32, 192, 32, 192], atol=1)
    np.testing.assert_allclose(crop.to_crop(np.array([[60, 30], [140, 50]])), [[32, 32], [192, 192]])


@given(st.tuples(*[st.floats(-50, 150)] * 2), st.tuples(*[st.floats(1, 300)] * 2), st.floats(1.01, 2))
def test_there_and_back(corner: tuple[float, float], sides: tuple[float, float], scale: float) -> None:
    box = np.array([*corner, corner[0] + sides[0], corner[1] + sides[1]])
    crop = cut(np.zeros((20, 30, 3), dtype=np.uint8), box, scale, 32)
    points = np.array([[0.0, 0.0], [17.5, 3.25], [-4.0, 99.0]])
    np.testing.assert_allclose(crop.to_image(crop.to_crop(points)), points, atol=1e-9)


def test_identity_keeps_every_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resample(picture, np.array([0.0, 0.0, 32.0, 32.0]), (32, 32), 0), picture)


def test_outside_is_grey_and_a_region_off_the_picture_is_all_grey() -> None:
    picture = np.full((10, 10, 3), 255, dtype=np.uint8)
    half = resample(picture, np.array([-10.0, 0.0, 10.0, 10.0]), (20, 40), OUTSIDE)
    assert (half[:, :18] == OUTSIDE).all()
    assert (half[1:-1, 22:38] == 255).all()
    assert (resample(picture, np.array([50.0, 50.0, 60.0, 60.0]), (8, 8), OUTSIDE) == OUTSIDE).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_fine_stripes_average_out_instead_of_aliasing(axis: int) -> None:
    stripes = np.zeros((512, 512), dtype=np.uint8)
    stripes[(slice(None), slice(None, None, 2))[::1] if axis else (slice(None, None, 2), slice(None))] = 255
    # One axis shrinks, the other grows: averaged along the first only.
    region = np.array([0.0, 200.0, 512.0, 220.0]) if axis else np.array([200.0, 0.0, 220.0, 512.0])
    small = resample(stripes, region, (64, 64), 0)
    assert abs(small.astype(int) - 127).max() <= 3


@given(st.integers(1, 40), st.integers(1, 40), st.tuples(*[st.floats(-100, 100)] * 2), st.tuples(*[st.floats(0.5, 400)] * 2))
def test_any_region_of_any_picture_gives_the_asked_size(
    height: int, width: int, corner: tuple[float, float], sides: tuple[float, float]
) -> None:
    picture = np.full((height, width, 3), 9, dtype=np.uint8)
    out = resample(picture, np.array([*corner, corner[0] + sides[0], corner[1] + sides[1]]), (16, 24), 9)
    assert out.shape == (16, 24, 3)
    assert (out == 9).all()
