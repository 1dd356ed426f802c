"""Decide where a run takes place: the device, and how many workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from autopoly.errors import RunError
from autopoly.execute.local import cpus

SMALL_BOXES = 512
"""Boxes for which the start of Ray (about 5 s, and 2 s for each worker) is not worth while."""
# Rough, for the estimate before a run only: boxes a second, for one GPU or one processor.
BOXES_PER_SECOND = {"cuda": 400.0, "mps": 60.0, "cpu": 12.0}
BYTES_PER_BOX = 900
PER_GPU = 4
"""Workers that share a GPU, where there are two processors for each: it answers faster than one process cuts crops and traces outlines."""
Nodes = Sequence[Mapping[str, float]]
"""The machines of a Ray cluster that are alive: what each has, by Ray's names CPU and GPU."""


def cluster(address: str) -> Nodes:
    """Ask a Ray cluster for its machines; raise RunError where it does not answer, or has none with a processor."""
    from autopoly.execute import ray_pool

    found = [node for node in ray_pool.nodes(address) if node.get("CPU", 0) >= 1 or node.get("GPU", 0) > 0]
    if not found:
        raise RunError(f"--address {address}: no machine of this Ray cluster offers processors; see `ray status`")
    return found


def device_kind(device: str, nodes: Nodes = ()) -> str:
    """Give the kind of device a run uses: auto takes a GPU where torch sees one, or where a machine of the cluster (``nodes``) has one.

    Raise DataError for one that this machine lacks, RunError for one that the cluster lacks.
    """
    if nodes:
        there = any(node.get("GPU", 0) > 0 for node in nodes)
        if device == "cuda" and not there:
            raise RunError("--device cuda: no machine of the Ray cluster offers a GPU; use --device auto")
        return ("cuda" if there else "cpu") if device == "auto" else device
    if device == "cpu":  # known without torch, which takes two seconds to load
        return device
    from autopoly import devices

    return devices.choose(device)


def workers(asked: int | Literal["auto"], device: str, boxes: int, shards: int, nodes: Nodes = ()) -> int:
    """Give the number of Ray workers, 0 for this process: one to four per GPU, else by processors; small runs stay in process.

    On a cluster (``nodes``) all machines count, those with a GPU alone where the device is one; nothing stays in this process.
    """
    if asked != "auto":
        return asked
    if nodes:
        return max(1, min(shards, sum(_places(device, int(node.get("GPU", 0)), int(node.get("CPU", 0))) for node in nodes)))
    if boxes <= SMALL_BOXES or shards < 2 or device == "mps":
        return 0
    return max(1, min(shards, _places(device, _gpus() if device == "cuda" else 0, cpus())))


def seconds(boxes: int, device: str, count: int, nodes: Nodes = ()) -> float:
    """Estimate how long a run takes, roughly."""
    if nodes:
        there = max(1, int(sum(node.get("GPU" if device == "cuda" else "CPU", 0) for node in nodes)))
        lanes = min(count, there) if device == "cuda" else there
        return boxes / (BOXES_PER_SECOND[device] * lanes) + 10
    lanes = max(1, min(count, _gpus())) if device == "cuda" else 1 if device == "mps" else cpus()
    return boxes / (BOXES_PER_SECOND[device] * lanes) + (5 + 2 * min(count, 4) if count else 2)


def _places(device: str, gpus: int, processors: int) -> int:
    """Give how many workers a machine has room for."""
    if device == "cuda":
        return gpus * max(1, min(PER_GPU, processors // (2 * gpus))) if gpus else 0
    # Two threads a worker waste less than one worker with many; below five processors every one gets its own.
    return processors if processors <= 4 else processors // 2


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
