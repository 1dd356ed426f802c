"""What a conversion hands to its workers: what to do, and the network to do it with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autopoly.errors import CheckpointError
from autopoly.jobs.source import Source
from autopoly.types import FloatArray, Id, Polygon

Image = NDArray[np.uint8]


class Prediction(Protocol):
    """What an annotator gives for one box: valid polygons inside the image, in image px, and its own estimate of their IoU."""

    @property
    def polygons(self) -> tuple[Polygon, ...]:
        """Give the parts of the mask; empty when none was found."""
        ...

    @property
    def quality(self) -> float:
        """Give the estimated IoU, between 0 and 1."""
        ...

    @property
    def parts(self) -> tuple[Polygon, ...]:
        """Give the connected parts of the object, where there are several."""
        ...


class Annotator(Protocol):
    """Turns boxes on pictures into predictions; see :mod:`autopoly.predict`."""

    def predict(self, items: Sequence[tuple[Image, FloatArray]], overlaps: bool) -> Sequence[Sequence[Prediction]]:
        """Give, for each picture (H, W, 3) RGB with boxes (N, 4) xyxy image px, N predictions in the order of the boxes.

        Without ``overlaps`` a pixel belongs to one box of its picture alone, as far as they are not nested.
        """
        ...


class Load(Protocol):
    """How a process gets its annotator. Travels by pickle."""

    def __call__(self, checkpoint: str | None, device: str, tolerance: float, threads: int) -> Annotator:
        """Load a checkpoint folder on a device; polygons simplified by ``tolerance`` image px."""
        ...


@dataclass(frozen=True, slots=True)
class Network:
    """What turns boxes into polygons: how to load it, from which checkpoint folder, and a hash of everything its results depend on."""

    load: Load
    fingerprint: str
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a worker needs to know, small enough to travel. ``folder`` holds the parts, ``mark`` is the fingerprint of the run."""

    source: Source
    folder: Path
    mark: str
    load: Load
    checkpoint: str | None
    device: str
    tolerance: float
    per_component: bool = False
    components_from_truth: bool = False
    auto_components: bool = False
    overlaps: bool = False
    keep_existing: bool = False
    categories: frozenset[Id] | None = None
    min_quality: float = 0.0
    strict: bool = False
    retry: Path | None = None
    pictures: Path | None = None


def load_siamanno(checkpoint: str | None, device: str, tolerance: float, threads: int) -> Annotator:
    """Load the network of the paper from a checkpoint; torch is imported here, in the process that runs it."""
    from autopoly import predict

    annotator: Annotator = predict.load(checkpoint, device=device, tolerance=tolerance, threads=threads)
    return annotator


def siamanno(checkpoint: str | None) -> Network:
    """Find a checkpoint by name or folder (None: the shipped default) and hash it; raise CheckpointError where there is none."""
    from autopoly import predict

    folder = predict.resolve(checkpoint)
    return Network(load_siamanno, predict.fingerprint(folder), str(Path(folder).resolve()))


CHECKPOINT = ("config.json", "weights.safetensors")


@dataclass(frozen=True, slots=True)
class Carried:
    """Load a checkpoint whose ``files`` (bytes by name) came along, on a machine that need not have it; ``fingerprint`` is its hash."""

    files: Mapping[str, bytes]
    fingerprint: str

    def __call__(self, checkpoint: str | None, device: str, tolerance: float, threads: int) -> Annotator:
        """Write the files to a temporary folder and load them; raise CheckpointError where they are not what was sent."""
        from autopoly import predict

        with tempfile.TemporaryDirectory(prefix="autopoly-") as scratch:
            folder = Path(scratch)
            for name, data in self.files.items():
                (folder / name).write_bytes(data)
            if predict.fingerprint(folder) != self.fingerprint:
                raise CheckpointError(f"checkpoint {checkpoint}: its hash changed on the way to this machine; run again")
            return load_siamanno(scratch, device, tolerance, threads)


def carried(network: Network) -> Network:
    """Give a network whose checkpoint travels with it, for machines that do not have its folder; one without a folder stays as it is."""
    folder = Path(network.checkpoint or "")
    if network.load is not load_siamanno or not network.checkpoint:
        return network
    return replace(network, load=Carried({name: (folder / name).read_bytes() for name in CHECKPOINT}, network.fingerprint))
