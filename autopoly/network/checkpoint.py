"""A checkpoint is a folder that describes itself: config.json, weights.safetensors, README.md (the model card). Never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autopoly.config import NetworkConfig
from autopoly.errors import CheckpointError
from autopoly.network.siamanno import SiamAnno

DEFAULT = "siamanno-lite0"
FORMAT = 1


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
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def save(network: SiamAnno, folder: Path, about: dict[str, Any]) -> None:
    """Write config.json and float16 weights; ``about`` (what it was trained on, numbers) goes into the config as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "network": dataclasses.asdict(network.config), "about": about}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {name: value.detach().cpu().to(torch.float16).contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")


def load_network(checkpoint: str | Path | None = None) -> SiamAnno:
    """Build the network of a checkpoint, weights in float32, in evaluation mode. Raise CheckpointError when the folder does not hold
    one.
    """
    folder = resolve(checkpoint)
    try:
        raw = json.loads((folder / "config.json").read_text())
        if raw["format"] != FORMAT:
            raise CheckpointError(
                f"{folder}: checkpoint format {raw['format']}, this version reads {FORMAT}; use the autopoly that wrote it"
            )
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw["network"].items()}
        network = SiamAnno(NetworkConfig(**values))
        tensors = load_file(folder / "weights.safetensors")
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (KeyError, TypeError, ValueError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder}/config.json is not a checkpoint's description: {error!r}") from error
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder}/weights.safetensors does not fit its config.json: {str(error).splitlines()[0]}") from error
    return network.eval()
