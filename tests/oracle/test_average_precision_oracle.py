"""AP and IoU against unmodified pycocotools on random masks, with crowd, ties, id 0, more than 100 per image and ignored sizes."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from autopoly.metrics.average_precision import THRESHOLDS, Overlaps, pairwise_iou, passed, ranking
from autopoly.metrics.iou import iou
from autopoly.metrics.ranking import Ranking
from autopoly.metrics.summary import ranking_intervals
from autopoly.types import Rle

SIZE = (60, 80)


def random_mask(random: np.random.Generator) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    y, x, h, w = random.integers(0, 40), random.integers(0, 60), random.integers(3, 30), random.integers(3, 30)
    mask[y : y + h, x : x + w] = 1
    mask[y + h // 3 : y + h // 2, x + w // 3 : x + w // 2] = 0  # a hole
    return mask


def shifted(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.roll(mask, tuple(random.integers(-3, 4, 2)), (0, 1))


def encode(mask: np.ndarray) -> Rle:
    return Rle(SIZE, coco_mask.encode(np.asfortranarray(mask))["counts"])


def scene(seed: int, images: int, per_image: int, crowd_share: float = 0.1) -> list[dict[str, Any]]:
    """Make truths, predictions near most of them, some missing, some extra; scores with ties."""
    random = np.random.default_rng(seed)
    result = []
    for _ in range(images):
        truths = [random_mask(random) for _ in range(int(random.integers(0, per_image + 1)))]
        crowd = random.random(len(truths)) < crowd_share
        predictions, own = [], []
        for n, mask in enumerate(truths):
            if not crowd[n] and random.random() < 0.85:
                predictions.append(shifted(mask, random))
                own.append(n)
        for _ in range(int(random.integers(0, 3))):
            predictions.append(random_mask(random))
            own.append(-1)
        result.append(
            {
                "truths": truths,
                "crowd": crowd,
                "predictions": predictions,
                "own": np.array(own, np.int64),
                "scores": random.integers(0, 6, len(predictions)) / 5,
            }
        )
    return result


def ours(scenes: list[dict[str, Any]], constant: bool = False, min_side: float = 0.0) -> float:
    return ranked(scenes, constant, min_side).precision()


def ranked(scenes: list[dict[str, Any]], constant: bool = False, min_side: float = 0.0) -> Ranking:
    images, scores = [], []
    for scene_ in scenes:
        predictions, truths = [encode(m) for m in scene_["predictions"]], [encode(m) for m in scene_["truths"]]
        pairs, ious = pairwise_iou(predictions, truths, scene_["crowd"])
        # COCO's area stands in for the box side, so that its areaRng is the oracle of min_side.
        images.append(
            Overlaps(
                pairs,
                ious,
                np.array([float(m.sum()) for m in scene_["predictions"]]),
                np.array([float(m.sum()) for m in scene_["truths"]]),
                scene_["crowd"],
                scene_["own"],
            )
        )
        scores.append(np.ones(len(predictions)) if constant else scene_["scores"])
    return ranking(images, np.concatenate(scores), min_side)


def pycocotools_ap(scenes: list[dict[str, Any]], constant: bool = False, min_side: float = 0.0, first_id: int = 1) -> float:
    truth: dict[str, Any] = {"info": {}, "images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    results = []
    for image_id, scene_ in enumerate(scenes):
        truth["images"].append({"id": image_id, "height": SIZE[0], "width": SIZE[1]})
        for mask, crowd in zip(scene_["truths"], scene_["crowd"], strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + first_id,
                    "image_id": image_id,
                    "category_id": 1,
                    "segmentation": coco_mask.encode(np.asfortranarray(mask)),
                    "iscrowd": int(crowd),
                    "area": float(mask.sum()),
                    "bbox": [0, 0, 1, 1],
                }
            )
        for mask, score in zip(scene_["predictions"], scene_["scores"], strict=True):
            segmentation = coco_mask.encode(np.asfortranarray(mask))
            results.append(
                {"image_id": image_id, "category_id": 1, "segmentation": segmentation, "score": 1.0 if constant else float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "segm")
        evaluator.params.useCats = 0
        evaluator.params.maxDets = [10_000]
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[min_side, 1e10]], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("constant", [False, True])
def test_ap_is_that_of_pycocotools(seed: int, constant: bool) -> None:
    scenes = scene(seed, images=8, per_image=12)
    expected = pycocotools_ap(scenes, constant)
    assert 0.05 < expected < 0.95
    assert ours(scenes, constant) == expected


@pytest.mark.parametrize("min_side", [60.0, 300.0])
def test_ap_of_a_population_is_that_of_an_area_range(min_side: float) -> None:
    scenes = scene(11, images=8, per_image=12)
    expected = pycocotools_ap(scenes, min_side=min_side)
    assert expected != pycocotools_ap(scenes)
    assert ours(scenes, min_side=min_side) == expected


@pytest.mark.parametrize("constant", [False, True])
def test_crowded_images_matched_by_groups_give_the_whole(constant: bool) -> None:
    scenes = scene(5, images=3, per_image=400)
    assert any(len(s["predictions"]) > 100 for s in scenes)
    assert ours(scenes, constant) == pycocotools_ap(scenes, constant)
    assert ours(scenes, constant, 100.0) == pycocotools_ap(scenes, constant, 100.0)


@pytest.mark.parametrize("min_side", [0.0, 100.0])
def test_ap_of_a_resample_is_that_of_pycocotools_on_repeated_images(min_side: float) -> None:
    scenes = scene(7, images=8, per_image=12)
    random = np.random.default_rng(1)
    for one in scenes:  # no ties: copies of an image would rank one after the other there, and copies of a prediction here
        one["scores"] = random.random(len(one["predictions"]))
    whole, values = ranked(scenes, min_side=min_side), []
    for _ in range(8):
        drawn = np.sort(random.integers(0, len(scenes), len(scenes)))
        expected = pycocotools_ap([scenes[n] for n in drawn], min_side=min_side)
        assert whole.precision(np.bincount(drawn, minlength=len(scenes)).astype(float)) == expected
        values.append(expected)
    assert len(set(values)) > 4
    low, high = ranking_intervals({"map": whole}, resamples=200)["map"]
    assert min(values) - 0.1 < low < whole.precision() < high < max(values) + 0.1


def test_truth_id_zero_costs_nothing_here() -> None:
    mask = [random_mask(np.random.default_rng(0))]
    scenes = [{"truths": mask, "predictions": mask, "crowd": np.zeros(1, bool), "own": np.zeros(1, np.int64), "scores": np.ones(1)}]
    assert pycocotools_ap(scenes, first_id=0) == 0.0  # the trap, if this changes upstream the renumbering can go
    assert ours(scenes) == pytest.approx(1.0)


def test_iou_is_that_of_pycocotools() -> None:
    random = np.random.default_rng(3)
    masks = [random_mask(random) for _ in range(30)]
    others = [shifted(mask, random) for mask in masks]
    left, right = [encode(m) for m in masks], [encode(m) for m in others]
    expected = coco_mask.iou(
        [{"size": r.size, "counts": r.counts} for r in left], [{"size": r.size, "counts": r.counts} for r in right], [0] * 30
    )
    assert np.array([[iou(a, b) for b in others] for a in masks]) == pytest.approx(expected, abs=0)
    pairs, values = pairwise_iou(left, right, np.zeros(30, bool), at_least=0.3)
    assert {tuple(p) for p in pairs.tolist()} == {tuple(p) for p in np.argwhere(expected >= 0.3).tolist()}
    assert np.array_equal(values, expected[tuple(pairs.T)])


def test_share_of_thresholds_passed_counts_bounds_in() -> None:
    ious = np.concatenate([THRESHOLDS, THRESHOLDS - 1e-9, [0.0, 1.0]])
    assert np.array_equal(passed(ious), (ious[:, None] >= THRESHOLDS).mean(1))
