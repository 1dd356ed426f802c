"""Train a network on annotated datasets and leave a checkpoint behind."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

import autopoly
from autopoly.config import NetworkConfig
from autopoly.errors import RunError
from autopoly.formats import FORMATS, detect
from autopoly.jobs.train_options import TrainOptions
from autopoly.network import checkpoint
from autopoly.network.siamanno import SiamAnno
from autopoly.predict import choose_device
from autopoly.training.loop import Report, TrainConfig, log_line, train
from autopoly.training.samples import CacheConfig, Source, cached

__all__ = ["Report", "TrainOptions", "run"]


def run(options: TrainOptions, tell: Callable[[Report], None]) -> Path:
    """Train and give the folder of the checkpoint, ``out/checkpoint``; the log is ``out/log.jsonl``, the state to resume from beside it."""
    options.check()
    state = options.out / "state.safetensors"
    if state.exists() and not options.resume:
        raise RunError(f"{options.out}: holds the state of a training; say --resume to go on with it, or choose another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    sources = [_source(path, weight, held_out=False) for path, weight in options.train] + [
        _source(path, 1.0, held_out=True) for path in options.val
    ]
    torch.manual_seed(options.seed)
    if options.init is not None:
        network = checkpoint.load_network(options.init).train()
    else:
        network = SiamAnno(NetworkConfig() if options.backbone is None else NetworkConfig(backbone=options.backbone), pretrained=True)
    samples = cached(sources, options.out / "cache", CacheConfig())
    config = TrainConfig(minutes=options.minutes, seed=options.seed, loaders=options.workers)
    config = dataclasses.replace(config, steps=max(1, round(options.epochs * len(samples.train) / config.batch)))
    device = choose_device(options.device)
    begun = time.time()
    with (options.out / "log.jsonl").open("a") as log:

        def note(report: Report) -> None:
            print(log_line(report), file=log, flush=True)
            tell(report)

        average = train(network, samples, options.out, config, device, options.resume, note)
    about = {
        "autopoly": autopoly.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads, device {device}",
        "trained_on": {source.name: int(count) for source, count in zip(sources, samples.sizes, strict=True)},
        "held_out": [source.name for source in sources if source.held_out],
        "minutes": round((time.time() - begun) / 60, 1),
        "training": dataclasses.asdict(config),
    }
    folder = options.out / "checkpoint"
    checkpoint.save(average, folder, about)
    return folder


def _source(path: Path, weight: float, held_out: bool) -> Source:
    name = detect(path)
    return Source(path.name if path.suffix == "" else path.stem, FORMATS[name].read(path), weight, held_out)
