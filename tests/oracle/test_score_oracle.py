"""The whole score of two COCO files against pycocotools and full-image masks, number by number."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from autopoly.jobs.score import ScoreOptions, score, score_tables
from autopoly.metrics.boundary import boundary_f

HEIGHT, WIDTH = 90, 110


def blob(random: np.random.Generator, radius: float) -> np.ndarray:
    angle = np.sort(random.uniform(0, 2 * np.pi, 12))
    centre = random.uniform(0, [WIDTH, HEIGHT])  # some are cut by the border of the image
    ring = centre + radius * random.uniform(0.6, 1, 12)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.clip(ring, 0, [WIDTH, HEIGHT]).round(2)


def write(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write truths (some of two parts, one crowd, id 0 among them), and predictions moved by a few pixels, some missing, some empty."""
    random = np.random.default_rng(seed)
    truths, predictions = [], []
    for n in range(60):
        rings = [blob(random, random.uniform(4, 30)) for _ in range(int(random.integers(1, 3)))]
        points = np.concatenate(rings)
        low, high = points.min(0), points.max(0)
        common = {
            "id": n,
            "image_id": n // 10,
            "category_id": int(random.integers(1, 4)),
            "bbox": [*low.tolist(), *(high - low).tolist()],
        }
        truths.append({**common, "segmentation": [r.ravel().tolist() for r in rings], "iscrowd": int(n % 20 == 7), "area": 1.0})
        moved = [np.clip(r + random.normal(0, 1.5, 2), 0, [WIDTH, HEIGHT]).round(2).ravel().tolist() for r in rings]
        if n % 9 and n % 20 != 7:
            drawn = [] if n % 13 == 0 else moved
            predictions.append({**common, "segmentation": drawn, "iscrowd": 0, "area": 1.0, "quality": round(float(random.random()), 4)})
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(6)]
    categories = [{"id": n, "name": f"kind {n}"} for n in range(1, 5)]
    for name, listed in (("prediction.json", predictions), ("truth.json", truths)):
        (folder / name).write_text(json.dumps({"images": images, "annotations": listed, "categories": categories}))
    return folder / "prediction.json", folder / "truth.json"


def loaded(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def pycocotools_map(prediction: COCO, truth: COCO) -> float:
    """Run COCOeval as its users do, on truths whose ids start at 1."""
    for annotation in truth.dataset["annotations"]:
        annotation["id"] += 1
    truth.createIndex()
    results = [{**a, "score": a["quality"]} for a in prediction.dataset["annotations"] if a["segmentation"]]
    evaluator = COCOeval(truth, truth.loadRes(results), "segm")
    evaluator.params.useCats, evaluator.params.maxDets = 0, [1000]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluator.evaluate()
    evaluator.accumulate()
    return float(evaluator.eval["precision"].mean())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools' own decode under numpy 2
@pytest.mark.parametrize("seed", range(3))
def test_every_number_against_full_image_masks_and_pycocotools(tmp_path: Path, seed: int) -> None:
    paths = write(tmp_path, seed)
    found = score([paths[0]], paths[1], ScoreOptions(resamples=10))
    prediction, truth = (loaded(path) for path in paths)
    values: dict[int, list[tuple[float, float, float]]] = {}
    missing = []
    for annotation in truth.dataset["annotations"]:
        if annotation["iscrowd"]:
            continue
        partner = prediction.anns.get(annotation["id"])
        row = (0.0, 0.0, 0.0)
        if partner is None or not partner["segmentation"]:
            missing.append(annotation["id"])
        else:
            a, b = prediction.annToMask(partner), truth.annToMask(annotation)
            row = (float((a & b).sum() / (a | b).sum()), *boundary_f(a, b))
        values.setdefault(annotation["category_id"], []).append(row)
    expected = np.mean([np.mean(rows, 0) for rows in values.values()], 0)
    assert (found["miou"], found["f_1px"], found["f_2px"]) == pytest.approx(expected.tolist(), abs=1e-6)
    assert [row["id"] for row in found["missing_ids"]] == missing
    assert 0.3 < found["miou"] < 0.9
    assert found["n"] == sum(map(len, values.values())) == 57
    assert found["categories_without_instances"] == ["kind 4"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert found["map"] == pytest.approx(pycocotools_map(prediction, truth), abs=1e-6)


def test_the_same_numbers_in_any_order_and_with_the_images_of_one_file_shuffled(tmp_path: Path) -> None:
    paths = write(tmp_path, 5)
    before, tables = score_tables([paths[0]], paths[1], ScoreOptions(resamples=10))
    content: dict[str, Any] = json.loads(paths[0].read_text())
    content["annotations"].reverse()
    content["images"].reverse()
    (tmp_path / "shuffled.json").write_text(json.dumps(content))
    after, others = score_tables([tmp_path / "shuffled.json"], paths[1], ScoreOptions(resamples=10))
    assert [row[4:7] for row in tables[0].rows] == [row[4:7] for row in others[0].rows]
    assert {**after, "prediction": ""} == {**before, "prediction": ""}


def test_truth_scores_one_against_itself_from_files(tmp_path: Path) -> None:
    _, truth = write(tmp_path, 6)
    for per in ("instance", "component"):
        for match in ("id", "iou"):
            found = score([truth], truth, ScoreOptions(match=match, per=per, resamples=10))
            assert (found["miou"], found["map_constant"], found["pass_rate"], found["f_1px"], found["f_2px"]) == (1,) * 5, (match, per)
