"""Measure a CUDA device: the network at several batch sizes, a training step, and whole conversions by one process and by several at once.

    python benchmarks/gpu.py [--checkpoint C] [--side 288] [--processes 1 4 12] [--boxes 2000]

The network runs in float32, bf16 and fp16, as it is and as a CUDA graph. A conversion (drawn boxes on scikit-image's pictures) reads, cuts,
predicts, traces and writes; its share of the bare network's speed is about how long the GPU is busy. Several processes share the GPU as
``convert --workers N`` lets them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from speed import converted, draw
from torch import Tensor

from autopoly.network import checkpoint
from autopoly.network.siamanno import SiamAnno, box_contour
from autopoly.training.loop import step
from autopoly.training.schedule import TrainConfig
from autopoly.training.state import State

BATCHES = (8, 32, 128, 512)
LEARNED = (32, 128, 256)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RUNS = 7


def main() -> None:
    """Measure and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="siamanno-lite0")
    parser.add_argument("--side", type=int, default=288)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 4, 12])
    parser.add_argument("--boxes", type=int, default=2000)
    args = parser.parse_args()
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, {args.side} px", flush=True)
    network = checkpoint.load_network(args.checkpoint).to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
    print("\n| batch | " + " | ".join(f"{name} | {name}, CUDA graph" for name in DTYPES) + " |")
    print("|" + "---|" * (1 + 2 * len(DTYPES)))
    speeds = [measured for batch in BATCHES for measured in answering(network, batch, args.side)]
    learning(network.train(), args.side)
    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as scratch:
        path = draw(Path(scratch), args.boxes)
        print("\n| processes | boxes/s, converted | of the bare network |\n|---|---|---|")
        for count in args.processes:
            speed = converting(path, args.checkpoint, count)
            print(f"| {count} | {speed:.0f} | {speed / max(speeds):.0%} |", flush=True)


def answering(network: SiamAnno, batch: int, side: int) -> list[float]:
    """Print a row of boxes/s of the network alone, and give them."""
    crops = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device="cuda")
    initial = box_contour(side, network.config.search_scale, network.config.vertices, batch, "cuda").contiguous()
    found = []
    for dtype in DTYPES.values():

        def run(dtype: torch.dtype = dtype) -> None:
            # A graph holds one autocast cache; outside of it the weights are converted once a call.
            with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False):
                network(crops, initial, None)

        found += [batch / seconds(run), batch / seconds(captured(run))]
    print(f"| {batch} | " + " | ".join(f"{speed:.0f}" for speed in found) + " |", flush=True)
    return found


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """Record what a function does on the GPU, to be done again without its Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def learning(network: SiamAnno, side: int) -> None:
    """Print samples/s of a training step in bf16, the whole backbone trained, without the making of batches."""
    print("\n| batch | samples/s learned | with cuDNN's own trials |\n|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    for batch in LEARNED:
        config = TrainConfig(batch=batch, sides=((0.0, side),))
        average = SiamAnno(network.config).to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
        state = State(network, average, replace(config, rate=1e-6))
        state.thaw()
        made: dict[str, Tensor] = {
            "pixels": torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, generator=generator).pin_memory(),
            "mask": torch.randint(0, 256, (batch, side // 2, side // 2), dtype=torch.uint8, generator=generator).pin_memory(),
            "contour": box_contour(side, network.config.search_scale, network.config.vertices, batch).contiguous().pin_memory(),
            "corrections": (torch.arange(batch) % 7 == 0).long(),
        }
        found = []
        for tried in (False, True):
            torch.backends.cudnn.benchmark = tried
            found.append(batch / seconds(partial(step, network, state, made, 0.5, config, "cuda", torch.bfloat16)))
        torch.backends.cudnn.benchmark = False
        print(f"| {batch} | {found[0]:.0f} | {found[1]:.0f} |", flush=True)


def seconds(run: Callable[[], object]) -> float:
    """Give the median seconds of a call, the device's work included."""
    taken = []
    for number in range(RUNS + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number >= 3:
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def converting(path: Path, named: str, count: int) -> float:
    """Give boxes/s of several processes together that convert the same boxes, each without its start and its end."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        return sum(one["steady"] for one in pool.map(converted, [path] * count, [0] * count, ["cuda"] * count, [named] * count))


if __name__ == "__main__":
    main()
