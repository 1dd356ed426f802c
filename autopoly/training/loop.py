"""The training loop: batches from a loader process, AdamW, EMA, a schedule by steps or minutes, checkpoints, resume.

Training state is safetensors and JSON, never pickle. B batch, K contour vertices, S crop side.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from autopoly.errors import CheckpointError
from autopoly.geometry import raster
from autopoly.metrics.summary import spearman
from autopoly.network.siamanno import Output, SiamAnno, box_contour
from autopoly.training.augment import AugmentConfig
from autopoly.training.losses import LossConfig, Targets, total
from autopoly.training.samples import Sample, Samples
from autopoly.types import Polygon

TELL_EVERY = 50
"""Steps between reports."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long and how fast the network learns. The paper is silent on all of it but alpha."""

    minutes: float | None = None
    """Training time; None = by ``steps``. Time spent before a resume counts."""
    steps: int = 8000
    batch: int = 32
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
    seed: int = 0
    save_every: float = 240.0
    """Seconds between checkpoints."""
    validate_every: float = 900.0
    """Seconds between validations."""
    validation_samples: int = 512
    loaders: int = 1
    """Processes that make batches; 0 = this one."""
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True, slots=True)
class Report:
    """What the loop tells its caller now and then."""

    step: int
    progress: float
    seconds: float
    side: int
    numbers: dict[str, float]


class _Stream(TorchDataset[dict[str, Tensor]]):
    """Batch number -> batch. The crop side is shared memory, so that a schedule by minutes reaches the loader process."""

    def __init__(self, samples: Samples, network: SiamAnno, config: TrainConfig, start: int) -> None:
        self.samples, self.config, self.start = samples, config, start
        self.scale, self.vertices = network.config.search_scale, network.config.vertices
        self.side = torch.tensor([config.sides[0][1]]).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        step = self.start + number
        # By minutes the side follows the clock, hence is told; by steps it follows from the step, and a resumed run sees the same batches.
        side = int(self.side.item()) if self.config.minutes is not None else _side(self.config, step / self.config.steps)
        indices = self.samples.draw(self.config.seed, step, self.config.batch)
        made = [
            self.samples.sample(
                int(index), side, self.scale, self.vertices, np.random.default_rng([self.config.seed, step, slot]), self.config.augment
            )
            for slot, index in enumerate(indices)
        ]
        return stacked(made)


def stacked(made: Sequence[Sample]) -> dict[str, Tensor]:
    """Make a batch of samples: each of their arrays with a leading B."""
    return {one.name: torch.from_numpy(np.stack([getattr(sample, one.name) for sample in made])) for one in fields(Sample)}


def train(
    network: SiamAnno, samples: Samples, folder: Path, config: TrainConfig, device: str, resume: bool, tell: Callable[[Report], None]
) -> SiamAnno:
    """Train ``network`` in place and give back its averaged (EMA) twin; state goes to ``folder`` every few minutes.

    With ``resume`` the state in ``folder`` is taken up where it was. Raise CheckpointError when it is of another network.
    """
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = SiamAnno(network.config).to(device)
    average.load_state_dict(network.state_dict())
    state = _State(network, average, config)
    if resume:
        state.load(folder)
    stream = _Stream(samples, network, config, state.step)
    loader = DataLoader(
        stream,
        batch_size=None,
        shuffle=False,
        num_workers=config.loaders,
        prefetch_factor=6 if config.loaders else None,
        worker_init_fn=_one_thread,
        # A forked child would inherit thread pools without their threads.
        multiprocessing_context="spawn" if config.loaders else None,
    )
    begun = time.monotonic() - state.seconds
    saved = validated = time.monotonic()
    running: dict[str, float] = {}
    for batch in loader:
        state.seconds = time.monotonic() - begun
        progress = state.seconds / (config.minutes * 60) if config.minutes is not None else state.step / config.steps
        if progress >= 1:
            break
        stream.side[0] = _side(config, progress)
        state.rate(progress, config)
        numbers = _step(network, average, state, batch, config, device)
        for key, value in numbers.items():
            running[key] = value if key not in running else running[key] + 0.02 * (value - running[key])
        if state.step % TELL_EVERY == 0:
            tell(Report(state.step, progress, state.seconds, batch["pixels"].shape[1], dict(running)))
        now = time.monotonic()
        if now - validated > config.validate_every:
            tell(Report(state.step, progress, state.seconds, batch["pixels"].shape[1], validate(average, samples, config, device)))
            validated = time.monotonic()
            begun += validated - now  # validation is not training time
        if now - saved > config.save_every:
            state.save(folder)
            saved = now
    state.save(folder)
    tell(Report(state.step, 1.0, state.seconds, _side(config, 1.0), validate(average, samples, config, device)))
    return average


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)  # the cores belong to the network


def _side(config: TrainConfig, progress: float) -> int:
    return [side for start, side in config.sides if progress >= start][-1]


class _State:
    """Everything a resumed run needs: weights, averaged weights, optimizer moments, step and seconds."""

    def __init__(self, network: SiamAnno, average: SiamAnno, config: TrainConfig) -> None:
        self.network, self.average, self.step, self.seconds = network, average, 0, 0.0
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
        network.backbone.freeze_early()
        backbone = list(network.backbone.parameters())
        inside = {id(parameter) for parameter in backbone}
        rest = [parameter for parameter in network.parameters() if id(parameter) not in inside]
        matrices, vectors = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "scale": 1.0, "weight_decay": config.decay},
                {"params": vectors, "scale": 1.0, "weight_decay": 0.0},
                {"params": backbone, "scale": config.backbone_rate, "weight_decay": 0.0},
            ],
            lr=config.rate,
            fused=True,
        )

    def rate(self, progress: float, config: TrainConfig) -> None:
        """Set the learning rate: linear warm-up, then cosine down to one hundredth."""
        if progress >= config.unfreeze:
            for parameter in self.network.parameters():
                parameter.requires_grad_(True)
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate * group["scale"] * cosine * min(1.0, (self.step + 1) / config.warmup)

    def save(self, folder: Path) -> None:
        """Write the state atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for parameter, moments in self.optimizer.state.items():
            for key in ("exp_avg", "exp_avg_sq", "step"):
                tensors[f"{key}.{self.names[parameter]}"] = moments[key]
        temporary = folder / "state.tmp"
        meta = {"step": str(self.step), "seconds": repr(self.seconds)}
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary, metadata=meta)
        os.replace(temporary, folder / "state.safetensors")

    def load(self, folder: Path) -> None:
        """Read the state; a folder without one starts from the beginning."""
        path = folder / "state.safetensors"
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        tensors = load_file(path)
        try:
            for prefix, module in (("network.", self.network), ("average.", self.average)):
                module.load_state_dict({name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)})
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: state of another network; start anew without --resume, or with the same network options"
            ) from error
        for parameter, name in self.names.items():
            if f"step.{name}" in tensors:
                # In the parameter's own memory order: the fused optimizer walks both as they lie.
                moments = {key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"]) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {**moments, "step": tensors[f"step.{name}"]}
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])


def _step(
    network: SiamAnno, average: SiamAnno, state: _State, batch: dict[str, Tensor], config: TrainConfig, device: str
) -> dict[str, float]:
    output, targets = forward(network, batch, device)
    iou = true_iou(output, targets)
    loss, parts = total(output, targets, iou, config.loss)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(trained, config.clip)
    if bool(torch.isfinite(norm)):
        state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    # Early averages would remember the random start.
    keep = min(config.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)
    numbers = {key: float(value.detach()) for key, value in parts.items()}
    return numbers | {"iou_contour": float(iou[:, 0].mean()), "iou_mask": float(iou[:, 1].mean())}


def forward(network: SiamAnno, batch: dict[str, Tensor], device: str) -> tuple[Output, Targets]:
    """Run the network on a batch of the loader and give its output with the batch's targets."""
    pixels = batch["pixels"].to(device, non_blocking=True).permute(0, 3, 1, 2)
    side = pixels.shape[-1]
    contour, held = batch["contour"].to(device), batch["held"].to(device)
    initial = box_contour(side, network.config.search_scale, network.config.vertices, pixels.shape[0], device)
    initial = torch.where(held.unsqueeze(-1), contour, initial)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        output = network(pixels, initial, held)
    return output, Targets(contour, batch["mask"].to(device).float() / 255, held, side / network.config.search_scale)


def true_iou(output: Output, targets: Targets) -> Tensor:
    """Measure the IoU of contours and mask outlines with the truth at S/2, (B, 2)."""
    truth = targets.mask > 0.5
    size = (truth.shape[-2], truth.shape[-1])
    rings = (output.contours[-1].detach().float() / 2).cpu().numpy().astype(np.float64)
    filled: list[NDArray[np.bool_]] = [raster.fill((Polygon(ring),), size) for ring in rings]
    contour = torch.from_numpy(np.stack(filled)).to(truth.device)
    mask = torch.nn.functional.interpolate(output.mask_logits.detach(), size=size, mode="bilinear", align_corners=False).squeeze(1) > 0
    both = torch.stack([contour, mask], dim=1)  # (B, 2, S/2, S/2)
    known = truth.unsqueeze(1)
    return (both & known).sum((2, 3)).float() / (both | known).sum((2, 3)).clamp(min=1)


@torch.no_grad()
def validate(network: SiamAnno, samples: Samples, config: TrainConfig, device: str) -> dict[str, float]:
    """Measure on held-out samples, in the crop: mean IoU of contour, mask and of the one the quality prefers, and its rank correlation."""
    indices = samples.validation
    if len(indices) == 0:
        return {}
    if len(indices) > config.validation_samples:
        indices = np.random.default_rng(0).permutation(indices)[: config.validation_samples]
    found, estimated = [], []
    for start in range(0, len(indices), config.batch):
        made = [
            samples.sample(int(i), network.config.crop_side, network.config.search_scale, network.config.vertices, None, config.augment)
            for i in indices[start : start + config.batch]
        ]
        output, targets = forward(network, stacked(made), device)
        found.append(true_iou(output, targets).cpu())
        estimated.append(output.quality_logits.float().cpu())
    iou, quality = torch.cat(found).numpy(), torch.cat(estimated).numpy()
    better = iou[np.arange(len(iou)), quality.argmax(1)]
    return {
        "val_contour": float(iou[:, 0].mean()),
        "val_mask": float(iou[:, 1].mean()),
        "val_chosen": float(better.mean()),
        "val_oracle": float(iou.max(1).mean()),
        "val_rank": spearman(quality.max(1), better),
    }


def log_line(report: Report) -> str:
    """Give a report as one line of JSON."""
    numbers = {key: round(value, 5) for key, value in report.numbers.items()}
    return json.dumps(
        {"step": report.step, "progress": round(report.progress, 4), "seconds": round(report.seconds, 1), "side": report.side, **numbers}
    )
