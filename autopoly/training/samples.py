"""Samples to learn from, drawn from a cache of crops and varied. S crop side, K contour vertices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autopoly.crops import OUTSIDE, central_box, resample
from autopoly.geometry import matching
from autopoly.geometry.boxes import scale_xyxy
from autopoly.training import augment, cache
from autopoly.training.cache import CacheConfig, LeftOut, Source


def cached(
    sources: Sequence[Source], folder: Path, config: CacheConfig, share: float = 0.04, shapes: float = 0.0, processes: int = 1
) -> Samples:
    """Open the cache in ``folder``, or build it in ``processes`` (:func:`autopoly.training.cache.build`).

    ``share`` of each source's images is held out; ``shapes`` is the share of the cache's drawn samples in what is drawn to learn from.
    """
    cache.build(sources, folder, config, share, processes)
    return Samples(folder, config, [source.weight for source in sources], shapes)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One training sample: pixels (S, S, 3) uint8, mask coverage (S/2, S/2) uint8, matched contour (K, 2) crop px, corrections ()."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    contour: NDArray[np.float32]
    corrections: NDArray[np.int64]


class Samples:
    """The cache, by index. Opening it reads nothing but a table."""

    def __init__(self, folder: Path, config: CacheConfig, weights: Sequence[float], shapes: float = 0.0) -> None:
        self._opened = (folder, config, tuple(weights), shapes)
        self.config = config
        self.table = np.load(folder / "table.npy")
        index = json.loads((folder / "index.json").read_text())
        self.left_out: LeftOut = {code: (count, first) for code, (count, first) in index.get("left_out", {}).items()}
        self.key = hashlib.sha256(json.dumps(index["described"], sort_keys=True).encode()).hexdigest()[:16]
        count, side, mask = len(self.table), config.side, config.mask_side
        self.pixels = np.memmap(folder / "pixels.u8", np.uint8, "r", shape=(count, side, side, 3))
        self.masks = np.memmap(folder / "masks.u8", np.uint8, "r", shape=(count, mask, mask))
        self.rings = np.memmap(folder / "rings.f4", np.float32, "r", shape=(count, config.ring, 2))
        self.train = np.flatnonzero(~self.table["held_out"])
        self.validation = np.flatnonzero(self.table["held_out"])
        source = self.table["source"][self.train]
        sizes = np.bincount(source, minlength=len(weights)).astype(np.float64)
        self.sizes = sizes[: len(weights)]
        # A source counts by the square root of its size: the large ones must not drown the others.
        share = np.sqrt(self.sizes) * np.asarray(weights)
        share *= (1 - shapes) / share.sum()
        share = np.append(share, shapes)[: len(sizes)]  # the drawn ones come last, where there are any
        cumulative = np.cumsum(share[source] / np.maximum(sizes[source], 1))
        self._cumulative = cumulative / cumulative[-1:]

    def __reduce__(self) -> tuple[type[Samples], tuple[Path, CacheConfig, tuple[float, ...], float]]:
        # A loader process opens the cache itself; the arrays would travel as gigabytes.
        return Samples, self._opened

    def held_out_images(self) -> list[tuple[int, int]]:
        """List the held-out images with samples, each as (source, record), in order."""
        rows = self.table[self.validation]
        return sorted(set(zip(rows["source"].tolist(), rows["record"].tolist(), strict=True)))

    def draw(self, seed: int, step: int, count: int) -> NDArray[np.int64]:
        """Draw the samples of one step, a function of (seed, step) alone, so that a resumed run sees what an undisturbed one sees."""
        rng = np.random.default_rng([seed, step])
        places = np.searchsorted(self._cumulative, rng.random(count), side="right")
        drawn: NDArray[np.int64] = self.train[places.clip(max=len(self.train) - 1)]
        return drawn

    def sample(
        self, index: int, side: int, search_scale: float, vertices: int, rng: np.random.Generator | None, config: augment.AugmentConfig
    ) -> Sample:
        """Make one sample with S = ``side``; without ``rng`` as it is (validation)."""
        cache = self.config
        placement = augment.Placement(np.array([0.0, 0.0, 1.0, 1.0]), False, 0) if rng is None else augment.place(rng, config)
        region = scale_xyxy(placement.box, search_scale)
        # From box units to the cached crop: the true box is its central 1 / scale.
        in_cache = (region - 0.5) / cache.scale + 0.5
        pixels = resample(self.pixels[index], in_cache * cache.side, (side, side), OUTSIDE)
        mask = resample(self.masks[index], in_cache * cache.mask_side, (side // 2, side // 2), 0)
        ring = (self.rings[index].astype(np.float64) - region[:2]) / (region[2:] - region[:2]) * side
        corrections = 0
        if rng is not None:
            pixels = augment.recolour(augment.turn_pixels(pixels, placement), rng, config)
            mask = augment.turn_pixels(mask, placement)
            ring = augment.turn_points(ring, placement, side)
            corrections = augment.corrections(rng, config)
        target = matching.match(ring, central_box(side, search_scale), vertices)
        return Sample(pixels, mask, target.astype(np.float32), np.array(corrections))
