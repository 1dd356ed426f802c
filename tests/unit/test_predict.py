"""The predictor: batches, bad input, refinement. A small network with fixed random weights stands in for a trained one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import shapely
import torch

from autopoly import devices, predict
from autopoly.config import NetworkConfig
from autopoly.errors import DataError, RunError
from autopoly.geometry.polygons import to_shapely
from autopoly.network.siamanno import SiamAnno

SMALL = NetworkConfig(crop_side=64, width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32)


@pytest.fixture(scope="module")
def annotator() -> predict.Annotator:
    torch.manual_seed(0)
    return predict.Annotator(SiamAnno(SMALL), "cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    from skimage import data

    return np.asarray(data.chelsea())


def _boxes(count: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(count)
    corner = rng.uniform(-20, (size[1] - 40, size[0] - 40), (count, 2))
    return np.concatenate([corner, corner + rng.uniform(25, 200, (count, 2))], axis=1)


def test_polygons_are_valid_and_inside(annotator: predict.Annotator, photo: np.ndarray) -> None:
    boxes = _boxes(40, photo.shape[:2])
    (found,) = annotator.predict([(photo, boxes)])
    assert len(found) == 40
    frame = shapely.box(0, 0, photo.shape[1], photo.shape[0])
    for one in found:
        assert 0 <= one.quality <= 1
        for polygon in one.polygons:
            shape = to_shapely(polygon)
            assert shape.is_valid
            assert frame.contains(shape) or frame.covers(shape)


def test_batches_across_images_change_nothing(annotator: predict.Annotator, photo: np.ndarray) -> None:
    boxes = _boxes(45, photo.shape[:2])
    together = annotator.predict([(photo, boxes[:5]), (photo[:, ::-1].copy(), boxes[5:6]), (photo, boxes[6:])])
    alone = [
        annotator.predict([(image, part)])[0]
        for image, part in [(photo, boxes[:5]), (photo[:, ::-1].copy(), boxes[5:6]), (photo, boxes[6:])]
    ]
    for a, b in zip(together, alone, strict=True):
        for one, other in zip(a, b, strict=True):
            assert one.quality == other.quality
            for p, q in zip(one.polygons, other.polygons, strict=True):
                np.testing.assert_array_equal(p.exterior, q.exterior)


@pytest.fixture
def small_memory(annotator: predict.Annotator) -> Iterator[list[int]]:
    """Let the network ask torch for an exabyte where a batch has more boxes than fit; give that number, to set, and the batches tried."""
    batches = [32]

    def ask(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        batches.append(len(inputs[0]))
        if len(inputs[0]) > batches[0]:
            torch.empty(1 << 60, dtype=torch.uint8)

    handle = annotator.network.register_forward_pre_hook(ask)
    yield batches
    handle.remove()


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    annotator: predict.Annotator, photo: np.ndarray, small_memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    least = annotator._smallest_batch()
    monkeypatch.setattr(predict, "BATCH", 4 * least)
    boxes = _boxes(5 * least - 1, photo.shape[:2])
    whole = annotator.contours(photo, boxes)
    small_memory[:] = [least + 1]
    halved = annotator.contours(photo, boxes)
    assert small_memory[1:] == [times * least for times in (4, 2, 1, 1, 2, 1, 1, 1)]
    for one, other in zip(whole, halved, strict=True):
        np.testing.assert_array_equal(one, other)


def test_too_little_memory_for_the_smallest_batch_is_one_line(
    annotator: predict.Annotator, photo: np.ndarray, small_memory: list[int]
) -> None:
    least = annotator._smallest_batch()
    small_memory[:] = [least - 1]
    with pytest.raises(RunError, match=rf"not enough memory for {least} boxes at once .*can't allocate memory.*fewer --workers") as caught:
        annotator.contours(photo, _boxes(12, photo.shape[:2]))
    assert "\n" not in str(caught.value)


def test_other_errors_of_the_network_are_not_taken_for_a_lack_of_memory(annotator: predict.Annotator, photo: np.ndarray) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = annotator.network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1"):
        annotator.contours(photo, _boxes(3, photo.shape[:2]))
    handle.remove()


def test_threads_change_nothing(annotator: predict.Annotator, photo: np.ndarray) -> None:
    boxes, before = _boxes(20, photo.shape[:2]), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(annotator.contours(photo, boxes)[0])
    torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])


def test_three_lines_of_python(annotator: predict.Annotator, photo: np.ndarray) -> None:
    boxes = _boxes(3, photo.shape[:2])
    polygons, quality = annotator.polygons(photo, boxes)
    assert [len(polygons), quality.shape] == [3, (3,)]
    contours, sure = annotator.contours(photo, boxes)
    assert contours.shape == (3, 32, 2)
    assert sure.shape == (3,)
    held = np.zeros(32, dtype=bool)
    held[[2, 9]] = True
    moved = contours[0].copy()
    moved[held] += 5
    refined = annotator.refine(photo, boxes[0], moved, fixed=held)
    np.testing.assert_array_equal(refined[held], moved[held])
    assert (refined[~held] != contours[0][~held]).any()


def test_no_box_is_no_polygon(annotator: predict.Annotator, photo: np.ndarray) -> None:
    polygons, quality = annotator.polygons(photo, [])
    assert polygons == []
    assert quality.shape == (0,)
    assert annotator.contours(photo, [])[0].shape == (0, 32, 2)
    assert annotator.predict([]) == []


@pytest.mark.parametrize(
    ("image", "boxes", "said"),
    [
        ("a.jpg", [[0, 0, 5, 5]], "image is a str"),
        (np.zeros((9, 9), np.uint8), [[0, 0, 5, 5]], r"expected \(height, width, 3\) uint8"),
        (np.zeros((9, 9, 3), np.float32), [[0, 0, 5, 5]], r"expected \(height, width, 3\) uint8"),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0, 5, 5], [5, 5, 5, 9]], "box 1: "),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0, float("nan"), 5]], "box 0: "),
        (np.zeros((9, 9, 3), np.uint8), [[20, 20, 30, 30]], "outside"),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0, 5, 5, 0.9, 1], [5, 5, 9, 9, 0.8, 1]], r"boxes of shape \(2, 6\); expected \(N, 4\)"),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0, 5]], r"boxes of shape \(1, 3\)"),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0, 5, 5], [0, 0]], "boxes: "),
    ],
)
def test_input_that_cannot_be_used_is_one_line(
    annotator: predict.Annotator, image: np.ndarray, boxes: list[list[float]], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        annotator.polygons(image, boxes)


def test_any_polygon_can_be_refined(annotator: predict.Annotator, photo: np.ndarray) -> None:
    box = [60.0, 40.0, 200.0, 180.0]
    angle = np.linspace(0, 2 * np.pi, 23, endpoint=False)
    ring = np.stack([130 + 70 * np.cos(angle), 110 + 70 * np.sin(angle)], axis=1)
    fixed = np.zeros(23, dtype=bool)
    fixed[[4, 11]] = True
    for polygon, marks in ((ring, fixed), (ring[::-1], fixed[::-1])):
        refined = annotator.refine(photo, box, polygon, fixed=marks)
        assert refined.shape == (32, 2)
        for point in ring[fixed]:
            assert np.abs(refined - point).sum(axis=1).min() == 0


@pytest.mark.parametrize(
    ("box", "ring", "fixed", "said"),
    [
        ([10, 10, 50, 50], np.zeros((8, 2)), np.zeros(7, bool), r"expected \(4,\), \(V, 2\) and \(V,\)"),
        ([[10, 10, 50, 50]], np.zeros((8, 2)), np.zeros(8, bool), r"box \(1, 4\)"),
        ([10, 10, 50, 50], np.full((8, 2), np.nan), np.zeros(8, bool), "not a finite number"),
        ([10, 10, 50, 50], np.ones((80, 2)), np.arange(80) < 40, "40 vertices are fixed; a contour has 32"),
    ],
)
def test_refine_says_what_it_wants(
    annotator: predict.Annotator, photo: np.ndarray, box: object, ring: np.ndarray, fixed: np.ndarray, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        annotator.refine(photo, box, ring, fixed)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"tolerance": -1.0}, {"tolerance": float("nan")}])
def test_a_number_out_of_range_is_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="expected 0 px or more, and 1 thread or more"):
        predict.load(**wrong)


def test_a_device_that_is_not_there_is_one_line() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(DataError, match="--device mps: torch sees no such device"):
        devices.choose("mps")
