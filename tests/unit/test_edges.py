"""The edge pass: strips along rings, rings moved by what is seen there, and a pass that learns to see it."""

import cv2
import numpy as np
import pytest
import torch

from autopoly import strips
from autopoly.geometry import contours, raster
from autopoly.network.edge import EdgePass, offset
from autopoly.sharpen import Look, is_large, sharpened
from autopoly.training.edges import EdgeConfig, examples, fit, wobbled
from autopoly.types import Polygon

BOX = np.array([60.0, 40.0, 260.0, 240.0])
SIZE = (300, 340)


def circle(centre, radius, count=200):
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + centre


def distance_to_circle(ring, centre, radius):
    return np.abs(np.linalg.norm(ring - centre, axis=1) - radius)


def scene(rings, light=200, dark=60):
    """Draw filled rings (the second a hole of the first) and give the picture with its polygon."""
    polygon = Polygon(rings[0], tuple(rings[1:]))
    filled = raster.fill((polygon,), SIZE)
    noise = np.random.default_rng(0).normal(0, 4, (*SIZE, 3))
    return np.clip(np.where(filled[..., None], light, dark) + noise, 0, 255).astype(np.uint8), polygon


def by_brightness(seen):
    """Find the edge as a perfect edge pass would in a picture of a light object: where brightness crosses the middle."""
    inside = seen[:, :3].mean(1) > 130
    return inside.sum(1) - inside.shape[1] / 2


def test_a_ring_that_is_not_moved_stays():
    ring = circle((0.5, 0.5), 0.3)
    np.testing.assert_array_equal(strips.move(ring, np.zeros(strips.PLACES)), ring)


def test_a_ring_moves_outwards_by_what_it_is_told():
    moved = strips.move(circle((0.5, 0.5), 0.3), np.full(strips.PLACES, 0.02))
    np.testing.assert_allclose(distance_to_circle(moved, (0.5, 0.5), 0.32), 0, atol=1e-4)


def test_the_first_row_of_a_strip_is_inside():
    picture, polygon = scene([circle((160, 140), 80)])
    seen = strips.strip(picture, np.zeros((8, 8), np.float32), polygon.exterior / (SIZE[1], SIZE[0]))
    assert seen.shape == (4, strips.ACROSS, strips.PLACES)
    assert seen[:3, 0].mean() > 190
    assert seen[:3, -1].mean() < 70
    assert (seen[3] == 128).all()


def test_offset_counts_rows():
    inside = torch.zeros(1, strips.ACROSS, 2)
    inside[:, :16, 0], inside[:, :9, 1] = 1, 1
    assert offset(inside).tolist() == [[3.5, -3.5]]


@pytest.mark.parametrize("error", [-3.0, -1.5, 2.0, 4.0])
def test_an_outline_comes_back_onto_the_edge(error):
    """An outer ring and a hole, each off by ``error`` px: both come back to within half a pixel."""
    outer, hole = circle((160, 140), 90), circle((160, 140), 45)[::-1].copy()
    picture, _ = scene([outer, hole])
    wrong = (Polygon(circle((160, 140), 90 + error), (circle((160, 140), 45 - error)[::-1].copy(),)),)
    (found,) = sharpened([Look(picture, BOX, wrong, np.zeros((72, 72), np.float32))], 1.4, by_brightness)
    assert distance_to_circle(found[0].exterior, (160, 140), 90).mean() < 0.5
    assert distance_to_circle(found[0].holes[0], (160, 140), 45).mean() < 0.5


def test_specks_stay_and_the_order_is_kept():
    picture, _ = scene([circle((160, 140), 90)])
    speck, blob = Polygon(circle((100, 100), 3, 12)), Polygon(circle((160, 140), 93))
    mask = np.zeros((72, 72), np.float32)
    alone, both = sharpened([Look(picture, BOX, (speck,), mask), Look(picture, BOX, (speck, blob), mask)], 1.4, by_brightness)
    np.testing.assert_allclose(alone[0].exterior, speck.exterior)
    np.testing.assert_allclose(both[0].exterior, speck.exterior)
    assert distance_to_circle(both[1].exterior, (160, 140), 90).mean() < 0.5


def test_only_large_boxes_gain():
    assert is_large(BOX)
    assert not is_large(np.array([0.0, 0.0, 400.0, 99.0]))


def test_a_wobble_stays_within_the_strip():
    ring = contours.resample(circle((0.5, 0.5), 0.35), 256)
    for seed in range(20):
        away = distance_to_circle(wobbled(ring, np.random.default_rng(seed), 0.02), (0.5, 0.5), 0.35)
        assert 0 < away.max() < strips.REACH


def test_it_learns_to_see_an_edge():
    rng = np.random.default_rng(3)
    known = []
    for _ in range(24):
        radius, centre = rng.uniform(60, 90), (160 + rng.uniform(-8, 8), 140 + rng.uniform(-8, 8))
        picture, polygon = scene([circle(centre, radius)], *rng.permutation([rng.integers(120, 250), rng.integers(10, 90)]))
        look = Look(picture, BOX, (polygon,), np.zeros((72, 72), np.float32))
        known += examples(look, (polygon,), 1.4, rng, 0.02)
    assert len(known) == 48
    torch.manual_seed(0)
    edge = EdgePass(8)
    seen, truth = (torch.from_numpy(np.stack([one[part] for one in known])) for part in (0, 1))
    target = offset(truth.float() / 255)

    def error():
        with torch.no_grad():
            return float((offset(torch.sigmoid(edge(seen))) - target).abs().mean())

    before = error()
    fit(edge, known, np.ones(len(known)), EdgeConfig(steps=150, batch=8, rate=1e-2), 0, "cpu")
    assert error() < min(0.3 * before, 0.8)
    assert not any(parameter.requires_grad for parameter in edge.parameters())


def test_the_picture_is_read_where_the_points_are():
    ramp = cv2.resize(np.arange(4, dtype=np.float32)[None], (40, 10), interpolation=cv2.INTER_LINEAR)
    where = np.array([[[0.5, 0.5], [0.26, 0.2]]])
    np.testing.assert_allclose(strips.look(ramp, where), [[1.5, 4 * 0.26 - 0.5]], atol=0.05)
