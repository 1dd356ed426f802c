"""Measure boxes/s: the bare network, ``convert`` in process and on Ray, OpenCV's GrabCut; where the time goes; bf16 against float32.

    python benchmarks/speed.py [DATASET] [--boxes 512] [--rounds 3]

DATASET is a COCO file or folder; without one, pictures of scikit-image with drawn boxes are used. Every measurement runs in a process of
its own; they take turns, round after round, so that whatever else the machine does meets all of them, and ratios are of one round. Medians
are printed. "Steady" is from the first finished shard to the last: without start-up and merge; "whole" is from start to result, imports
included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage import data

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
PER_IMAGE = 7
GRABCUT_BOXES = 12
PRECISION_BOXES = 64
TARGETS = {"in process / bare network": 0.9, "Ray, 1 worker / in process": 0.9, "Ray, 2 workers / in process": 0.9}


def draw(folder: Path, boxes: int) -> Path:
    """Write a COCO dataset of scikit-image's pictures at their own size, as JPEG, with drawn boxes of 24 to 300 px."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for n in range(-(-boxes // PER_IMAGE)):
        picture = getattr(data, PICTURES[n % len(PICTURES)])()
        height, width = picture.shape[:2]
        cv2.imwrite(str(folder / "images" / f"{n:05d}.jpg"), picture[:, :, ::-1])
        images.append({"id": n + 1, "file_name": f"{n:05d}.jpg", "height": height, "width": width})
        for _ in range(min(PER_IMAGE, boxes - len(annotations))):
            w, h = (float(side) for side in np.exp(rng.uniform(np.log(24), np.log(min(300, height - 1)), 2)).round(1))
            x, y = (float(place) for place in (rng.random(2) * (width - w, height - h)).round(1))
            annotations.append({"id": len(annotations) + 1, "image_id": n + 1, "category_id": 1, "bbox": [x, y, w, h], "iscrowd": 0})
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}))
    return path


def samples(path: Path, boxes: int) -> list[tuple[Any, Any, list[Any]]]:
    """Read the first boxes that can be used: (record, picture, its boxes)."""
    from autopoly import images
    from autopoly.jobs.source import locate

    dataset = locate(path, None, None, None).open()
    found, count = [], 0
    for number in range(len(dataset.counts)):
        record = dataset.record(number)
        usable = [one.box for one in record.instances if one.problem is None and not one.crowd][: boxes - count]
        if usable:
            found.append((record, images.read_rgb(record, dataset.image_root), usable))
            count += len(usable)
        if count >= boxes:
            break
    return found


def bare(path: Path, batches: int = 16, checkpoint: str | None = None) -> dict[str, float]:
    """Run the network alone on batches of crops as a conversion makes them, with all threads; count its operations for one box too."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

    from autopoly import devices, predict
    from autopoly.crops import cut
    from autopoly.execute.local import cpus
    from autopoly.network.siamanno import box_contour

    devices.keep_memory()
    annotator, count = predict.load(checkpoint, "cpu", threads=cpus()), predict.BATCH
    config = annotator.network.config
    crops = [cut(image, box, config.search_scale, config.crop_side).pixels for _, image, boxes in samples(path, count) for box in boxes]
    batch = torch.from_numpy(np.stack([crops[n % len(crops)] for n in range(count)])).permute(0, 3, 1, 2)
    initial = box_contour(config.crop_side, config.search_scale, config.vertices, count)
    seconds = []

    def of_convolution(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return conv_flop_count(x, weight, out_shape)

    def of_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    # What a processor runs in the place of the operators that the counter knows.
    unknown = {
        torch.ops.mkldnn._convolution_pointwise: of_convolution,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention,
    }
    operations = FlopCounterMode(display=False, custom_mapping=unknown)
    with torch.inference_mode(), torch.autocast("cpu", annotator.dtype, enabled=annotator.dtype != torch.float32):
        with operations:
            annotator.network(batch, initial, None)
        for _ in range(batches + 1):
            started = time.perf_counter()
            annotator.network(batch, initial, None)
            seconds.append(time.perf_counter() - started)
    return {"steady": count / statistics.median(seconds[1:]), "gflop": operations.get_total_flops() / count / 1e9}


def converted(path: Path, workers: int, device: str = "cpu", checkpoint: str | None = None) -> dict[str, float]:
    """Convert, and note when each shard was done."""
    started = time.perf_counter()
    from autopoly.jobs.conversion.options import ConvertOptions
    from autopoly.jobs.convert import convert

    steps: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        options = ConvertOptions(source=path, out=Path(scratch) / "out", workers=workers, device=device, checkpoint=checkpoint, score=False)
        summary = convert(options, lambda progress: steps.append((time.perf_counter(), progress.boxes)))
        whole = time.perf_counter() - started
    (first, before), (last, after) = steps[0], steps[-1]
    return {"steady": (after - before) / max(last - first, 1e-9), "whole": summary.counts["boxes"] / whole}


def grabcut(path: Path) -> dict[str, float]:
    """Segment the same boxes with OpenCV's GrabCut, five iterations, as its documentation does."""
    seconds, count = 0.0, 0
    for _, image, boxes in samples(path, GRABCUT_BOXES):
        height, width = image.shape[:2]
        for box in boxes:
            x1, y1, x2, y2 = (int(value) for value in np.clip(np.rint(box), 0, [width, height] * 2))
            if min(x2 - x1, y2 - y1) < 2:
                continue
            mask, models = np.zeros((height, width), np.uint8), (np.zeros((1, 65)), np.zeros((1, 65)))
            started = time.perf_counter()
            cv2.grabCut(np.ascontiguousarray(image[:, :, ::-1]), mask, (x1, y1, x2 - x1, y2 - y1), *models, 5, cv2.GC_INIT_WITH_RECT)
            seconds += time.perf_counter() - started
            count += 1
    return {"steady": count / seconds}


def shares(path: Path, boxes: int = 96) -> dict[str, float]:
    """Give the processor ms per box of each step, one thread at work at a time."""
    import torch

    from autopoly import images, predict
    from autopoly.crops import cut
    from autopoly.jobs.conversion import part_rows
    from autopoly.jobs.conversion.part_rows import Row

    cv2.setNumThreads(1)
    annotator = predict.load(None, "cpu", threads=1)
    assert torch.get_num_threads() == 1
    root = str((path if path.is_dir() else path.parent) / "images")
    config, spent = annotator.network.config, dict.fromkeys(("decode", "crop", "network", "geometry", "write"), 0.0)

    def timed(step: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = work()
        spent[step] += time.process_time() - started
        return result

    found = samples(path, boxes)
    crops = []
    for record, image, places in found:
        timed("decode", lambda record=record: images.read_rgb(record, root))
        for box in places:
            crop = timed("crop", lambda image=image, box=box: cut(image, box, config.search_scale, config.crop_side))
            crops.append((crop, image.shape[:2]))
    # The steps of Annotator.predict, one by one.
    annotator._batch([crop for crop, _ in crops[:32]], None, None)
    answers = []
    for start in range(0, len(crops), 32):
        part = [crop for crop, _ in crops[start : start + 32]]
        answers += timed("network", lambda part=part: annotator._batch(part, None, None))
    made = timed(
        "geometry",
        lambda: [annotator._prediction(annotator._outlines(crop, one), size) for (crop, size), one in zip(crops, answers, strict=True)],
    )
    rows = [
        Row(0, n, "1", str(n), "one.jpg", size, "predicted", one.quality, one.polygons)
        for n, (one, (_, size)) in enumerate(zip(made, crops, strict=True))
    ]
    timed("write", lambda: part_rows.encode(rows, "0"))
    return {step: 1000 * seconds / len(crops) for step, seconds in spent.items()}


def precision(path: Path, boxes: int = PRECISION_BOXES) -> dict[str, float]:
    """Give the share of vertices that lie within 0.5 px, in bf16, of where they are in float32: of contours, and of polygons' outlines."""
    import shapely
    import torch

    from autopoly import predict
    from autopoly.geometry.polygons import union

    annotator = predict.load(None, "cpu")
    found: dict[str, list[Any]] = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        annotator.dtype = dtype
        found[name] = [
            (annotator.contours(image, places)[0], annotator.predict([(image, np.stack(places))])[0])
            for _, image, places in samples(path, boxes)
        ]
    moved, away = [], []
    for (plain, made), (fast, quick) in zip(found["float32"], found["bf16"], strict=True):
        moved.append(np.linalg.norm(plain - fast, axis=-1).ravel())
        for one, other in zip(made, quick, strict=True):
            outline = shapely.boundary(union(one.polygons))
            points = [polygon.exterior for polygon in other.polygons]
            if points and not outline.is_empty:
                away.append(shapely.distance(outline, shapely.points(np.concatenate(points))))
    return {"contours": float((np.concatenate(moved) <= 0.5).mean()), "polygons": float((np.concatenate(away) <= 0.5).mean())}


def apart(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Run in a fresh process, which may start others."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--boxes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    ways: dict[str, tuple[Any, ...]] = {
        "bare network": (bare,),
        "in process": (converted, 0),
        "Ray, 1 worker": (converted, 1),
        "Ray, 2 workers": (converted, 2),
        "GrabCut": (grabcut,),
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = args.dataset or draw(Path(scratch), args.boxes)
        results: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, (work, *arguments) in ways.items():
                results[name].append(apart(work, path, *arguments))
        print("| way | boxes/s, steady | boxes/s, whole |\n|---|---|---|")
        for name, rounds in results.items():
            whole = f"{statistics.median(one['whole'] for one in rounds):.1f}" if "whole" in rounds[0] else ""
            print(f"| {name} | {statistics.median(one['steady'] for one in rounds):.1f} | {whole} |")
        print(f"the network: {results['bare network'][0]['gflop']:.2f} GFLOP for a box, a multiplication with its addition being two")
        for pair, target in TARGETS.items():
            upper, lower = pair.split(" / ")
            ratios = [a["steady"] / b["steady"] for a, b in zip(results[upper], results[lower], strict=True)]
            verdict = "met" if statistics.median(ratios) >= target else "MISSED"
            print(f"{pair}: {statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f}; target {target}: {verdict})")
        spent = apart(shares, path)
        print(
            "time per box, one thread: " + ", ".join(f"{step} {ms:.2f} ms ({ms / sum(spent.values()):.0%})" for step, ms in spent.items())
        )
        near = apart(precision, path)
        told = ", ".join(f"{name} {share:.2%}" for name, share in near.items())
        print(f"bf16 within 0.5 px of float32, share of vertices: {told} (target 99 %)")


if __name__ == "__main__":
    main()
