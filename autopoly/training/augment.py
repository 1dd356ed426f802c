"""Random variations of a training sample, a function of (seed, draw) alone. S crop side, K contour vertices, V ring points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.types import FloatArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How strongly samples vary; probabilities unless a unit is given."""

    jitter: float = 0.08
    """Largest standard deviation of each box side's shift, in box sides; a sample's own is drawn below it: users' boxes differ."""
    exact_box: float = 0.35
    """Share of samples whose box is not jittered."""
    flip: float = 0.5
    quarter_turn: float = 0.25
    brightness: float = 0.25
    """Largest relative change of brightness and of contrast."""
    tint: float = 0.12
    """Largest relative change of one colour channel."""
    grey: float = 0.1
    invert: float = 0.03
    blur: float = 0.12
    noise: float = 0.08
    jpeg: float = 0.08
    corrections: float = 0.15
    """Share of samples in which a user puts the one to four worst vertices in place."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Which part of a cached crop becomes the network's: a box in its frame (units of the true box, (0, 0, 1, 1) = true), flip, quarter
    turns.
    """

    box: FloatArray
    flip: bool
    turns: int


def place(rng: np.random.Generator, config: AugmentConfig) -> Placement:
    """Draw a jittered box and an orientation."""
    box = np.array([0.0, 0.0, 1.0, 1.0])
    if rng.random() >= config.exact_box:
        deviation = rng.uniform(0, config.jitter)
        box = box + np.clip(rng.normal(0, deviation, 4), -2.5 * deviation, 2.5 * deviation)
    turns = int(rng.integers(1, 4)) if rng.random() < config.quarter_turn else 0
    return Placement(box, bool(rng.random() < config.flip), turns)


def turn_pixels(pixels: Pixels, placement: Placement) -> Pixels:
    """Flip left-right, then turn clockwise; (S, S, ...) to the same shape."""
    if placement.flip:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.rot90(pixels, -placement.turns))


def turn_points(points: FloatArray, placement: Placement, side: float) -> FloatArray:
    """Turn points (V, 2) of a square of ``side`` as :func:`turn_pixels` turns its pixels; the order is kept clockwise."""
    x, y = points[:, 0], points[:, 1]
    if placement.flip:
        x, y = side - x[::-1], y[::-1]
    for _ in range(placement.turns):
        x, y = side - y, x
    return np.stack([x, y], axis=1)


def recolour(crop: Pixels, rng: np.random.Generator, config: AugmentConfig) -> Pixels:
    """Vary light, colour and sharpness of (S, S, 3) uint8 RGB."""
    pixels: Any = crop  # OpenCV's stubs give any number type
    if rng.random() < config.blur:
        side = pixels.shape[0]
        small = max(32, int(side * rng.uniform(0.3, 0.8)))
        pixels = cv2.resize(cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA), (side, side), interpolation=cv2.INTER_LINEAR)
    if rng.random() < config.jpeg:
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    gain = 1 + rng.uniform(-config.brightness, config.brightness)
    contrast = 1 + rng.uniform(-config.brightness, config.brightness)
    scale = gain * contrast * (1 + rng.uniform(-config.tint, config.tint, 3))
    # One table per channel is a tenth of the cost of float arithmetic over the crop.
    levels = np.arange(256)[:, None] * scale + 127 * gain * (1 - contrast)
    if rng.random() < config.invert:
        levels = 255 - levels
    table = np.clip(levels, 0, 255).astype(np.uint8)
    pixels = cv2.LUT(pixels, table[None])
    if rng.random() < config.grey:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < config.noise:
        noise = rng.integers(-18, 19, pixels.shape, dtype=np.int16)
        pixels = np.clip(pixels.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return np.asarray(pixels, dtype=np.uint8)


def corrections(rng: np.random.Generator, config: AugmentConfig) -> int:
    """Draw how many vertices a user puts in place; usually none."""
    return int(rng.integers(1, 5)) if rng.random() < config.corrections else 0
