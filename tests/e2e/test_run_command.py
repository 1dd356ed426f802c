"""``autopoly run``: every shipped recipe's dry run on data drawn by the test, a paper's recipe and the quickstart for real."""

import json
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from autopoly import cli, recipes

ROOT = Path(__file__).parents[2] / "pipelines"
NAMES = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.toml"))
RING = [[10, 10], [40, 10], [40, 30], [10, 30]]


@pytest.fixture
def autopoly(monkeypatch, capsys):
    """Run a command in this process; give its exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["autopoly", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


def photo(path, height=48, width=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), 60, np.uint8)
    cv2.fillPoly(pixels, [np.array(RING, np.int32)], (200, 180, 90))
    assert cv2.imwrite(str(path), pixels)


def save(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def coco(file, pictures, category="thing"):
    photo(pictures / "a.png")
    flat = [float(one) for point in RING for one in point]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 20], "segmentation": [flat], "iscrowd": 0, "area": 600}
    image = {"id": 1, "file_name": "a.png", "height": 48, "width": 64}
    save(file, {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": category}]})


def cityscapes(top):
    photo(top / "leftImg8bit" / "val" / "ulm" / "ulm_000000_000019_leftImg8bit.png")
    labels = ("bicycle", "bus", "person", "train", "truck", "motorcycle", "car", "rider")
    objects = [{"label": label, "polygon": [[x + at * 2, y + at] for x, y in RING]} for at, label in enumerate(labels)]
    objects.append({"label": "pole", "polygon": [[45, 0], [47, 0], [47, 47], [45, 47]]})  # cuts the rider, who is on top, in two
    save(top / "gtFine" / "val" / "ulm" / "ulm_000000_000019_gtFine_polygons.json", {"imgHeight": 48, "imgWidth": 64, "objects": objects})


def kitti(top):
    photo(top / "training" / "image_2" / "000000_10.png")
    levels = np.zeros((48, 64), np.uint16)
    levels[10:30, 10:40] = 26 * 256 + 1
    (top / "training" / "instance").mkdir()
    cv2.imwrite(str(top / "training" / "instance" / "000000_10.png"), levels)


def kitti_boxes(top):
    photo(top / "training" / "image_2" / "000000.png")
    (top / "training" / "label_2").mkdir()
    row = "0.00 0 0.0 10.0 10.0 40.0 30.0 1 1 1 1 1 1 0"
    (top / "training" / "label_2" / "000000.txt").write_text("".join(f"{kind} {row}\n" for kind in ("Car", "Van", "Truck")))


def ade(top):
    folder = top / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "street"
    photo(folder / "ADE_val_00000001.jpg")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 10:40] = 255
    (folder / "ADE_val_00000001").mkdir()
    objects = []
    for at, name in enumerate(("television receiver, tv", "bus, autobus", "car, auto", "oven", "person, individual", "bicycle, bike")):
        file = f"ADE_val_00000001/instance_{at:03d}_ADE_val_00000001.png"
        cv2.imwrite(str(folder / file), mask)
        objects.append({"id": at, "name": name, "name_ndx": at + 7, "instance_mask": file, "parts": {"part_level": 0}})
    save(folder / "ADE_val_00000001.json", {"annotation": {"filename": "ADE_val_00000001.jpg", "imsize": [48, 64, 3], "object": objects}})


def rooftop(top):
    photo(top / "test" / "IMG_0001.JPG")
    cell = np.empty((1, 1), object)
    cell[0, 0] = np.array(RING, float)
    savemat(top / "test" / "IMG_0001.mat", {"gt": cell})


def parquet(top):
    photo(top / "a.png")
    (top / "boxes").mkdir()
    row = {"image": {"bytes": (top / "a.png").read_bytes(), "path": "a.png"}, "bbox": [[10.0, 10.0, 30.0, 20.0]]}
    pq.write_table(pa.Table.from_pylist([row]), top / "boxes" / "one.parquet")


def both_sets(top):
    for name in ("train", "val"):
        coco(top / name / "annotations.json", top / name / "images")


def sources_of(name, top):
    train = recipes.load(ROOT / f"{name}.toml").train
    for path in (*(path for path, _ in train.train), *train.val):
        coco(top / path / "annotations.json", top / path / "images")


def predictions(top):
    for name in ("predictions.json", "truth.json"):
        coco(top / name, top / "images")


DATA = {
    "quickstart": lambda top: None,
    "convert-coco": lambda top: coco(top / "annotations.json", top / "images"),
    "convert-kitti": kitti_boxes,
    "convert-parquet": parquet,
    "score": predictions,
    "train": both_sets,
    "finetune": both_sets,
    "train-default": partial(sources_of, "train-default"),
    "train-coco": partial(sources_of, "train-coco"),
    "paper/cityscapes": cityscapes,
    "paper/cityscapes-components": cityscapes,
    "paper/kitti": kitti,
    "paper/ade20k": ade,
    "paper/rooftop": rooftop,
    "paper/coco": lambda top: coco(top / "annotations" / "instances_val2017.json", top / "val2017"),
}


def test_there_are_recipes():
    assert len(NAMES) > 0
    assert [name for name in NAMES if name not in DATA] == [], "tell here what data a new recipe needs"


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_dry_runs_on_its_data_and_names_what_is_missing(name, autopoly, tmp_path, untrained):
    recipe = recipes.load(ROOT / f"{name}.toml")
    settings = [] if recipe.convert is None else ["--set", f"convert.checkpoint={untrained}", "--set", "convert.device=cpu"]
    settings += ["--set", f"train.init={untrained}"] if recipe.train and recipe.train.init else []
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "set").mkdir(parents=True)
    if not recipe.data.demo:
        code, _, err = autopoly("run", name, "--data", data, "--out", out, "--dry-run", *settings)
        assert code == 2 and len(err.splitlines()) == 1
        assert recipe.data.get in err
    DATA[name](data / "set")
    code, said, err = autopoly("run", name, "--data", data, "--out", out, "--dry-run", *settings)
    assert (code, err) == (0, "")
    assert f"would go to {out}" in said
    for table in ("train", "convert", "score"):
        assert (f"{table}: " in said) == (getattr(recipe, table) is not None)
    assert not out.exists()


def test_the_paper_s_row_is_printed_beside_ours(autopoly, tmp_path, untrained):
    cityscapes(tmp_path / "data")
    out = tmp_path / "out"
    arguments = ("run", "paper/cityscapes-components", "--data", tmp_path / "data", "--out", out, "--quiet", "--set", "convert.device=cpu")
    arguments += ("--set", f"convert.checkpoint={untrained}", "--set", "convert.workers=0")
    code, said, err = autopoly(*arguments)
    assert (code, err) == (0, "")
    assert "76.69" in said and "Table IV" in said and "ours, per component" in said and "IoU, rider" in said
    told = json.loads((out / "result.json").read_text())
    assert [one["table"] for one in told["expect"]] == ["I", "II", "IV"]
    scored = json.loads((out / "score.json").read_text())
    assert told["score"] == scored
    assert told["ours"]["per instance"]["miou"] == pytest.approx(100 * scored["miou"], abs=0.006)
    assert told["ours"]["per component"]["n"] > told["ours"]["per instance"]["n"] == 8
    assert json.loads((out / "run.json").read_text())["truth_boxes"] is True
    # The resolved recipe needs neither --data nor --set, and the run is finished.
    code, said, _ = autopoly("run", out / "recipe.toml", "--out", out, "--quiet")
    assert code == 0 and "nothing to do" in said


def test_score_s_own_table(autopoly, tmp_path, untrained):
    rooftop(tmp_path / "data")
    arguments = ("run", "paper/rooftop", "--data", tmp_path / "data", "--out", tmp_path / "out", "--quiet", "--set", "convert.device=cpu")
    arguments += ("--set", f"convert.checkpoint={untrained}", "--set", "convert.workers=0", "--set", "score.per=component")
    code, said, _ = autopoly(*arguments)
    assert code == 0 and "ours, per component" in said and "78.04" in said
    assert json.loads((tmp_path / "out" / "result.json").read_text())["score"]["convention"]["per"] == "component"
    predictions(tmp_path / "p")
    code, said, _ = autopoly("run", "score", "--data", tmp_path / "p", "--out", tmp_path / "scored")
    assert code == 0 and "100.00" in said
    assert json.loads((tmp_path / "scored" / "result.json").read_text())["ours"]["per instance"]["miou"] == 100


def test_the_quickstart_runs_as_shipped(autopoly, tmp_path, shipped):
    code, _, err = autopoly("run", "quickstart", "--out", tmp_path, "--quiet")
    assert (code, err) == (0, "")
    made = json.loads((tmp_path / "annotations.json").read_text())["annotations"]
    assert len(made) > 20 and all(one["segmentation"] for one in made)
    assert (tmp_path / "report.html").exists() and (tmp_path / "recipe.toml").exists()
    assert shipped.name
