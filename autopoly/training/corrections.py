"""Train the correction pass with an annotator who puts the worst vertex right, and looks again. B batch, K vertices, S crop side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopoly.crops import central_box
from autopoly.errors import DataError
from autopoly.geometry.contours import single_ring, trace_field
from autopoly.geometry.matching import match
from autopoly.network.siamanno import Seen, SiamAnno
from autopoly.training.augment import AugmentConfig
from autopoly.training.batches import Stream, loader, stacked
from autopoly.training.losses import LossConfig, mask_loss
from autopoly.training.objective import errors, overlap, unscaled_dtype
from autopoly.training.samples import Samples
from autopoly.training.schedule import TrainConfig, rate_at
from autopoly.types import FloatArray

MEASURED = 256
"""Held-out samples on which corrections are measured."""
LOOKS = (0, 1, 2, 3, 5)
"""Corrections after which they are."""


@dataclass(frozen=True, slots=True)
class CorrectionConfig:
    """How the correction pass learns."""

    steps: int = 1500
    width: int = 48
    """Channels at stride 4."""
    batch: int = 32
    rate: float = 1.5e-3
    decay: float = 0.02
    clip: float = 1.0
    """Largest gradient norm."""
    precision: str = "auto"
    counts: tuple[float, ...] = (0.3, 0.3, 0.2, 0.1, 0.1)
    """Shares of the steps in which the annotator makes one, two, ... corrections; each is learned from."""
    anywhere: float = 0.12
    """Share of corrections at any vertex instead of the worst."""


class Annotated:
    """A batch of crops as an annotator sees it: the outlines of the masks, and the vertices put right so far."""

    def __init__(self, network: SiamAnno, batch: dict[str, Tensor], device: str, dtype: torch.dtype) -> None:
        """Look at the crops once: the backbone does not change with corrections."""
        self._network, self._device, self._dtype = network, device, dtype
        pixels = batch["pixels"].to(device).permute(0, 3, 1, 2)
        self.side = pixels.shape[-1]
        self.truth = batch["contour"]
        self.target = (batch["mask"].to(device).float() / 255).unsqueeze(1)
        self.held = torch.zeros(self.truth.shape[:2], dtype=torch.bool)
        with torch.no_grad(), self._cast():
            self._seen: Seen = network.look(pixels)
        self.mask = self._seen.fine

    def correct(self, rng: np.random.Generator | None, anywhere: float = 0.0) -> None:
        """Put one more vertex of each right, the worst of the outline as it is now; with ``rng``, sometimes any."""
        box = central_box(self.side, self._network.config.search_scale)
        fields = self.mask[:, 0].detach().float().cpu().numpy()
        drawn = np.stack([_outline(one, self.side, box, self.truth.shape[1]) for one in fields]).astype(np.float32)
        wrong = errors(torch.from_numpy(drawn), self.truth)
        if rng is not None:
            some = torch.from_numpy(rng.random(len(wrong)) < anywhere).unsqueeze(1)
            wrong = torch.where(some, torch.from_numpy(rng.random(wrong.shape)).float(), wrong)
        self.held[torch.arange(len(wrong)), wrong.masked_fill(self.held, -1.0).argmax(1)] = True

    def draw(self) -> Tensor:
        """Draw the masks again, (B, 1, S/2, S/2) logits."""
        assert self._network.correction is not None
        places, held = self.truth.to(self._device) / self.side, self.held.to(self._device)
        with self._cast():
            self.mask = self._network.correction(self._seen.coarse, self._seen.fused, self._seen.fine, places, held)
        return self.mask

    def iou(self) -> FloatArray:
        """Measure the masks, (B,)."""
        return overlap(self.mask[:, 0] > 0, self.target[:, 0] > 0.5).double().cpu().numpy()

    def _cast(self) -> torch.autocast:
        return torch.autocast(torch.device(self._device).type, self._dtype, enabled=self._dtype != torch.float32)


def fit(
    network: SiamAnno,
    samples: Samples,
    config: CorrectionConfig,
    sides: tuple[tuple[float, int], ...],
    seed: int,
    loaders: int,
    device: str,
    tell: Callable[[int, float, float], None],
) -> None:
    """Train the correction pass of ``network`` and nothing else; ``tell`` gets the step, the IoU before and after corrections (running).

    It is one process's work, whatever others there are.
    """
    assert network.correction is not None
    dtype = unscaled_dtype(config.precision, device)
    schedule = TrainConfig(
        steps=config.steps, batch=config.batch, rate=config.rate, warmup=100, sides=sides, seed=seed, loaders=loaders,
        augment=AugmentConfig(corrections=0.0),
    )  # fmt: skip
    network.train().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # in bf16 throughout: faster
    learning = network.correction.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=config.rate, weight_decay=config.decay)
    shares = np.array(config.counts) / sum(config.counts)
    running = np.zeros(2)
    for step, batch in zip(range(config.steps), loader(Stream(samples, network.config, schedule, 0), device), strict=False):
        rng = np.random.default_rng([seed, step, 0, 1])
        for group in optimizer.param_groups:
            group["lr"] = rate_at(schedule, step / config.steps, step)
        seen = Annotated(network, batch, device, dtype)
        before, count = seen.iou().mean(), int(rng.choice(len(shares), p=shares)) + 1
        optimizer.zero_grad()
        for _ in range(count):
            seen.correct(rng, config.anywhere)
            (mask_loss(seen.draw(), seen.target, LossConfig().edge) / count).backward()  # type: ignore[no-untyped-call]
        # One batch of nothing but noise must not end it.
        if torch.nn.utils.clip_grad_norm_(learning.parameters(), config.clip).isfinite():
            optimizer.step()
        running += (np.array([before, seen.iou().mean()]) - running) * max(0.03, 1 / (step + 1))
        tell(step + 1, *running.tolist())
    learning.requires_grad_(False)
    network.eval()


@torch.no_grad()
def measure(network: SiamAnno, samples: Samples, device: str, precision: str = "auto") -> FloatArray:
    """Give the mean IoU of held-out samples' masks, in the crop, after each number of LOOKS."""
    config, indices = network.config, samples.validation
    chosen = np.random.default_rng(0).permutation(indices)[:MEASURED]
    found: list[NDArray[np.float64]] = []
    for start in range(0, len(chosen), 32):
        made = [
            samples.sample(int(i), config.crop_side, config.search_scale, config.vertices, None, AugmentConfig())
            for i in chosen[start : start + 32]
        ]
        seen = Annotated(network, stacked(made), device, unscaled_dtype(precision, device))
        rows = [seen.iou()]
        for _ in range(LOOKS[-1]):
            seen.correct(None)
            seen.draw()
            rows.append(seen.iou())
        found.append(np.stack(rows)[list(LOOKS)])
    return np.asarray(np.concatenate(found, axis=1).mean(axis=1))


def _outline(field: NDArray[np.float32], side: int, box: FloatArray, count: int) -> FloatArray:
    """Give the outline of a mask as a contour (K, 2) in crop px; the middle of the box where there is no mask."""
    try:
        return match(single_ring(trace_field(field, 0.0, side / field.shape[0])), box, count)
    except DataError:
        return np.full((count, 2), side / 2)
