"""Everything a resumed training needs: weights, averaged weights, optimizer moments, step and seconds. Safetensors, never pickle."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from autopoly.errors import CheckpointError
from autopoly.network.checkpoint import write_tensors
from autopoly.network.siamanno import SiamAnno
from autopoly.training.schedule import TrainConfig, rate_at

FILE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class State:
    """A network in training, with its average (EMA), its optimizer and the scale of its loss (fp16 alone)."""

    def __init__(self, network: SiamAnno, average: SiamAnno, config: TrainConfig, scaled: bool = False) -> None:
        self.network, self.average, self.step, self.seconds = network, average, 0, 0.0
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
        network.backbone.freeze_early()
        self.thawed = False
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
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    def thaw(self) -> None:
        """Train the whole backbone from now on; parts of the network with a training of their own stay as they are."""
        self.thawed = True
        self.network.backbone.requires_grad_(True)

    def learn(self, loss: Tensor, progress: float, config: TrainConfig) -> bool:
        """Take one step down the gradient of ``loss``; False, and no step, where the gradient is not finite."""
        rate = rate_at(config, progress, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        finite = bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(trained, config.clip)))
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        # Early averages would remember the random start.
        keep = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)
        return finite

    def save(self, folder: Path) -> None:
        """Write the state atomically; raise RunError where it cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for parameter, moments in self.optimizer.state.items():
            for key in MOMENTS:
                tensors[f"{key}.{self.names[parameter]}"] = moments[key]
        temporary = folder / "state.tmp"
        meta = {"step": str(self.step), "seconds": repr(self.seconds)}
        if self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            meta |= {"scale": repr(scale["scale"]), "growth": str(scale["_growth_tracker"])}
        write_tensors({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary, meta)
        os.replace(temporary, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read the state; a folder without one starts from the beginning. Raise CheckpointError for one of another network."""
        path = folder / FILE
        if not path.is_file():
            return
        meta = _meta(path)
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
                # In the parameter's own memory order and place: the fused optimizer walks all of them as they lie.
                moments = {key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"]) for key in MOMENTS[:2]}
                self.optimizer.state[parameter] = {**moments, "step": tensors[f"step.{name}"].to(parameter.device)}
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        if self.scaler.is_enabled() and "scale" in meta:
            known = self.scaler.state_dict()
            self.scaler.load_state_dict(known | {"scale": float(meta["scale"]), "_growth_tracker": int(meta["growth"])})


def saved_step(folder: Path) -> int | None:
    """Give the step of the state in a folder, None where there is none."""
    path = folder / FILE
    return int(_meta(path)["step"]) if path.is_file() else None


def _meta(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata())
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(f"{path}: not the state of a training ({error}); start anew with another --out") from error
