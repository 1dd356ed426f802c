"""How long and how fast the network learns: every knob, and what follows from how much of the schedule is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autopoly.training.augment import AugmentConfig
from autopoly.training.losses import LossConfig


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long and how fast the network learns. The paper is silent on all of it but alpha."""

    minutes: float | None = None
    """Training time; None = by ``steps``. Time spent before a resume counts."""
    steps: int = 8000
    batch: int = 32
    """Samples of a step, of all processes together."""
    rate: float = 1e-3
    """Peak learning rate of new layers."""
    backbone_rate: float = 0.3
    """Learning rate of the backbone, relative."""
    decay: float = 0.05
    warmup: int = 200
    """Steps of linear warm-up."""
    clip: float = 5.0
    """Largest gradient norm."""
    ema: float = 0.999
    """Memory of the averaged weights, per step."""
    sides: tuple[tuple[float, int], ...] = ((0.0, 160), (0.72, 224))
    """Crop side from a share of the schedule on."""
    unfreeze: float = 1.0
    """Share of the schedule after which the whole backbone is trained."""
    precision: str = "auto"
    """fp32, bf16, or fp16 with a scaled loss (CUDA alone); auto takes the fastest that the device has."""
    seed: int = 0
    save_every: float = 240.0
    """Seconds between states to resume from."""
    validations: int = 10
    """How often held-out samples are measured, in equal shares of the schedule: by the clock, two runs would differ."""
    validation_samples: int = 512
    loaders: int = 1
    """Processes that make batches; 0 = this one."""
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def progress_of(config: TrainConfig, step: int, seconds: float) -> float:
    """Give the share of the schedule that is done, 1 or more at its end."""
    return seconds / (config.minutes * 60) if config.minutes is not None else step / config.steps


def side_at(config: TrainConfig, progress: float) -> int:
    """Give the crop side, px."""
    return [side for start, side in config.sides if progress >= start][-1]


def cosine(progress: float) -> float:
    """Fall from 1 to one hundredth over the progress from 0 to 1."""
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def rate_at(config: TrainConfig, progress: float, step: int) -> float:
    """Give the learning rate: linear warm-up, then cosine down to one hundredth."""
    return config.rate * cosine(progress) * min(1.0, (step + 1) / max(config.warmup, 1))


def is_due(config: TrainConfig, before: float, progress: float) -> bool:
    """Say whether a validation lies between two progresses."""
    return int(progress * config.validations) > int(before * config.validations)
