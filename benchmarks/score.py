"""Measure how fast ``autopoly score`` is, with all its numbers, against plain pycocotools IoU of the same pairs in the same run.

    python benchmarks/score.py [INSTANCES] [HEIGHTxWIDTH]

It writes two COCO files of blobs in a temporary folder (ten per image, 8 to 200 px, 60 vertices) and prints instances/s of both, the ratio
of their times, and the largest memory of the process while it scored.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from autopoly.jobs.score import ScoreOptions, score

PER_IMAGE = 10
VERTICES = 60


def write(folder: Path, instances: int, size: tuple[int, int]) -> tuple[Path, Path]:
    """Write truth.json and, its vertices moved by about a pixel, prediction.json; both are streamed."""
    random = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    images = [{"id": n + 1, "file_name": f"{n}.jpg", "height": size[0], "width": size[1]} for n in range(-(-instances // PER_IMAGE))]
    head = json.dumps({"images": images, "categories": [{"id": n, "name": f"kind {n}"} for n in range(1, 9)]})[:-1] + ', "annotations": ['
    paths = folder / "prediction.json", folder / "truth.json"
    with paths[0].open("w") as prediction, paths[1].open("w") as truth:
        prediction.write(head)
        truth.write(head)
        for n in range(instances):
            side = np.exp(random.uniform(np.log(8), np.log(200)))
            centre = random.uniform(side / 2, np.array([size[1], size[0]]) - side / 2)
            radius = side / 2 * (1 - 0.2 * random.random() * (1 + np.sin(3 * angle + random.uniform(0, 6))))
            ring = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
            moved = np.clip(ring + random.normal(0, 1, ring.shape), 0, (size[1], size[0]))
            low, high = ring.min(0), ring.max(0)
            fields = {
                "id": n + 1,
                "image_id": n // PER_IMAGE + 1,
                "category_id": n % 8 + 1,
                "bbox": [*low.round(2).tolist(), *(high - low).round(2).tolist()],
                "area": 1.0,
                "iscrowd": 0,
            }
            comma = "," if n else ""
            truth.write(comma + json.dumps({**fields, "segmentation": [ring.round(2).ravel().tolist()]}))
            quality = round(float(random.random()), 4)
            prediction.write(comma + json.dumps({**fields, "segmentation": [moved.round(2).ravel().tolist()], "quality": quality}))
        for stream in (prediction, truth):
            stream.write("]}")
    return paths


def plain(paths: tuple[Path, Path], size: tuple[int, int]) -> float:
    """Time pycocotools alone: rasterise both masks of each pair and take their IoU; reading the files is not counted."""
    prediction, truth = (json.loads(path.read_text())["annotations"] for path in paths)
    started = time.perf_counter()
    for a, b in zip(prediction, truth, strict=True):
        pair = [coco_mask.merge(coco_mask.frPyObjects(one["segmentation"], *size)) for one in (a, b)]
        coco_mask.iou(pair[:1], pair[1:], [0])
    return time.perf_counter() - started


def main() -> None:
    """Print the measurement."""
    instances = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    height, width = (int(text) for text in (sys.argv[2] if len(sys.argv) > 2 else "480x640").split("x"))
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), instances, (height, width))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        result = score([paths[0]], paths[1], ScoreOptions(min_side=32))
        ours = time.perf_counter() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        theirs = plain(paths, (height, width))
    print(f"{instances:,} instances of {height}x{width}; n {result['n']:,}, miou {result['miou']:.4f}, f_1px {result['f_1px']:.4f}")
    print(f"autopoly score, all numbers: {instances / ours:,.0f} instances/s, {ours:.1f} s; peak {memory:.0f} MB ({before:.0f} MB before)")
    print(f"pycocotools, IoU alone:      {instances / theirs:,.0f} instances/s, {theirs:.1f} s; ratio of times {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
