"""What a user can ask of a training, checked once: apart from the job, so that looking at a recipe loads no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_args

from autopoly.config import LearningConfig, Precision
from autopoly.errors import RecipeError
from autopoly.jobs.conversion.options import DEVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(LearningConfig):
    """Every option of ``autopoly train``. ``train`` holds (path, weight) pairs, ``val`` datasets that are held out whole."""

    train: tuple[tuple[Path, float], ...]
    out: Path
    val: tuple[Path, ...] = ()
    held_out: float = 0.04
    """Share of each source's images that is held out too."""
    shapes: float = 0.0
    """Share of the samples that are drawn shapes with exact edges (:mod:`autopoly.training.shapes`)."""
    epochs: float = 4.0
    sides: tuple[tuple[float, int], ...] = ()
    """As in LearningConfig; none = its default, or with ``init`` the side that the checkpoint answers at, throughout."""
    edge_steps: int = 0
    """After the training: steps of the edge pass (:mod:`autopoly.training.edges`), 0 = none."""
    correction_steps: int = 0
    """And of the correction pass (:mod:`autopoly.training.corrections`)."""
    backbone: str | None = None
    init: str | None = None
    device: str = "auto"
    workers: int = 1
    resume: bool = False

    @property
    def learns(self) -> bool:
        """Whether there is any training at all; without, the weights of ``init`` stay and only passes are learned."""
        return (self.epochs if self.minutes is None else self.minutes) > 0

    def check(self) -> None:
        """Raise RecipeError, in one line, for a value out of range or a contradiction."""
        places = [_place(path) for path, _ in self.train]
        both = [path for path in self.val if _place(path) in places]
        starts = [start for start, _ in self.sides]
        for wrong, line in (
            (not self.train, "--train: name at least one dataset with masks"),
            (any(not 0 < weight < float("inf") for _, weight in self.train), "--train SRC=WEIGHT: a weight must be above 0"),
            (len(set(places)) < len(places), "--train: a dataset is named twice; give it a weight instead"),
            (bool(both), f"--val {both[0] if both else ''}: is trained on too, so it would measure nothing; leave it out of one of them"),
            (not 0 <= self.held_out < 1, f"--held-out {self.held_out}: expected a share from 0 to below 1"),
            (not 0 <= self.shapes < 1, f"--shapes {self.shapes}: expected a share from 0 to below 1"),
            (not 0 <= self.epochs < float("inf"), f"--epochs {self.epochs}: expected more than 0, or 0 to keep --init as it is"),
            (self.minutes is not None and not self.minutes >= 0, f"--minutes {self.minutes}: expected more than 0, or 0 as for --epochs"),
            (
                self.init is None and not self.learns,
                "--epochs 0, --minutes 0: keep the weights of a checkpoint, so name one with --init",
            ),
            (self.edge_steps < 0, f"--edge-steps {self.edge_steps}: expected 0 (no edge pass) or more"),
            (self.correction_steps < 0, f"--correction-steps {self.correction_steps}: expected 0 (no correction pass) or more"),
            (self.batch < 1, f"--batch {self.batch}: expected 1 sample or more"),
            (not 0 < self.rate < float("inf"), f"--rate {self.rate}: expected more than 0"),
            (not 0 <= self.backbone_rate < float("inf"), f"--backbone-rate {self.backbone_rate}: expected 0 or more"),
            (not 0 <= self.decay < float("inf"), f"--decay {self.decay}: expected 0 or more"),
            (self.warmup < 0, f"--warmup {self.warmup}: expected 0 steps or more"),
            (not self.clip > 0, f"--clip {self.clip}: expected more than 0"),
            (not 0 <= self.ema < 1, f"--ema {self.ema}: expected a share from 0 to below 1"),
            (
                bool(starts) and (starts[0] != 0 or not all(a < b for a, b in pairwise([*starts, 1.0]))),
                "--sides [SHARE=]PX: expected a first side without a share, then others from larger shares, below 1, of the training on",
            ),
            (any(side < 32 or side % 32 for _, side in self.sides), "--sides [SHARE=]PX: a side must be a multiple of 32 px"),
            (not 0 <= self.unfreeze <= 1, f"--unfreeze {self.unfreeze}: expected a share from 0 to 1"),
            (self.precision not in get_args(Precision), f"--precision {self.precision}: expected one of {', '.join(get_args(Precision))}"),
            (self.validations < 1, f"--validations {self.validations}: expected 1 or more"),
            (self.validation_samples < 1, f"--validation-samples {self.validation_samples}: expected 1 or more"),
            (self.device not in DEVICES, f"--device {self.device}: expected one of {', '.join(DEVICES)}"),
            (self.workers < 0, f"--workers {self.workers}: expected 0 (in this process) or more"),
            (self.seed < 0, f"--seed {self.seed}: expected 0 or more"),
            (self.init is not None and self.backbone is not None, "--init and --backbone: the checkpoint has its backbone; choose one"),
        ):
            if wrong:
                raise RecipeError(line)


def _place(path: Path) -> str:
    """Give the real place of a dataset: its folder, where the path is that of the annotations in it."""
    real = os.path.realpath(path)
    return os.path.dirname(real) if os.path.basename(real) == "annotations.json" else real
