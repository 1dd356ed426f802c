"""Windows cut from run-length counts are those of the decoded image, for any mask; counts survive the round trip byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from autopoly.errors import DataError
from autopoly.metrics.windows import bounds, cut, paste, rle_of, runs, window_of
from autopoly.types import Rle


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Draw noise, solid or striped masks of any small size, sometimes one row or column, sometimes with whole columns of ones."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.zeros((height, width), np.uint8)
    y, x = int(random.integers(0, height)), int(random.integers(0, width))
    y2, x2 = int(random.integers(y, height)) + 1, int(random.integers(x, width)) + 1
    mask[y:y2, x:x2] = random.random((y2 - y, x2 - x)) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]))
    if draw(st.booleans()):
        mask[:, x:x2] |= np.uint8(draw(st.booleans()))
    return mask


def encoded(mask: np.ndarray) -> Rle:
    return Rle((mask.shape[0], mask.shape[1]), coco_mask.encode(np.asfortranarray(mask))["counts"])


@settings(max_examples=300, deadline=None)
@given(masks(), st.data())
def test_a_cut_is_the_slice_of_the_decoded_image(mask: np.ndarray, data: st.DataObject) -> None:
    height, width = mask.shape
    found = runs(encoded(mask))
    assert found.area == mask.sum()
    x1, y1 = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    window = (x1, y1, data.draw(st.integers(x1, width)), data.draw(st.integers(y1, height)))
    assert np.array_equal(cut(found, window), mask[window[1] : window[3], window[0] : window[2]])
    ys, xs = np.nonzero(mask)
    assert bounds(found) == ((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None)


@settings(max_examples=300, deadline=None)
@given(masks())
def test_counts_and_windows_survive_the_round_trip(mask: np.ndarray) -> None:
    rle = encoded(mask)
    found = runs(rle)
    assert rle_of(found) == rle
    window = window_of([bounds(found)], 1, rle.size)
    assert rle_of(paste(cut(found, window), window, rle.size)) == rle


def test_windows_stay_in_the_image_and_hold_what_they_are_given() -> None:
    assert window_of([(0, 2, 5, 9), None, (3, 1, 7, 4)], 1, (10, 7)) == (0, 0, 7, 10)
    assert window_of([None, None], 1, (10, 7)) == (0, 0, 0, 0)
    assert cut(runs(Rle((3, 4), b"<")), (0, 0, 0, 0)).shape == (0, 0)


@pytest.mark.parametrize("counts", [b"", b"<1", b"P", b"\x00\xff", b"31000"])
def test_counts_that_are_none_are_an_error_or_an_empty_mask(counts: bytes) -> None:
    if counts == b"":
        assert runs(Rle((3, 4), counts)).area == 0
    else:
        with pytest.raises(DataError):
            runs(Rle((3, 4), counts))
