"""Drawn samples: their ring is exact, fills the box, follows the seed; and how they enter a cache."""

import dataclasses

import numpy as np
import pytest

from autopoly.formats import coco
from autopoly.geometry import contours, raster
from autopoly.training import shapes
from autopoly.training.augment import AugmentConfig
from autopoly.training.cache import CacheConfig, Source
from autopoly.training.samples import cached
from autopoly.types import Polygon

SIDE, SCALE = 144, 1.8
CACHE = CacheConfig(side=96, mask_side=48, ring=64, smallest_side=4, drawn=30)


@pytest.fixture(scope="module")
def photos():
    noise = np.random.default_rng(1).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    return noise.repeat(8, axis=1).repeat(8, axis=2)


def draw(photos, seed, chosen=(0, 1)):
    return shapes.drawn(photos, np.array(chosen), SIDE, SCALE, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(25))
def test_a_ring_fills_its_box_and_turns_clockwise(photos, seed):
    pixels, ring = draw(photos, seed)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose([ring.min(0), ring.max(0)], [[0, 0], [1, 1]], atol=1e-9)
    assert contours.signed_area(ring) > 0.05


def test_the_edge_in_the_pixels_is_where_the_ring_says(photos):
    """Where all other things are left out: a plain body on a plain ground differs within the ring and nowhere else."""
    plain = np.full((2, 96, 96, 3), 127, np.uint8)
    agreed = []
    for seed in range(30):
        pixels, ring = draw(plain, seed)
        filled = raster.fill((Polygon(((ring - 0.5) / SCALE + 0.5) * SIDE),), (SIDE, SIDE))
        ground = pixels[~filled & (np.indices(filled.shape).min(0) < 2)].mean(0)
        other = np.abs(pixels.astype(float) - ground).sum(2) > 8
        agreed.append((other & filled).sum() / filled.sum())
    assert np.median(agreed) > 0.97


def test_the_seed_decides_everything(photos):
    first, again, other = draw(photos, 3), draw(photos, 3), draw(photos, 4)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_textures_come_from_the_chosen_photos_alone(photos):
    changed = photos.copy()
    changed[2] = 255 - changed[2]
    np.testing.assert_array_equal(draw(photos, 5)[0], draw(changed, 5)[0])


def test_drawn_samples_are_learned_from_in_their_share_and_never_held_out(ellipses, tmp_path):
    source = Source("ellipses", coco.read(ellipses))
    samples = cached([source], tmp_path, CACHE, share=0.2, shapes=0.25)
    photos = cached([source], tmp_path / "without", dataclasses.replace(CACHE, drawn=0), share=0.2)
    assert len(samples.table) == len(photos.table) + 30
    assert samples.sizes.tolist() == photos.sizes.tolist()
    np.testing.assert_array_equal(samples.validation, photos.validation)
    drawn = samples.table["source"] == 1
    assert drawn.sum() == 30
    picked = samples.draw(0, 0, 4000)
    assert drawn[picked].mean() == pytest.approx(0.25, abs=0.03)
    made = samples.sample(int(np.flatnonzero(drawn)[0]), 64, 1.4, 32, None, AugmentConfig())
    filled = raster.fill((Polygon(made.contour.astype(np.float64) / 2),), (32, 32))
    truth = made.mask > 127
    assert (filled & truth).sum() / (filled | truth).sum() > 0.8


def test_a_cache_keeps_no_more_than_its_largest_crops_need():
    assert (CacheConfig.of(224).side, CacheConfig.of(224).mask_side) == (288, 144)
    assert CacheConfig.of(160).side < CacheConfig.of(288).side < 2 * CacheConfig.of(160).side
