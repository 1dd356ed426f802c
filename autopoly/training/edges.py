"""Train the edge pass on strips along outlines that the trained network predicts. M strips, N places along a ring, T across, V vertices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from autopoly import strips
from autopoly.crops import cut
from autopoly.geometry import raster
from autopoly.network.edge import EdgePass, offset
from autopoly.sharpen import Look, is_long
from autopoly.training.objective import unscaled_dtype
from autopoly.training.schedule import cosine
from autopoly.types import FloatArray, Polygon

Example = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A strip (4, T, N) and what of it is truly inside (T, N), in 255ths."""


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """How the edge pass learns."""

    steps: int = 800
    width: int = 24
    """Channels."""
    instances: int = 160
    """Most instances of a source whose outlines are looked along."""
    batch: int = 64
    rate: float = 2e-3
    clip: float = 1.0
    """Largest gradient norm."""
    precision: str = "auto"
    wobble: float = 0.012
    """Standard deviation of the smooth error that is added to predicted outlines, crop sides."""


def wobbled(ring: FloatArray, rng: np.random.Generator, size: float) -> FloatArray:
    """Move a ring (V, 2) by a smooth random offset along its normals, standard deviation ``size``."""
    wave = np.arange(strips.PLACES) / strips.PLACES * 2 * np.pi
    offsets = np.full(strips.PLACES, rng.normal(0, 0.5))
    for frequency in range(1, 9):
        offsets += np.cos(wave * frequency + rng.uniform(0, 2 * np.pi)) * rng.normal(0, 0.4)
    return strips.move(ring, np.clip(offsets * size, -0.8 * strips.REACH, 0.8 * strips.REACH))


def examples(look: Look, truth: Sequence[Polygon], search_scale: float, rng: np.random.Generator, wobble: float) -> Iterator[Example]:
    """Give strips along the rings of a predicted outline, with the truth beside: as they are, and wobbled."""
    crop = cut(look.image, look.box, search_scale, strips.SIDE)
    inside = raster.fill([polygon.mapped(crop.to_crop) for polygon in truth], (strips.SIDE, strips.SIDE)).astype(np.uint8) * 255
    for polygon in look.polygons:
        for drawn in filter(is_long, polygon.mapped(crop.to_sides).rings):
            for ring in (drawn, wobbled(drawn, rng, wobble)):
                yield strips.strip(crop.pixels, look.mask_logits, ring), strips.look(inside, strips.places(ring))


def fit(edge: EdgePass, known: Sequence[Example], chances: FloatArray, config: EdgeConfig, seed: int, device: str) -> None:
    """Train on examples drawn with ``chances`` (M,)."""
    seen, inside = np.stack([one for one, _ in known]), np.stack([one for _, one in known])
    edge.to(device).train().requires_grad_(True)
    dtype = unscaled_dtype(config.precision, device)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(edge.parameters(), lr=config.rate, weight_decay=0.01)
    cumulative = np.cumsum(chances) / chances.sum()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.rate * cosine(step / config.steps)
        chosen = np.searchsorted(cumulative, rng.random(config.batch)).clip(max=len(seen) - 1)
        batch, truth = _varied(seen[chosen], inside[chosen], rng)
        target = torch.from_numpy(truth).to(device).float() / 255
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            logits = edge(torch.from_numpy(batch).to(device))
        optimizer.zero_grad()
        _loss(logits, target).backward()  # type: ignore[no-untyped-call]
        # One batch of nothing but noise must not end it.
        if torch.nn.utils.clip_grad_norm_(edge.parameters(), config.clip).isfinite():
            optimizer.step()
    edge.eval().requires_grad_(False)


def _loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    # Where a strip shows one edge and no more, its place counts.
    falls = (target[:, :-1] - target[:, 1:]).clamp(min=0).sum(1)
    rises = (target[:, 1:] - target[:, :-1]).clamp(min=0).sum(1)
    clear = ((falls > 0.9) & (rises < 0.1)).float()
    error = F.smooth_l1_loss(offset(torch.sigmoid(logits)), offset(target), beta=1.0, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, target) + 0.1 * (error * clear).sum() / clear.sum().clamp(min=1)


def _varied(seen: NDArray[np.uint8], inside: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Run half of the strips the other way round, and vary light."""
    flip = rng.random(len(seen)) < 0.5
    seen, inside = np.where(flip[:, None, None, None], seen[..., ::-1], seen), np.where(flip[:, None, None], inside[..., ::-1], inside)
    gain = rng.uniform(0.7, 1.3, (len(seen), 3, 1, 1))
    colours = np.clip((seen[:, :3] - 127.5) * gain + 127.5, 0, 255).astype(np.uint8)
    return np.concatenate([colours, seen[:, 3:]], axis=1), np.ascontiguousarray(inside)
