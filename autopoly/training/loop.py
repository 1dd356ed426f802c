"""The training loop: batches from loader processes, AdamW, EMA, a schedule by steps or minutes, resume, one process or several.

B batch, K contour vertices, S crop side.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autopoly.errors import RunError
from autopoly.network.siamanno import SiamAnno
from autopoly.training import ranks
from autopoly.training.batches import Stream, loader
from autopoly.training.losses import total
from autopoly.training.objective import corrected, dtype_of, forward, true_iou
from autopoly.training.samples import Samples
from autopoly.training.schedule import TrainConfig, is_due, progress_of, side_at
from autopoly.training.state import State
from autopoly.training.validation import validate

TELL_EVERY = 50
"""Steps between reports ..."""
TELL_SECONDS = 5.0
"""... which come sooner where steps are slow."""
PATIENCE = 200
"""Steps in a row without a finite gradient after which a training is given up."""
Check = Callable[[SiamAnno, int], dict[str, float]]
"""What a caller measures of the averaged network at each validation, with the step."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the loop tells its caller now and then; ``numbers`` are losses (running means), or what a validation found.

    ``speed`` is in samples/s of all processes since the last report, ``left`` the seconds to go, None where nobody can tell yet.
    """

    step: int
    progress: float
    seconds: float
    side: int
    numbers: dict[str, float]
    speed: float = 0.0
    left: float | None = None
    validated: bool = False


def train(
    network: SiamAnno,
    samples: Samples,
    folder: Path,
    config: TrainConfig,
    device: str,
    resume: bool,
    tell: Callable[[Report], None],
    check: Check | None = None,
) -> SiamAnno:
    """Train ``network`` in place and give back its averaged (EMA) twin; state goes to ``folder`` every few minutes.

    With ``resume`` the state in ``folder`` is taken up where it was. ``check`` adds to what a validation measures. Several processes
    (:mod:`autopoly.training.ranks`) each take their share of every batch; rank 0 alone writes, tells and validates. Raise CheckpointError
    when the state is of another network, RunError when the loss stays without a finite gradient.
    """
    dtype = dtype_of(config.precision, device)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = SiamAnno(network.config).eval()  # it only answers
    average.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average.load_state_dict(network.state_dict())
    state = State(network, average, config, scaled=dtype == torch.float16)
    if resume:
        state.load(folder)
    stream = Stream(samples, network.config, config, state.step, ranks.rank(), ranks.world())
    clock = _Clock(state, config)
    called = ranks.shared(network)
    running: dict[str, float] = {}
    lost, before = 0, progress_of(config, max(state.step - 1, 0), state.seconds)
    ranks.wait()  # nobody counts the time in which others still load
    clock.begin()
    saved = time.monotonic()

    def measured() -> dict[str, float]:
        return validate(average, samples, config, device, dtype) | ({} if check is None else check(average, state.step))

    for batch in loader(stream, device):
        state.seconds, progress = clock.read()
        if progress >= 1:
            break
        if is_due(config, before, progress) and ranks.rank() == 0:
            tell(Report(state.step, progress, state.seconds, side_at(config, progress), measured(), validated=True))
            clock.skip()  # validation is not training time
        before = progress
        stream.side[0] = side_at(config, progress)
        if progress >= config.unfreeze and not state.thawed:
            state.thaw()
            called = ranks.shared(network)
        numbers, finite = step(called, state, batch, progress, config, device, dtype)
        lost = 0 if finite else lost + 1
        if lost >= PATIENCE:
            raise RunError(f"{folder}: no finite gradient in {lost} steps; lower --rate (now {config.rate:g}), or say --precision fp32")
        for key, value in numbers.items():
            if math.isfinite(value):  # one that is not would stay in the mean for good
                running[key] = value if key not in running else running[key] + 0.02 * (value - running[key])
        if ranks.rank() == 0 and clock.due():
            tell(Report(state.step, progress, state.seconds, batch["pixels"].shape[1], dict(running), clock.speed(), clock.left()))
        if ranks.rank() == 0 and time.monotonic() - saved > config.save_every:
            state.save(folder)
            saved = time.monotonic()
    if ranks.rank() == 0:
        state.save(folder)
        tell(Report(state.step, 1.0, state.seconds, side_at(config, 1.0), measured(), validated=True))
    ranks.wait()
    return average


def step(
    called: nn.Module, state: State, batch: dict[str, Tensor], progress: float, config: TrainConfig, device: str, dtype: torch.dtype
) -> tuple[dict[str, float], bool]:
    """Learn from one batch: the losses and IoU before the step, and whether there was one (else its gradient was not finite).

    ``called`` is the network, or what wraps it for several processes.
    """
    held = corrected(state.network, batch, device, dtype)
    output, targets = forward(called, state.network.config, batch, device, dtype, held)
    iou = true_iou(output, targets)
    loss, parts = total(output, targets, iou, config.loss)
    finite = state.learn(loss, progress, config)
    numbers = {key: float(value.detach()) for key, value in parts.items()}
    return numbers | {"iou_contour": float(iou[:, 0].mean()), "iou_mask": float(iou[:, 1].mean())}, finite


class _Clock:
    """Training time, which rank 0 keeps for all, and how fast it goes."""

    def __init__(self, state: State, config: TrainConfig) -> None:
        self.state, self.config = state, config

    def begin(self) -> None:
        """Start, with the seconds of the state behind it."""
        now = time.monotonic()
        self.zero, self.now = now - self.state.seconds, now
        self.first = progress_of(self.config, self.state.step, self.state.seconds), now
        self.last = self.state.step, now

    def read(self) -> tuple[float, float]:
        """Give the seconds of training and the progress, the same in every process."""
        self.now = time.monotonic()
        seconds = self.now - self.zero
        seconds, self.progress = ranks.agreed([seconds, progress_of(self.config, self.state.step, seconds)])
        return seconds, self.progress

    def skip(self) -> None:
        """Leave out the time since the clock was read."""
        lost = time.monotonic() - self.now
        self.zero += lost
        self.first, self.last = (self.first[0], self.first[1] + lost), (self.last[0], self.last[1] + lost)

    def due(self) -> bool:
        """Say whether it is time for a report."""
        return self.state.step % TELL_EVERY == 0 or time.monotonic() - self.last[1] >= TELL_SECONDS

    def speed(self) -> float:
        """Give the samples/s since this was last asked."""
        (step, then), now = self.last, time.monotonic()
        self.last = self.state.step, now
        return (self.state.step - step) * self.config.batch / max(now - then, 1e-9)

    def left(self) -> float | None:
        """Give the seconds to go, at the speed since the start; None at the start."""
        if self.config.minutes is not None:
            return max(self.config.minutes * 60 - (self.now - self.zero), 0.0)
        done = progress_of(self.config, self.state.step, 0.0) - self.first[0]
        return (1 - self.first[0] - done) * (time.monotonic() - self.first[1]) / done if done > 0 else None


def log_line(report: Report) -> str:
    """Give a report as one line of JSON."""
    numbers = {key: round(value, 5) for key, value in report.numbers.items()}
    told = {"step": report.step, "progress": round(report.progress, 4), "seconds": round(report.seconds, 1), "side": report.side, **numbers}
    if report.speed:
        told["samples_per_second"] = round(report.speed, 1)
    return json.dumps(told)
