"""Say what a part of the method, or of the data, is worth: train with it and without it, from the same start, on the same samples.

    python benchmarks/ablation.py DATA [--recipe train-default] [--only VARIANT]... [--seeds 3] [--steps 1000] [--side 160] [--out DIR]

DATA holds the sources of the recipe, whose held-out images measure each run at full resolution. Every run starts from ImageNet weights and
learns from STEPS batches of BATCH; with a seed, all variants see the same batches, as far as they have the same sources. Printed is the
mean over the seeds, and each seed's difference from the run as the recipe has it. What is finished is kept in OUT: the same command goes
on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from autopoly import devices, recipes
from autopoly.config import NetworkConfig
from autopoly.execute.local import cpus
from autopoly.jobs import recipe_data, train_sources
from autopoly.jobs.held_out import HeldOut
from autopoly.jobs.train import DRAWN
from autopoly.network.siamanno import SiamAnno
from autopoly.training.cache import CacheConfig, Source
from autopoly.training.loop import Report, train
from autopoly.training.samples import Samples, cached
from autopoly.training.schedule import TrainConfig

NUMBERS = (("miou_instances", "mIoU"), ("f_1px", "F1"), ("f_2px", "F2"))
AS_IT_IS = "as it is"


@dataclass(frozen=True, slots=True)
class Variant:
    """What a run has otherwise than the recipe: fields of the network's shape, and sources that it does not see."""

    network: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


VARIANTS = {
    AS_IT_IS: Variant(),
    "no correlation": Variant({"correlation": False}),
    "no attention": Variant({"blocks16": 0}),
    "no detail branch": Variant({"detail": 0}),
    "known licences": Variant(without=("sysu-vehicles", "car-parts", "hand-outlines", "gsc-objects")),
}


def main() -> None:
    """Train what is not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="train-default")
    parser.add_argument("--only", action="append", choices=[name for name in VARIANTS if name != AS_IT_IS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    recipe = recipes.load(recipes.find(args.recipe))
    options = recipe_data.locate(dataclasses.replace(recipe, convert=None, score=None), args.data).train
    if options is None:
        parser.error(f"{args.recipe}: has no [train]")
    options = dataclasses.replace(options, out=args.out)
    sources = train_sources.opened(options)
    cache = CacheConfig.of(args.side, DRAWN if options.shapes else 0)
    samples = cached(sources, args.out / "cache", cache, options.held_out, options.shapes, cpus())
    device = devices.choose(args.device)
    held = HeldOut(sources, samples, options.validation_samples, device, args.out)
    config = TrainConfig(steps=args.steps, batch=args.batch, sides=((0.0, args.side),), ema=0.995, validations=1, save_every=1e9)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name in (AS_IT_IS, *(args.only or [name for name in VARIANTS if name != AS_IT_IS])):
            path = args.out / f"{name.replace(' ', '-')}-{args.side}px-{args.steps}-{seed}.json"
            if not path.exists():
                seen = Samples(args.out / "cache", cache, _weights(sources, VARIANTS[name]), options.shapes)
                numbers = run(VARIANTS[name], seen, held, dataclasses.replace(config, seed=seed), args.out / "run", device)
                path.write_text(json.dumps(numbers) + "\n")
            found.setdefault(name, []).append(json.loads(path.read_text()))
            print(f"{name}, seed {seed}: {found[name][-1]}", flush=True)
    print(f"\n{args.steps:,} steps of {config.batch} samples at {args.side} px, {args.seeds} seeds, {held.count} held-out instances\n")
    print("\n".join(table(found)))


def run(variant: Variant, samples: Samples, held: HeldOut, config: TrainConfig, folder: Path, device: str) -> dict[str, float]:
    """Train a variant from ImageNet weights and measure its averaged weights at the end; give the numbers and the minutes."""
    torch.manual_seed(config.seed)
    network = SiamAnno(dataclasses.replace(NetworkConfig(crop_side=config.sides[-1][1]), **variant.network), pretrained=True)
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    average = train(network, samples, folder, config, device, resume=False, tell=_progress)
    minutes = (time.monotonic() - begun) / 60
    return held.measure(average) | {"minutes": round(minutes, 1)}


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Lay out the means over the seeds, in percent, and the differences from the run as it is, seed by seed."""
    lines = ["| variant | minutes | " + " | ".join(f"{label} | difference by seed" for _, label in NUMBERS) + " |"]
    lines.append("|" + "---|" * (2 + 2 * len(NUMBERS)))
    for name, runs in found.items():
        cells = [name, f"{statistics.mean(one['minutes'] for one in runs):.1f}"]
        for key, _ in NUMBERS:
            cells.append(f"{100 * statistics.mean(one[key] for one in runs):.1f}")
            pairs = zip(runs, found[AS_IT_IS], strict=True)
            cells.append("" if name == AS_IT_IS else ", ".join(f"{100 * (one[key] - base[key]):+.1f}" for one, base in pairs))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _weights(sources: Sequence[Source], variant: Variant) -> list[float]:
    return [0.0 if source.name in variant.without else source.weight for source in sources]


def _progress(report: Report) -> None:
    if report.speed:
        print(f"  {report.progress:.0%}, {report.speed:.0f} samples/s", end="\r", flush=True)


if __name__ == "__main__":
    main()
