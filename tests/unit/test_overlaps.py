"""Whose a pixel is that several objects claim."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autopoly.crops import Crop, cut
from autopoly.geometry import raster
from autopoly.geometry.contours import trace_field
from autopoly.overlaps import settled
from autopoly.types import FloatArray

SIZE = (200, 300)
SIDE, CELLS = 96, 48
Disc = tuple[float, float, float]
"""Centre x and y, and radius, image px."""


def claim(disc: Disc, sure: float = 1.0) -> tuple[Crop, NDArray[np.float32]]:
    """Claim a disc: logits that rise towards its centre, ``sure`` for each of its px."""
    x, y, radius = disc
    crop = cut(np.zeros((*SIZE, 3), np.uint8), np.array([x - radius, y - radius, x + radius, y + radius]), 1.4, SIDE)
    index = (np.arange(CELLS) + 0.5) / CELLS
    where: FloatArray = crop.from_sides(np.stack(np.meshgrid(index, index), axis=-1))
    return crop, ((radius - np.hypot(where[..., 0] - x, where[..., 1] - y)) * sure).astype(np.float32)


def masks(claims: list[tuple[Crop, NDArray[np.float32]]], logits: list[NDArray[np.float32]]) -> list[NDArray[np.bool_]]:
    found = []
    for (crop, _), one in zip(claims, logits, strict=True):
        found.append(raster.fill([polygon.mapped(crop.to_image) for polygon in trace_field(one, 0.0, SIDE / CELLS)], SIZE))
    return found


def test_two_equals_meet_in_the_middle() -> None:
    claims = [claim((100, 100, 50)), claim((170, 100, 50))]
    before = masks(claims, [one for _, one in claims])
    after = masks(claims, settled([crop for crop, _ in claims], [one for _, one in claims]))
    assert (before[0] & before[1]).sum() > 1000
    assert (after[0] & after[1]).sum() < 10
    assert ((before[0] | before[1]) & ~(after[0] | after[1])).sum() < 10
    assert after[0][100].nonzero()[0].max() == 134


def test_the_surer_one_has_the_pixel_at_every_scale() -> None:
    claims = [claim((100, 100, 80)), claim((190, 110, 20), sure=20)]
    large, small = masks(claims, settled([crop for crop, _ in claims], [one for _, one in claims]))
    before = masks(claims, [one for _, one in claims])
    assert 0 < (before[0] & before[1]).sum() <= 0.6 * before[1].sum()
    assert (small & ~before[1]).sum() == 0
    assert small.sum() > 0.97 * before[1].sum()
    assert (large & small).sum() < 0.03 * small.sum()


def test_nested_and_distant_objects_keep_what_they_claim() -> None:
    wheel_in_car = [claim((150, 100, 80)), claim((150, 120, 20))]
    same_twice = [claim((80, 100, 50)), claim((81, 100, 50))]
    apart = [claim((60, 100, 40)), claim((200, 100, 40))]
    for claims in (wheel_in_car, same_twice, apart):
        for (_, one), left in zip(claims, settled([crop for crop, _ in claims], [one for _, one in claims]), strict=True):
            np.testing.assert_array_equal(left, one)


def test_the_order_of_boxes_changes_nothing() -> None:
    claims = [claim((100, 100, 50)), claim((170, 100, 45)), claim((135, 150, 40)), claim((260, 60, 30))]
    forward = settled([crop for crop, _ in claims], [one for _, one in claims])
    backward = settled([crop for crop, _ in reversed(claims)], [one for _, one in reversed(claims)])
    for one, other in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_claimed_and_nobody_there() -> None:
    crop, one = claim((100, 100, 50))
    nothing = np.full_like(one, -5)
    assert settled([], []) == []
    np.testing.assert_array_equal(settled([crop, crop], [one, nothing])[0], one)
