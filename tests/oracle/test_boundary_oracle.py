"""Boundary F against a naive loop over pixels, and against discs and squares in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from autopoly.metrics.boundary import MARGIN, boundary_f, boundary_map, disk


def naive_edges(mask: np.ndarray) -> set[tuple[int, int]]:
    """DAVIS' seg2bmap in words: differs from the eastern, southern or south-eastern pixel; at the image border only along it."""
    height, width = mask.shape
    found = set()
    for i in range(height):
        for j in range(width):
            others = [(i, j + 1), (i + 1, j), (i + 1, j + 1)]
            if any(y < height and x < width and mask[y, x] != mask[i, j] for y, x in others):
                found.add((i, j))
    return found


def naive_f(prediction: np.ndarray, truth: np.ndarray, radius: int) -> float:
    a, b = naive_edges(prediction), naive_edges(truth)
    if not a and not b:
        return float(prediction.any() == truth.any())
    if not a or not b:
        return 0.0

    def share(edges: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        return sum(any((i - y) ** 2 + (j - x) ** 2 <= radius**2 for y, x in others) for i, j in edges) / len(edges)

    p, r = share(a, b), share(b, a)
    return 2 * p * r / (p + r) if p + r else 0.0


def blob(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    cy, cx = random.uniform(0, size[0]), random.uniform(0, size[1])
    ry, rx = random.uniform(1, 2 + size[0] / 2), random.uniform(1, 2 + size[1] / 2)
    mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    return (mask ^ (random.random(size) < 0.02)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_f_is_that_of_a_loop_over_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(1, 26)), int(random.integers(1, 26)))
    prediction = blob(random, size)
    truth = np.roll(prediction, 1, seed % 2) if seed % 3 else blob(random, size)
    assert boundary_f(prediction, truth) == pytest.approx((naive_f(prediction, truth, 1), naive_f(prediction, truth, 2)), abs=1e-12)
    assert {tuple(at) for at in np.argwhere(boundary_map(truth)).tolist()} == naive_edges(truth)


def test_nothing_is_not_the_whole_image_though_neither_has_a_boundary() -> None:
    nothing, whole = np.zeros((9, 7), np.uint8), np.ones((9, 7), np.uint8)
    assert boundary_f(nothing, whole) == boundary_f(whole, nothing) == (0.0, 0.0)
    assert boundary_f(nothing, nothing) == boundary_f(whole, whole) == (1.0, 1.0)


@pytest.mark.parametrize("seed", range(30))
def test_a_window_gives_the_value_of_the_image(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    size = (60, 70)
    image = np.zeros((2, *size), np.uint8)
    for mask in image:  # two overlapping ellipses, some of them cut by the image border
        h, w = int(random.integers(5, 20)), int(random.integers(5, 20))
        y, x = int(random.choice([0, 12, 60 - h])), int(random.choice([0, 15, 70 - w]))
        mask[y : y + h, x : x + w] = blob(random, (h, w))
    ys, xs = np.nonzero(image.any(0))
    rows = slice(max(ys.min() - MARGIN, 0), ys.max() + 1 + MARGIN)
    columns = slice(max(xs.min() - MARGIN, 0), xs.max() + 1 + MARGIN)
    window = np.ascontiguousarray(image[:, rows, columns])
    assert boundary_f(window[0], window[1]) == boundary_f(image[0], image[1])


def test_elements_are_the_exact_disks() -> None:
    assert disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert [int(disk(r).sum()) for r in (1, 2, 3)] == [5, 13, 29]


@pytest.mark.parametrize("radius,moved", [(1, 1), (2, 2), (1, 3), (2, 3)])
def test_concentric_squares_by_formula(radius: int, moved: int) -> None:
    """Square frames n and n + 2 moved: within reach every pixel but the corners matches, out of reach none does."""
    side, size = 30, 60
    prediction, truth = np.zeros((2, size, size), np.uint8)
    prediction[15 : 15 + side, 15 : 15 + side] = 1
    truth[15 - moved : 15 + side + moved, 15 - moved : 15 + side + moved] = 1
    outer = 4 * (side + 2 * moved)
    assert int(boundary_map(prediction).sum()) == 4 * side
    assert int(boundary_map(truth).sum()) == outer
    if moved > radius:
        expected = 0.0
    else:
        # The sides reach each other exactly; at each of the four corners 2 * moved - 1 outer pixels are further away.
        recall = (outer - 4 * (2 * moved - 1)) / outer
        expected = 2 * recall / (1 + recall)
    assert boundary_f(prediction, truth)[radius - 1] == pytest.approx(expected)


@pytest.mark.parametrize("radius", [12.0, 25.0, 60.0])
def test_discs_in_closed_form(radius: float) -> None:
    """Discs whose radii differ by less than 1 px have F_2px = 1; by more than 4 px, 0."""
    side = int(2 * radius + 20)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    near, disc, far = (((y * y + x * x) < r * r).astype(np.uint8) for r in (radius - 0.9, radius, radius - 4.5))
    assert boundary_f(near, disc)[1] == 1.0
    assert boundary_f(far, disc) == (0.0, 0.0)
    # An edge with normal n has |n_x| + |n_y| boundary pixels per pixel of its length: integrated around the disc, 8 r.
    assert int(boundary_map(disc).sum()) == pytest.approx(8 * radius, rel=0.03)


def test_empty_cases() -> None:
    empty, full = np.zeros((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    full[2:4, 2:4] = 1
    assert boundary_f(empty, empty) == (1.0, 1.0)
    assert boundary_f(empty, full) == (0.0, 0.0)
    assert boundary_f(full, empty) == (0.0, 0.0)
    assert boundary_f(full, full) == (1.0, 1.0)
    assert boundary_f(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8)) == (1.0, 1.0)
    everywhere = np.ones((6, 6), np.uint8)
    assert boundary_f(everywhere, everywhere) == (1.0, 1.0)  # the image border is not a boundary: both are empty
