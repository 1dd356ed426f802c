"""One process per device, started by torchrun: which one this is, and what the others are told. Without torchrun there is one, rank 0.

    torchrun --nproc-per-node 4 -m autopoly train --train photos/ --out runs/mine
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m autopoly train ...

``--out`` must then be a folder that all nodes share. What is said between processes travels over gloo, gradients on CUDA over NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autopoly.errors import DataError

PATIENCE = timedelta(hours=6)
"""How long a process waits for rank 0, which builds the cache and validates alone."""


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes of torchrun, if it started this one, and give this process's device: one of its own where ``device`` is cuda.

    Raise DataError for more processes than devices on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    kind, local = torch.device(device).type, int(os.environ.get("LOCAL_RANK", "0"))
    if kind == "mps":
        raise DataError("several processes on one mps device gain nothing; leave torchrun out, or say --device cpu")
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise DataError(
                f"torchrun asks for more processes than the {torch.cuda.device_count()} CUDA devices here; lower --nproc-per-node"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Give the number of this process; rank 0 alone writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Give the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def agreed(values: Sequence[float]) -> list[float]:
    """Give rank 0's values to every process: clocks differ."""
    if world() == 1:
        return list(values)
    said = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(said, 0)
    found: list[float] = said.tolist()
    return found


def wait() -> None:
    """Go on when every process has come here."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


def shared(network: nn.Module) -> nn.Module:
    """Give the network as it is to be called in a step: gradients become the mean over the processes. After unfreezing, ask again."""
    return network if world() == 1 else DistributedDataParallel(network, broadcast_buffers=False)
