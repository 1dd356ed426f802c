"""Measure whether making batches keeps up with learning from them: samples/s of the loader alone, the network alone, and both together.

    python benchmarks/loader.py [--data DATASET] [--steps 6] [--rounds 3] [--side 160] [--batch 32] [--loaders 1] [--checkpoint C]

The three take turns within each round, and medians over rounds are printed: a machine that others use slows all of them alike. The network
alone learns from one batch over and over. Together should be at least 0.9 of the network alone. Without --data blobs of random colours are
drawn, as large as photos.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from autopoly import devices
from autopoly.config import NetworkConfig
from autopoly.jobs import source
from autopoly.network import checkpoint
from autopoly.network.siamanno import SiamAnno
from autopoly.training.batches import AHEAD, Stream, loader
from autopoly.training.cache import CacheConfig, Source
from autopoly.training.loop import step
from autopoly.training.objective import dtype_of
from autopoly.training.samples import Samples, cached
from autopoly.training.schedule import TrainConfig
from autopoly.training.state import State

TARGET = 0.9
IMAGES = 48


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--loaders", type=int, default=1)
    parser.add_argument("--checkpoint", help="a network of this shape instead of the default one")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    network = checkpoint.load_network(args.checkpoint).train() if args.checkpoint else SiamAnno(NetworkConfig())
    config = TrainConfig(batch=args.batch, loaders=args.loaders, sides=((0.0, args.side),))
    with tempfile.TemporaryDirectory() as scratch:
        data = args.data or drawn(Path(scratch) / "data")
        samples = cached([Source("data", source.locate(data, None, None, None).open())], Path(scratch) / "cache", CacheConfig())
        print(f"{len(samples.train):,} samples, batch {args.batch}, side {args.side} px, {args.loaders} loaders, {args.rounds} rounds")
        found = measured(network, samples, config, devices.choose(args.device), args.steps, args.rounds)
    for name, speeds in found.items():
        print(f"{name:<8} {statistics.median(speeds):8.1f} samples/s  ({', '.join(f'{one:.1f}' for one in speeds)})")
    ratio = statistics.median(together / alone for together, alone in zip(found["together"], found["network"], strict=True))
    print(f"together / network: {ratio:.2f} (median of the rounds; target {TARGET}: {'met' if ratio >= TARGET else 'missed'})")


def measured(network: SiamAnno, samples: Samples, config: TrainConfig, device: str, steps: int, rounds: int) -> dict[str, list[float]]:
    """Give samples/s by round of ``loader``, ``network`` and ``together``, after one step of each that does not count."""
    network.to(device=device, memory_format=torch.channels_last)
    dtype = dtype_of(config.precision, device)
    average = SiamAnno(network.config)
    average.to(device=device, memory_format=torch.channels_last)
    average.load_state_dict(network.state_dict())
    state = State(network, average, config, scaled=dtype == torch.float16)
    stream = Stream(samples, network.config, config, 0)

    def learn(batch: dict[str, Tensor]) -> None:
        step(network, state, batch, 0.0, config, device, dtype)

    same = stream[0]
    learn(same)
    found: dict[str, list[float]] = {"loader": [], "network": [], "together": []}
    for _ in range(rounds):
        found["network"].append(config.batch * steps / _seconds(lambda: learn(same), steps))
        for name, work in (("together", lambda batch: learn(batch)), ("loader", lambda batch: None)):
            # Loader processes live only while they are measured, and what they made ahead is thrown away: it would be a gift.
            batches = iter(loader(stream, device))
            for _ in range(AHEAD * config.loaders + 1):
                next(batches)
            found[name].append(config.batch * steps / _seconds(lambda work=work, batches=batches: work(next(batches)), steps))
            del batches
    return found


def _seconds(work: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def drawn(folder: Path) -> Path:
    """Write a COCO folder of blobs on noise, four to a picture of 640 x 480."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for number in range(IMAGES):
        picture = cv2.resize(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        for slot in range(4):
            radius = rng.uniform(30, 90) * (1 - 0.2 * rng.random() * (1 + np.sin(3 * angle + rng.uniform(0, 6))))
            ring = rng.uniform((100, 100), (540, 380)) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
            cv2.fillPoly(picture, [np.round(ring).astype(np.int32)], rng.integers(0, 255, 3).tolist())
            low, high = ring.min(0), ring.max(0)
            one = {"id": 4 * number + slot + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 1.0}
            annotations.append(one | {"bbox": [*low.tolist(), *(high - low).tolist()], "segmentation": [ring.ravel().tolist()]})
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), picture)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 480, "width": 640})
    told = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "blob"}]}
    (folder / "annotations.json").write_text(json.dumps(told))
    return folder


if __name__ == "__main__":
    main()
