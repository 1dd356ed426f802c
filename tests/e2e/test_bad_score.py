"""Prediction files of other tools: garbage is one line, what is wrong with single instances is counted, claims cost no memory."""

import json
import math
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoly.errors import AutopolyError
from autopoly.jobs.score import ScoreOptions, score

RING = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


def document(count=3, size=64):
    images = [{"id": 1, "file_name": "a.png", "height": size, "width": size}]
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": [RING], "score": 0.9, "iscrowd": 0}
        for n in range(count)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}


def run(folder, prediction, truth=None, **options):
    for name, whole in (("prediction.json", prediction), ("truth.json", document() if truth is None else truth)):
        (folder / name).write_bytes(whole if isinstance(whole, bytes) else json.dumps(whole).encode())
    result = score([folder / "prediction.json"], folder / "truth.json", ScoreOptions(**{"resamples": 10} | options))
    json.dumps(result, allow_nan=False)
    return result


def changed(at=0, **fields):
    whole = document()
    whole["annotations"][at] |= fields
    return whole


# What is changed of one of three predictions; how many truths then miss theirs, and why.
PREDICTIONS = {
    "sound": (changed(), {}),
    "segmentation text": (changed(segmentation="polygon"), {"no_mask": 1}),
    "segmentation empty": (changed(segmentation=[]), {"no_mask": 1}),
    "segmentation null": (changed(segmentation=None), {"no_mask": 1}),
    "segmentation of infinity": (changed(segmentation=[[1e999] * 6]), {"no_mask": 1}),
    "rle of another size": (changed(segmentation={"size": [10, 10], "counts": [100]}), {"no_mask": 1}),
    "rle absurd": (changed(segmentation={"size": [10**6, 10**6], "counts": [10**12]}), {"no_mask": 1}),
    "outline too long": (changed(segmentation=[[0, 0, 9e8, 9e8] * 10_000]), {"no_mask": 1}),
    "far away": (changed(segmentation=[[x + 1e8 for x in RING]]), {}),
    "without an area": (changed(segmentation=[[5.0, 5.0] * 4]), {}),
    "id repeated": (changed(id=2), {"no_annotation": 1}),
    "id a text": (changed(id="1"), {}),
    "id a list": (changed(id=[1]), {"no_annotation": 1}),
    "id absent": (
        {**document(), "annotations": [{k: v for k, v in document()["annotations"][0].items() if k != "id"}]},
        {"no_annotation": 3},
    ),
    "image id a text": (changed(image_id="1"), {}),
    "image not in the truth": (changed(image_id=9), {"no_annotation": 1}),
    "category a list": (changed(category_id=[1]), {}),
    "score a text": (changed(score="high"), {}),
    "score infinite": (changed(score=1e999), {}),
    "score of 10^300": (changed(score=1e300), {}),
    "quality a list": (changed(quality=[1]), {}),
    "quality beyond 1": (changed(quality=55.0), {}),
    "quality negative": (changed(quality=-1e9), {}),
    "box null": (changed(bbox=None), {}),
    "crowd": (changed(iscrowd=1), {"no_annotation": 1}),
    "mask source a list": (changed(mask_source=["kept"]), {}),
    "no annotations": ({**document(), "annotations": []}, {"no_annotation": 3}),
    "no images": ({**document(), "images": []}, {}),
    "other size": (document(size=32), {"image_size_differs": 3}),
    "sizes absurd": (document(size=10**9), {}),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_a_bad_prediction_is_counted(case, tmp_path):
    whole, missing = PREDICTIONS[case]
    result = run(tmp_path, whole)
    assert result["n"] == 3
    assert result["missing_reasons"] == missing
    assert result["missing"] == sum(missing.values())
    assert 0 <= result["miou"] <= 1
    assert result["miou_instances"] <= 1 - result["missing"] / 3 + 1e-6


FILES = {
    "empty": (b"", "not valid JSON"),
    "garbage": (b"\x00\xff" * 99, "not valid JSON"),
    "results alone": (b'[{"image_id": 1, "category_id": 1, "segmentation": [], "score": 0.5}]', "a bare list"),
    "another format": (b'{"shapes": [], "imagePath": "a.png"}', "no 'images'"),
    "nested": (b"[" * 100_000, "not"),
    "not utf-8": (json.dumps(document()).encode().replace(b"cup", b"\xff\xff\xff"), "not UTF-8"),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("side", ["prediction", "truth"])
def test_a_bad_file_is_one_line(case, side, tmp_path):
    data, words = FILES[case]
    with pytest.raises(AutopolyError) as caught:
        run(tmp_path, **({"prediction": data} if side == "prediction" else {"prediction": document(), "truth": data}))
    assert words in str(caught.value)
    assert f"{side}.json" in str(caught.value)
    assert "\n" not in str(caught.value)


TRUTHS = {
    "masks nowhere": {"segmentation": []},
    "masks unreadable": {"segmentation": "polygon"},
    "all crowd": {"iscrowd": 1},
    "made by autopoly": {"mask_source": "predicted"},
    "in no image": {"image_id": 99},
}


@pytest.mark.parametrize("case", TRUTHS)
def test_a_truth_without_any_is_one_line(case, tmp_path):
    truth = document()
    truth["annotations"] = [one | TRUTHS[case] for one in truth["annotations"]]
    with pytest.raises(AutopolyError, match="no instance has a mask"):
        run(tmp_path, document(), truth)


def test_masks_of_a_claimed_gigapixel_cost_no_memory(tmp_path):
    size, far = 60_000, 59_000.0
    whole = document(2, size)
    whole["annotations"][0]["segmentation"] = [[0.0, 0.0, far, 0.0, far, far, 0.0, far]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run(tmp_path, whole, whole)
    assert result["missing_reasons"] == {"too_large_to_compare": 1}
    assert math.isclose(result["miou_instances"], 0.5)
    assert run(tmp_path, whole, whole, per="component")["n"] == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # kB


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mutated_prediction_is_scored_or_refused(data, tmp_path_factory):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / "property"))
    import bad_input

    made = data.draw(bad_input.mutated_trees(document()))
    try:
        assert run(tmp_path_factory.mktemp("score"), made)["n"] == 3
    except AutopolyError as error:
        bad_input.line(error)


CASES = {"prediction": PREDICTIONS, "file": FILES, "file as truth": FILES, "truth": TRUTHS}
