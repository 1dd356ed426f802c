"""How long and how fast the network learns: every knob, and what follows from how much of the schedule is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autopoly.config import LearningConfig
from autopoly.training.augment import AugmentConfig
from autopoly.training.losses import LossConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(LearningConfig):
    """How long and how fast the network learns."""

    steps: int = 8000
    """Training time where there are no ``minutes``; 0 = none."""
    save_every: float = 240.0
    """Seconds between states to resume from."""
    loaders: int = 1
    """Processes that make batches; 0 = this one."""
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def progress_of(config: TrainConfig, step: int, seconds: float) -> float:
    """Give the share of the schedule that is done, 1 or more at its end."""
    done, whole = (step, config.steps) if config.minutes is None else (seconds, config.minutes * 60)
    return done / whole if whole else 1.0


def side_at(config: TrainConfig, progress: float) -> int:
    """Give the crop side, px."""
    return [side for start, side in config.sides if progress >= start][-1]


def cosine(progress: float) -> float:
    """Fall from 1 to one hundredth over the progress from 0 to 1."""
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def rate_at(config: TrainConfig, progress: float, step: int) -> float:
    """Give the learning rate: linear warm-up, over within a tenth of the schedule, then cosine down to one hundredth."""
    return config.rate * cosine(progress) * min(1.0, max((step + 1) / max(config.warmup, 1), 10 * progress))


def is_due(config: TrainConfig, before: float, progress: float) -> bool:
    """Say whether a validation lies between two progresses."""
    return int(progress * config.validations) > int(before * config.validations)
