"""A checkpoint is a folder that describes itself: config.json, weights.safetensors, README.md (the model card). Never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autopoly.config import NetworkConfig
from autopoly.errors import CheckpointError, RunError
from autopoly.network.siamanno import SiamAnno

DEFAULT = "siamanno-lite0"
FORMAT = 2
RANGES: dict[str, tuple[float, float]] = {
    "search_scale": (1, 4), "crop_side": (32, 2048), "vertices": (3, 4096), "target_grid": (1, 64),
    "width16": (1, 1024), "blocks16": (0, 16), "width8": (1, 1024), "width4": (1, 1024), "detail": (0, 1024),
    "edge_width": (0, 1024), "correction_width": (0, 1024), "head_width": (1, 1024), "head_radius": (0, 64),
    "head_dilations": (1, 256), "steps": (0, 4),
}  # fmt: skip
"""What a number of config.json may be, all of a list alike: a file of a few bytes must not build a network that fills the memory."""
LONGEST_LIST = 32
LARGEST_CONFIG = 1 << 24
PICKLES = (b"PK\x03\x04", b"\x80")


def root() -> Path:
    """Give the folder of the shipped checkpoints: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parents[1]
    inside = package / "_data" / "checkpoints"
    return inside if inside.is_dir() else package.parent / "checkpoints"


def resolve(checkpoint: str | Path | None) -> Path:
    """Give the folder of a checkpoint: a name in checkpoints/, a folder, or None for the shipped default. Raise CheckpointError if there
    is none.
    """
    name = DEFAULT if checkpoint is None else str(checkpoint)
    shipped = root() / name
    for folder in ([Path(name)] if Path(name).is_dir() else []) + [shipped]:
        if (folder / "config.json").is_file() and (folder / "weights.safetensors").is_file():
            return folder
    known = sorted(path.parent.name for path in root().glob("*/weights.safetensors"))
    raise CheckpointError(
        f"checkpoint {name!r}: no folder with config.json and weights.safetensors here "
        f"or among the shipped ones ({', '.join(known) or 'none'})"
    )


def fingerprint(checkpoint: str | Path | None) -> str:
    """Hash a checkpoint's config and weights: 16 hex digits."""
    folder = resolve(checkpoint)
    digest = hashlib.sha256()
    for name in ("config.json", "weights.safetensors"):
        with (folder / name).open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()[:16]


def save(network: SiamAnno, folder: Path, about: dict[str, Any]) -> None:
    """Write float16 weights, then config.json; ``about`` (what it was trained on, numbers) goes into the config as it is.

    Cut off in between, the folder has no config.json: it is no checkpoint then, instead of one that describes other weights. Raise RunError
    where the weights cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described, weights = folder / "config.json", folder / "weights.safetensors"
    config = {"format": FORMAT, "network": dataclasses.asdict(network.config), "about": about}
    tensors = {name: value.detach().cpu().to(torch.float16).contiguous() for name, value in network.state_dict().items()}
    write_tensors(tensors, weights.with_suffix(".tmp"))
    described.with_suffix(".tmp").write_text(json.dumps(config, indent=1) + "\n")
    described.unlink(missing_ok=True)
    os.replace(weights.with_suffix(".tmp"), weights)
    os.replace(described.with_suffix(".tmp"), described)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; raise RunError, and leave no part of it, where there is no room or no permission."""
    try:
        save_file(dict(tensors), path, metadata=None if about is None else dict(about))
    except (SafetensorError, OSError) as error:
        path.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written ({error}); make room or choose another place") from error


def load_network(checkpoint: str | Path | None = None) -> SiamAnno:
    """Build the network of a checkpoint, weights in float32, in evaluation mode. Raise CheckpointError when the folder does not hold
    one.
    """
    folder = resolve(checkpoint)
    config, weights = folder / "config.json", folder / "weights.safetensors"
    if config.stat().st_size > LARGEST_CONFIG:
        raise CheckpointError(f"{config} is no checkpoint's description: it has {config.stat().st_size:,} bytes; copy the checkpoint again")
    with weights.open("rb") as stream:
        if stream.read(4).startswith(PICKLES):
            raise CheckpointError(
                f"{weights} is a pickle, which can run any program: only safetensors are loaded; convert it where you trust it"
            )
    try:
        raw = json.loads(config.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise CheckpointError(
                f"{folder}: checkpoint format {raw['format']}, this version reads {FORMAT}; use the autopoly that wrote it"
            )
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw["network"].items()}
        _check_ranges(values)
        network = SiamAnno(NetworkConfig(**values))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, RuntimeError) as error:
        raise CheckpointError(f"{config} is not a checkpoint's description: {_said(error)}; copy the checkpoint again") from error
    try:
        tensors = load_file(weights)
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (SafetensorError, RuntimeError, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise CheckpointError(f"{weights} does not fit its config.json: {_said(error)}; copy the checkpoint again") from error
    wrong = [name for name, value in network.state_dict().items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise CheckpointError(f"{weights}: {len(wrong)} tensors hold numbers that are not finite ({wrong[0]}, ...); train it again")
    return network.eval()


def _check_ranges(values: dict[str, Any]) -> None:
    """Raise ValueError for a number that no network has, whatever the weights: their shapes are looked at only once it is built."""
    for name, (low, high) in RANGES.items():
        if name not in values:
            continue
        numbers = values[name] if isinstance(values[name], tuple) else (values[name],)
        whole = not isinstance(getattr(NetworkConfig(), name), float) and name != "steps"
        kinds = (int,) if whole else (int, float)
        if not 0 < len(numbers) <= LONGEST_LIST or not all(type(one) in kinds and low <= one <= high for one in numbers):
            raise ValueError(f"{name} is {str(values[name])[:60]}, expected {'whole numbers' if whole else 'numbers'} from {low} to {high}")
    if values.get("crop_side", 32) % 32:
        raise ValueError(f"crop_side is {values['crop_side']}, expected a multiple of 32")


def _said(error: BaseException) -> str:
    """Put an error into one line; torch says on its second what its first announces."""
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {' '.join(' '.join(lines[:2]).split())[:300]}"
