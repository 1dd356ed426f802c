"""Train a network on annotated datasets and leave a checkpoint behind.

In the folder of the result: ``checkpoint/`` (the network that was best on whole held-out images), ``curves.png``, ``sheet.png`` (held-out
objects, best, middle and worst), ``log.jsonl``, and what a resumed training goes on from: ``state.safetensors``, ``best/``, ``cache/``.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import autopoly
from autopoly import devices
from autopoly.config import LearningConfig, NetworkConfig
from autopoly.errors import RecipeError, RunError
from autopoly.execute.local import cpus
from autopoly.jobs import correction_training, edge_training, train_sources
from autopoly.jobs.held_out import BEST, HeldOut
from autopoly.jobs.train_options import TrainOptions
from autopoly.network import checkpoint
from autopoly.network.siamanno import SiamAnno
from autopoly.training import ranks
from autopoly.training.cache import CacheConfig, Source, said
from autopoly.training.corrections import CorrectionConfig
from autopoly.training.edges import EdgeConfig
from autopoly.training.loop import Report, log_line, train
from autopoly.training.objective import dtype_of
from autopoly.training.samples import Samples, cached
from autopoly.training.schedule import TrainConfig
from autopoly.training.state import saved_step

__all__ = ["Report", "TrainOptions", "line_of", "run"]

SHOWN = ("vertex", "mask", "iou_contour", "iou_mask", "val_contour", "val_mask", "miou_instances", "f_1px", "f_2px")
"""The numbers of a report that a line has room for."""
DRAWN = 1500
"""Drawn samples in the cache, where any are asked for: each is seen a few times."""
FEW = 300
"""Steps in which a network hardly learns to draw outlines, from ImageNet weights."""
Say = Callable[[str], None]


def run(options: TrainOptions, tell: Callable[[Report], None], say: Say = lambda line: None) -> Path:
    """Train and give the folder of the checkpoint, ``out/checkpoint``; ``say`` gets lines for a person.

    Under torchrun every process runs this; rank 0 alone writes and speaks. Raise AutopolyError for what cannot be trained.
    """
    options.check()
    begun = saved_step(options.out) is not None
    if begun and not options.resume:
        raise RunError(f"{options.out}: holds the state of a training; say --resume to go on with it, or choose another --out")
    with ranks.joined(devices.choose(options.device)) as device, _within_memory(options, device):
        if ranks.rank() == 0 and not begun:  # What an earlier training left before its first state is no part of this one.
            shutil.rmtree(options.out / BEST, ignore_errors=True)
            (options.out / "log.jsonl").unlink(missing_ok=True)
        if ranks.rank() > 0:
            return _run(options, device, lambda report: None, lambda line: None)
        return _run(options, device, tell, say)


def _run(options: TrainOptions, device: str, tell: Callable[[Report], None], say: Say) -> Path:
    dtype = str(dtype_of(options.precision, device)).removeprefix("torch.")
    torch.manual_seed(options.seed)
    network, options = _start(options, say)
    sources = train_sources.opened(options)
    samples = _cached(options, sources)
    if options.edge_steps and not len(samples.validation):
        raise RecipeError("--edge-steps: the pass is kept where held-out images gain, and none is held out; name a --val, or leave it out")
    _say_samples(sources, samples, say)
    config = _config(options, len(samples.train))
    say(f"learns on {device} in {dtype}, {config.batch} samples a step{_processes(device)}")
    _say_length(config, options.init is None, say)
    held = HeldOut(sources, samples, config.validation_samples, device, options.out) if ranks.rank() == 0 else None
    seconds = 0.0

    def note(report: Report) -> None:
        nonlocal seconds
        seconds = report.seconds
        with (options.out / "log.jsonl").open("a") as log:
            print(log_line(report), file=log)
        tell(report)

    average = train(network, samples, options.out, config, device, options.resume, note, None if held is None else held.check)
    folder = options.out / "checkpoint"
    if held is not None:
        about = {
            "autopoly": autopoly.__version__,
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads, device {device}, {dtype}, {ranks.world()} processes",
            "trained_on": {
                source.name: {"samples": int(count), "weight": source.weight, "annotations": source.annotations}
                for source, count in zip(sources, samples.sizes, strict=True)
                if not source.held_out
            },
            "shapes": options.shapes,
            "held_out": [source.name for source in sources if source.held_out],
            "minutes": round(seconds / 60, 1),
            "training": dataclasses.asdict(config),
        }
        _finish(options, device, average, sources, samples, held, about, say)
    return folder


@contextmanager
def _within_memory(options: TrainOptions, device: str) -> Iterator[None]:
    """Keep what memory a training on processors frees, which is faster, and raise RunError where there is not enough."""
    if device == "cpu":
        devices.keep_memory()
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:120]
        line = f"{device}: not enough memory for {options.batch} samples at once ({said}); lower --batch or --sides, or end other programs"
        raise RunError(f"{line}; --resume goes on from the last state, if there is one") from error


def line_of(report: Report) -> str:
    """Give a report as one line for a person."""
    told = "  ".join(f"{name} {report.numbers[name]:.3f}" for name in SHOWN if name in report.numbers)
    speed = f"  {report.speed:.0f} samples/s" if report.speed else ""
    left = f"  {report.left / 60:.1f} min left" if report.left is not None else ""
    return f"step {report.step:,}  {report.progress:.1%}{speed}{left}  {told}"


def _start(options: TrainOptions, say: Say) -> tuple[SiamAnno, TrainOptions]:
    """Give the network to begin with and the options with the sides it learns at; its answers will be for crops of the last of them."""
    step = saved_step(options.out) if options.resume else None
    sides = options.sides
    if options.init is not None:
        network = checkpoint.load_network(options.init).train()
        start = f"checkpoint {checkpoint.resolve(options.init)} ({checkpoint.fingerprint(options.init)})"
        own = network.config.crop_side
        if sides and sides[-1][1] != own:
            stays = not options.learns and not step
            say(f"its crop side of {own} px {'stays, since nothing is learned' if stays else f'becomes {sides[-1][1]} px'} (--sides)")
            sides = () if stays else sides
        sides = sides or ((0.0, own),)
    else:
        network = SiamAnno(NetworkConfig() if options.backbone is None else NetworkConfig(backbone=options.backbone), pretrained=True)
        start = f"ImageNet weights of {network.config.backbone}"
        sides = sides or LearningConfig().sides
    for name, option in (("edge", "--edge-steps"), ("correction", "--correction-steps")):
        if getattr(network, name) is not None:
            say(
                f"its {name} pass is left out, since it was learned for these weights and not for what becomes of them; {option} learns one"
            )
            setattr(network, name, None)
    network.config = dataclasses.replace(network.config, crop_side=sides[-1][1], edge_width=0, correction_width=0)
    say(f"starts from {start}" if step is None else f"goes on from step {step:,} of {options.out}, begun from {start}")
    return network, dataclasses.replace(options, sides=sides)


def _cached(options: TrainOptions, sources: list[Source]) -> Samples:
    """Build the cache in rank 0 and open it in the others; raise RunError where they do not see it."""
    folder, config = options.out / "cache", CacheConfig.of(max(side for _, side in options.sides), DRAWN if options.shapes else 0)
    samples = cached(sources, folder, config, options.held_out, options.shapes, cpus()) if ranks.rank() == 0 else None
    ranks.wait()
    if samples is None:
        if not (folder / "index.json").is_file():
            raise RunError(f"{options.out}: not seen by every node; --out must be on storage that they share")
        samples = Samples(folder, config, [source.weight for source in sources], options.shapes)
    return samples


def _say_samples(sources: list[Source], samples: Samples, say: Say) -> None:
    measured = np.bincount(samples.table["source"][samples.validation], minlength=len(sources)).tolist()
    for source, learned, kept in zip(sources, samples.sizes.astype(int).tolist(), measured, strict=True):
        count, purpose = (kept, "measure on, held out whole") if source.held_out else (learned, "learn from")
        say(f"{source.name}: {source.dataset.header.format}, {f'{count:,} samples' if count else 'NO sample'} to {purpose}")
        for note in source.dataset.header.notes:
            say(f"{source.name}: note: {note}")
    if not len(samples.validation):
        say("nothing is held out, so the last weights become the checkpoint; name a dataset with --val to choose the best")
    if samples.left_out:
        say(f"left out: {said(samples.left_out)}")


def _say_length(config: TrainConfig, anew: bool, say: Say) -> None:
    if config.minutes is None and config.steps:
        few = "; so few teach little from ImageNet weights: raise --epochs, or start with --init" if anew and config.steps < FEW else ""
        say(f"{config.steps:,} steps in all{few}")


def _config(options: TrainOptions, count: int) -> TrainConfig:
    values = {one.name: getattr(options, one.name) for one in dataclasses.fields(LearningConfig)}
    return TrainConfig(**values, steps=math.ceil(options.epochs * count / options.batch), loaders=options.workers)


def _processes(device: str) -> str:
    if ranks.world() > 1:
        return f", shared by {ranks.world()} processes"
    more = torch.cuda.device_count() if device.startswith("cuda") else 1
    return f"; {more} GPUs are here, torchrun --nproc-per-node {more} -m autopoly train ... uses them all" if more > 1 else ""


def _finish(
    options: TrainOptions,
    device: str,
    average: SiamAnno,
    sources: list[Source],
    samples: Samples,
    held: HeldOut,
    about: dict[str, object],
    say: Say,
) -> None:
    """Leave the checkpoint, the curves and the sheet; rank 0 does so alone."""
    # Only now, since matplotlib takes its second.
    from autopoly.report import training

    out, best, network = options.out, held.best(), average
    if best is not None:
        network, about = checkpoint.load_network(out / BEST), about | {"best": best}
        say(
            f"the checkpoint is that of step {best['step']:,}, the best on {held.count:,} held-out instances: mIoU "
            f"{best['miou_instances']:.3f}, F 2 px {best['f_2px']:.3f}"
        )
    learned = network
    checkpoint.save(learned, out / "checkpoint", about)  # before the passes: what was learned must not be lost with one that fails
    if options.edge_steps:
        config = EdgeConfig(steps=options.edge_steps, precision=options.precision)
        network = edge_training.learned(network, sources, samples, held, config, options.seed, device, say)
    if options.correction_steps:
        learning = CorrectionConfig(steps=options.correction_steps, precision=options.precision)
        network, told = correction_training.learned(network, samples, learning, options.seed, options.workers, device, say)
        about = about | ({"corrections": told} if told else {})
    if network is not learned:
        checkpoint.save(network, out / "checkpoint", about)
    training.curves(training.history(out / "log.jsonl"), out / "curves.png", None if best is None else best["step"])
    drawn = training.held_out_sheet(held.picks(), out / "sheet.png")
    say(f"{out / 'curves.png'}: losses and scores")
    if drawn:
        say(f"{out / 'sheet.png'}: held-out objects, best, middle and worst")
