"""Batches by number, made in processes of their own while the network learns. B batch, S crop side."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import fields

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from autopoly.config import NetworkConfig
from autopoly.errors import RecipeError
from autopoly.training.samples import Sample, Samples
from autopoly.training.schedule import TrainConfig, progress_of, side_at

AHEAD = 6
"""Batches a loader process makes in advance."""


class Stream(TorchDataset[dict[str, Tensor]]):
    """Number of a batch after step ``start`` -> the share of it that process ``rank`` of ``world`` has.

    The crop side is shared memory, so that a schedule by minutes reaches the loader process. Raise RecipeError where the batch has no equal
    share for each process: the mean of their gradients would not be that of the batch.
    """

    def __init__(self, samples: Samples, network: NetworkConfig, config: TrainConfig, start: int, rank: int = 0, world: int = 1) -> None:
        self.samples, self.network, self.config, self.start = samples, network, config, start
        share, rest = divmod(config.batch, world)
        if rest:
            raise RecipeError(f"--batch {config.batch}: expected a multiple of the {world} processes")
        self.slots = range(rank * share, (rank + 1) * share)
        self.side = torch.tensor([config.sides[0][1]]).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        config, step = self.config, self.start + number
        # By minutes the side follows the clock, hence is told; by steps it follows from the step, and a resumed run sees the same batches.
        side = int(self.side.item()) if config.minutes is not None else side_at(config, progress_of(config, step, 0.0))
        indices = self.samples.draw(config.seed, step, config.batch)
        made = [
            self.samples.sample(
                int(indices[slot]),
                side,
                self.network.search_scale,
                self.network.vertices,
                np.random.default_rng([config.seed, step, 1 + slot]),  # 0 would be the stream of the draw itself
                config.augment,
            )
            for slot in self.slots
        ]
        return stacked(made)


def stacked(made: Sequence[Sample]) -> dict[str, Tensor]:
    """Make a batch of samples: each of their arrays with a leading B."""
    return {one.name: torch.from_numpy(np.stack([getattr(sample, one.name) for sample in made])) for one in fields(Sample)}


def loader(stream: Stream, device: str) -> DataLoader[dict[str, Tensor]]:
    """Give the batches of a stream in order, made by ``loaders`` processes."""
    processes = stream.config.loaders
    return DataLoader(
        stream,
        batch_size=None,
        shuffle=False,
        num_workers=processes,
        prefetch_factor=AHEAD if processes else None,
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=_begin,
        # A forked child would inherit thread pools without their threads.
        multiprocessing_context="spawn" if processes else None,
    )


def _begin(_worker: int) -> None:
    cv2.setNumThreads(1)  # the cores belong to the network
    # A loader that is told to end may still be copying a batch, in a thread that Python's own end would unwind through C++ frames:
    # "terminate called without an active exception". It has nothing left to lose, so it goes without unwinding.
    atexit.register(os._exit, 0)
