"""Measure what a user's corrections are worth: mean IoU of the outline after 0, 1, 2, 3 and 5 of them.

    python benchmarks/clicks.py DATASET [--checkpoint C] [--limit N] [--min-side 32] [--json FILE]

DATASET has masks, in any format. A click puts right the vertex where the contour is farthest from the outline as an annotator sees it: the
vertex goes to the point of the true outline it is matched with. After each click the network predicts all other vertices again
(``Annotator.refine``, all corrected ones fixed). Beside it stands what the same clicks give without the network: the corrected vertices
moved, the others where they were. Population: instances whose box has a shorter side of MIN_SIDE px and more; the outline as
K vertices, not clipped, against the mask at full image resolution.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from ways import MIN_SIDE

from autopoly import predict
from autopoly.errors import DataError
from autopoly.geometry import contours, matching, raster
from autopoly.geometry.boxes import problem_of
from autopoly.images import ImageProblem, read_rgb
from autopoly.jobs.score import open_annotations
from autopoly.metrics.iou import iou
from autopoly.training.cache import unusable
from autopoly.types import Dataset, FloatArray, Instance, Polygon, Rle

CLICKS = (0, 1, 2, 3, 5)
RING = 512
"""Points of the true outline that vertices are matched with."""


def main() -> None:
    """Measure and print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--limit", type=int, help="only the first N instances")
    parser.add_argument("--min-side", type=float, default=MIN_SIDE)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    annotator = predict.load(args.checkpoint)
    rows = []
    for image, instance, truth in instances(open_annotations(args.dataset), args.min_side):
        rows.append(corrected(annotator, image, instance.box, truth, instance_mask(instance, image.shape[:2])))
        if args.limit is not None and len(rows) >= args.limit:
            break
    if not rows:
        raise SystemExit(f"{args.dataset}: no instance with a mask and a side of {args.min_side:g} px")
    told = np.array(rows).mean(axis=0)  # (clicks, with the network or without)
    print(f"{args.dataset}: {len(rows):,} instances with a side of {args.min_side:g} px and more; mean IoU of the outline, percent\n")
    print("| clicks | predicted again | gain | vertices moved alone | gain |\n|---|---|---|---|---|")
    for clicks, (again, alone) in zip(CLICKS, 100 * told, strict=True):
        print(f"| {clicks} | {again:.1f} | {again - 100 * told[0, 0]:+.1f} | {alone:.1f} | {alone - 100 * told[0, 1]:+.1f} |")
    rising, two = bool((np.diff(told[:, 0]) > 0).all()), 100 * (told[2, 0] - told[0, 0])
    print(f"\nrising with every click: {'yes' if rising else 'no'}; after two: {two:+.1f} (target +5)")
    if args.json:
        args.json.write_text(
            json.dumps({"clicks": CLICKS, "n": len(rows), "again": told[:, 0].tolist(), "alone": told[:, 1].tolist()}) + "\n"
        )


def instances(dataset: Dataset, smallest: float) -> Iterator[tuple[NDArray[np.uint8], Instance, FloatArray]]:
    """Give each instance that can be measured with its image (H, W, 3) and its true outline as one ring (RING, 2), image px."""
    for number in np.flatnonzero(np.asarray(dataset.counts) > 0):
        record = dataset.record(int(number))
        wanted = [
            one for one in record.instances if unusable(one) is None and min(one.box[2] - one.box[0], one.box[3] - one.box[1]) >= smallest
        ]
        if not wanted:
            continue
        try:
            image = read_rgb(record, dataset.image_root)
        except ImageProblem as problem:
            print(f"left out: {problem}")
            continue
        for one in wanted:
            mask = one.mask
            polygons = contours.trace_mask(raster.decode(mask)) if isinstance(mask, Rle) else mask
            try:
                if problem_of(one.box, image.shape[:2]) is None:
                    yield image, one, contours.clockwise(contours.resample(contours.single_ring(polygons or ()), RING))
            except DataError as error:
                print(f"left out: annotation {one.instance_id}: {error}")


def instance_mask(instance: Instance, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Give the true mask (H, W), with all its parts and holes."""
    assert instance.mask is not None
    return raster.decode(raster.of_mask(instance.mask, size))


def corrected(
    annotator: predict.Annotator, image: NDArray[np.uint8], box: FloatArray, truth: FloatArray, mask: NDArray[np.bool_]
) -> list[tuple[float, float]]:
    """Give the IoU after each number of CLICKS, with the network's new prediction and with the vertices moved alone."""
    count = annotator.network.config.vertices
    held, moved = np.zeros(count, bool), np.zeros(count, bool)
    again = annotator.refine(image, box, contours.box_contour(box, count), held)
    alone, places = again.copy(), matching.match(truth, box, count)
    told = []
    for clicks in range(CLICKS[-1] + 1):
        if clicks:
            held[farthest(again, places, held)] = True
            again[held] = places[held]
            again = annotator.refine(image, box, again, held)
            moved[farthest(alone, places, moved)] = True
            alone[moved] = places[moved]
        if clicks in CLICKS:
            told.append((overlap(again, mask), overlap(alone, mask)))
    return told


def farthest(contour: FloatArray, places: FloatArray, held: NDArray[np.bool_]) -> int:
    """Choose the free vertex (K,) to put right: that which is farthest from the true outline, or whose place is farthest from the contour.

    A vertex that lies elsewhere *on* the outline is no error that anybody sees.
    """
    outline, drawn = shapely.LinearRing(places), shapely.LinearRing(contour)
    seen = np.maximum(shapely.distance(outline, shapely.points(contour)), shapely.distance(drawn, shapely.points(places)))
    return int(np.where(held, -1.0, seen).argmax())


def overlap(contour: FloatArray, mask: NDArray[np.bool_]) -> float:
    """Give the IoU of a contour (K, 2) with a mask (H, W), over the image."""
    filled = raster.fill((Polygon(contour),), (mask.shape[0], mask.shape[1]))
    return iou(filled.view(np.uint8), np.ascontiguousarray(mask).view(np.uint8))


if __name__ == "__main__":
    main()
