"""Measure a checkpoint on annotated datasets: convert each from its boxes, score it against its masks, print a table for the model card.

    python benchmarks/checkpoint.py FOLDER_OF_DATASETS [--checkpoint C] [--only NAME]... [--jitter 0.05] [--json FILE]

Every dataset is a folder in COCO form. The population are instances whose box has a shorter side of at least 32 px,
the mean over all instances stands beside it; masks at full image resolution; boxes as given, or each side moved by a normal error of JITTER
box sides. The instances of coco-complete and coco-people are pooled where both are there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ways import PER_INSTANCE, datasets, measure, percent

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
    results = {}
    print("| set | n | instance mIoU | all instances | mIoU (categories) | F1 | F2 | mAP | quality rank | boxes/s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in datasets(args.folder, args.only):
        result = results[name] = measure(args.folder / name, PER_INSTANCE, args.checkpoint, args.jitter)
        rank = result["quality_spearman"]
        print(
            f"| {name} | {result['n']} | {percent(result['miou_instances'], result['ci95']['miou_instances'])} "
            f"| {percent(result['all']['miou_instances'])} | {percent(result['miou'])} | {percent(result['f_1px'])} "
            f"| {percent(result['f_2px'])} | {percent(result['map'])} | {'' if rank is None else f'{rank:.2f}'} "
            f"| {result['boxes_per_second']:.0f} |",
            flush=True,
        )
    pooled = [results[name] for name in POOL if name in results]
    if len(pooled) == len(POOL):
        count = sum(result["n"] for result in pooled)
        print(f"\n{' + '.join(POOL)}: instance mIoU {percent(sum(r['miou_instances'] * r['n'] for r in pooled) / count)} (n = {count})")
    if results:
        print(f"F2, mean over the sets: {percent(float(np.mean([result['f_2px'] for result in results.values()])))}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
