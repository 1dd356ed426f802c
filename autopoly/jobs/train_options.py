"""What a user can ask of a training, checked once: apart from the job, so that looking at a recipe loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopoly.errors import RecipeError


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Every option of ``autopoly train``. ``train`` holds (path, weight) pairs, ``val`` datasets that are held out whole."""

    train: tuple[tuple[Path, float], ...]
    out: Path
    val: tuple[Path, ...] = ()
    epochs: float = 4.0
    minutes: float | None = None
    backbone: str | None = None
    init: str | None = None
    device: str = "auto"
    workers: int = 1
    seed: int = 0
    resume: bool = False

    def check(self) -> None:
        """Raise RecipeError, in one line, for a value out of range or a contradiction."""
        for wrong, line in (
            (not self.train, "--train: name at least one dataset with masks"),
            (any(not weight > 0 for _, weight in self.train), "--train SRC=WEIGHT: a weight must be above 0"),
            (not self.epochs > 0, f"--epochs {self.epochs}: expected more than 0"),
            (self.minutes is not None and not self.minutes > 0, f"--minutes {self.minutes}: expected more than 0"),
            (self.workers < 0, f"--workers {self.workers}: expected 0 (in this process) or more"),
            (self.init is not None and self.backbone is not None, "--init and --backbone: the checkpoint has its backbone; choose one"),
        ):
            if wrong:
                raise RecipeError(line)
