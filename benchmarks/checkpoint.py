"""Measure a checkpoint on annotated datasets: convert each from its boxes, score it against its masks, print a table for the model card.

    python benchmarks/checkpoint.py FOLDER_OF_DATASETS [--checkpoint C] [--only NAME]... [--jitter 0.05] [--json FILE]

Every dataset is a folder in COCO form. The population are instances whose box has a shorter side of at least 32 px,
the mean over all instances stands beside it; masks at full image resolution; boxes as given, or each side moved by a normal error of JITTER
box sides. The instances of coco-complete and coco-people are pooled where both are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from autopoly.jobs.convert import convert
from autopoly.jobs.options import ConvertOptions
from autopoly.jobs.score import ScoreOptions, score

MIN_SIDE = 32
POOL = ("coco-complete", "coco-people")


def main() -> None:
    """Measure, print a Markdown table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = args.only or sorted(path.parent.name for path in args.folder.glob("*/annotations.json"))
    results = {}
    print("| set | n | instance mIoU | all instances | mIoU (categories) | F1 | F2 | mAP | quality rank | boxes/s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        result = results[name] = measure(args.folder / name, args.checkpoint, args.jitter)
        low, high = result["ci95"]["miou_instances"]
        print(
            f"| {name} | {result['n']} | {_percent(result['miou_instances'])} ({_percent(low)} to {_percent(high)}) "
            f"| {_percent(result['all']['miou_instances'])} | {_percent(result['miou'])} | {_percent(result['f_1px'])} "
            f"| {_percent(result['f_2px'])} | {_percent(result['map'])} | {result['quality_spearman']:.2f} "
            f"| {result['boxes_per_second']:.0f} |",
            flush=True,
        )
    pooled = [results[name] for name in POOL if name in results]
    if len(pooled) == len(POOL):
        count = sum(result["n"] for result in pooled)
        print(f"\n{' + '.join(POOL)}: instance mIoU {_percent(sum(r['miou_instances'] * r['n'] for r in pooled) / count)} (n = {count})")
    if results:
        print(f"F2, mean over the sets: {_percent(float(np.mean([result['f_2px'] for result in results.values()])))}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def measure(folder: Path, checkpoint: str | None, jitter: float) -> dict:
    """Convert a copy that has boxes only and score the result; the score's dict with ``boxes_per_second`` (load and start included)."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        data = json.loads((folder / "annotations.json").read_text())
        rng = np.random.default_rng(0)
        for annotation in data["annotations"]:
            annotation["segmentation"] = []
            x, y, w, h = annotation["bbox"]
            left, top, right, bottom = rng.normal(0, jitter, 4) * (w, h, w, h) if jitter else np.zeros(4)
            annotation["bbox"] = [x + left, y + top, max(w + right - left, 1.0), max(h + bottom - top, 1.0)]
        (source / "annotations.json").write_text(json.dumps(data))
        out = Path(scratch) / "out"
        started = time.monotonic()
        convert(ConvertOptions(source=source, out=out, images=folder / "images", checkpoint=checkpoint, workers=0, score=False))
        seconds = time.monotonic() - started
        result = score([out / "annotations.json"], folder / "annotations.json", ScoreOptions(min_side=MIN_SIDE))
        shutil.rmtree(out)
    return result | {"boxes_per_second": len(data["annotations"]) / seconds}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


if __name__ == "__main__":
    main()
