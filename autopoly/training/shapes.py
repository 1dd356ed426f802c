"""Drawn samples with exact edges: shapes that carry the texture of one photo on the texture of another. S crop side, V ring points.

Photos are outlined by people, a pixel or two beside the edge, and show few roofs, cells or signs. A drawn shape's outline is exact, and
its kind is any. Sizes are in the frame of a cached crop, whose box is the central 1 / scale of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.geometry import contours, raster
from autopoly.types import FloatArray, Polygon

Pixels = NDArray[np.uint8]
_FINE = 2
"""Drawn at twice the size and averaged down: edges are blended as a camera blends them."""


def _ellipse(rng: np.random.Generator) -> FloatArray:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle) * rng.uniform(0.4, 1.0)], axis=1)


def _blob(rng: np.random.Generator) -> FloatArray:
    angle = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    radius = np.ones(160)
    for frequency in range(2, int(rng.integers(4, 12))):
        radius += rng.normal(0, 0.35 / frequency) * np.cos(frequency * angle + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.15)
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius * rng.uniform(0.5, 1.0)], axis=1)


def _polygon(rng: np.random.Generator) -> FloatArray:
    count = int(rng.integers(3, 9))
    angle = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count * 2 * np.pi
    radius = rng.uniform(0.45, 1.0, count) if rng.random() < 0.5 else np.ones(count)
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1)


def _roof(rng: np.random.Generator) -> FloatArray:
    """Give a rectangle with a corner cut out or a wing put on: an outline of right angles."""
    width, depth = rng.uniform(0.7, 1.0), rng.uniform(0.35, 0.9)
    ring = [(-width, -depth), (width, -depth), (width, depth), (-width, depth)]
    if rng.random() < 0.65:
        x, y = rng.uniform(-0.6, 0.6) * width, rng.uniform(-0.6, 0.6) * depth
        ring = [(-width, -depth), (x, -depth), (x, y), (width, y), (width, depth), (-width, depth)]
        if rng.random() < 0.4:
            x2 = rng.uniform(-width, min(x, width) - 0.05)
            wing = [(x2, -depth), (x2, -depth - 0.3), (x, -depth - 0.3)]
            ring = [ring[0], *wing, *ring[2:]]
    return np.array(ring, dtype=np.float64)


_KINDS: tuple[Callable[[np.random.Generator], FloatArray], ...] = (_ellipse, _blob, _polygon, _roof, _roof)


def drawn(photos: Pixels, chosen: NDArray[np.intp], side: int, scale: float, rng: np.random.Generator) -> tuple[Pixels, FloatArray]:
    """Draw one sample, textured by the ``chosen`` of ``photos`` (M, S, S, 3): pixels (``side``, ``side``, 3), ring (V, 2) in box units."""
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    shape = _placed(kind(rng), rng)
    low, high = shape.min(axis=0), shape.max(axis=0)
    stretch = np.exp(rng.uniform(-0.25, 0.25, 2))  # boxes are warped to squares
    size = side * _FINE

    def to_crop(points: FloatArray) -> FloatArray:  # from box units
        return ((points - 0.5) / scale + 0.5) * size

    ring = (shape - low) / (high - low)
    ground, body = (_texture(photos[int(rng.choice(chosen))], size, rng) for _ in range(2))
    body = _told_apart(body, ground, rng)
    pixels = ground
    for _ in range(int(rng.integers(0, 4))):
        # Neighbours of the same kind, outside of the box and behind.
        other = _placed(kind(rng), rng)
        other = (other - other.min(axis=0)) / (other.max(axis=0) - other.min(axis=0)) * stretch
        direction = rng.uniform(0, 2 * np.pi)
        other += np.array([np.cos(direction), np.sin(direction)]) * rng.uniform(0.75, 1.2)
        pixels = _painted(pixels, _shaded(body, rng), to_crop(other))
    if rng.random() < 0.3:  # a cast shadow
        away = rng.normal(0, 0.05, 2)
        pixels = _painted(pixels, (pixels * rng.uniform(0.3, 0.8)).astype(np.uint8), to_crop(ring + away))
    pixels = _painted(pixels, _shaded(body, rng), to_crop(ring))
    if kind is _roof and rng.random() < 0.6:  # a ridge: one side lies in another light
        middle = ring.mean(axis=0)
        half = ring[(ring @ (across := rng.normal(size=2))) > middle @ across]
        if len(half) >= 3:
            pixels = _painted(pixels, (pixels * rng.uniform(0.7, 0.95)).astype(np.uint8), to_crop(half), within=to_crop(ring))
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.4, 1.6))
    return np.asarray(small, dtype=np.uint8), ring


def _placed(shape: FloatArray, rng: np.random.Generator) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return contours.clockwise(shape @ turn.T)


def _texture(photo: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    part = int(rng.integers(photo.shape[0] // 6, photo.shape[0]))
    x, y = rng.integers(0, photo.shape[0] - part + 1, 2)
    piece: Any = photo[y : y + part, x : x + part]  # OpenCV's stubs give any number type
    if rng.random() < 0.35:  # plain surfaces
        cells = int(rng.integers(2, 14))
        piece = cv2.resize(piece, (cells, cells), interpolation=cv2.INTER_AREA)
    piece = cv2.resize(piece, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(piece, dtype=np.uint8)


def _told_apart(body: Pixels, ground: Pixels, rng: np.random.Generator) -> Pixels:
    """Move the mean colour of the body away from the ground's, by little or much."""
    wanted = ground.mean(axis=(0, 1)) + rng.normal(0, 1, 3) * 12 + rng.choice([-1, 1]) * rng.uniform(12, 90)
    moved: Pixels = np.clip(body * rng.uniform(0.4, 1.0) + (wanted - body.mean(axis=(0, 1)) * 0.7), 0, 255).astype(np.uint8)
    return moved


def _shaded(body: Pixels, rng: np.random.Generator) -> Pixels:
    ramp = np.linspace(-1, 1, body.shape[0], dtype=np.float32)
    light = 1 + rng.uniform(-0.2, 0.2) * ramp[:, None] + rng.uniform(-0.2, 0.2) * ramp[None, :]
    return np.clip(body * light[..., None], 0, 255).astype(np.uint8)


def _painted(under: Pixels, over: Pixels, ring: FloatArray, within: FloatArray | None = None) -> Pixels:
    size = (under.shape[0], under.shape[1])
    mask = raster.fill((Polygon(ring),), size)
    if within is not None:
        mask &= raster.fill((Polygon(within),), size)
    return np.where(mask[..., None], over, under)
