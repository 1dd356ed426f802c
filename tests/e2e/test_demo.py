"""The demo: its boxes lie on its photos, its results are those of a real conversion, its sheet shows them."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from skimage import data, filters

from autopoly import formats
from autopoly.errors import RunError
from autopoly.jobs import demo_pictures
from autopoly.jobs.demo import demo
from autopoly.report import sheet
from autopoly.types import Polygon


@pytest.fixture(scope="module")
def made(tmp_path_factory, untrained):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo(folder, str(untrained), "cpu")


def coins():
    """Give the boxes around coins, and which pixels are bright against their surroundings."""
    (picture,) = (one for one in demo_pictures.PICTURES if one.name == "coins")
    image = data.coins()
    return [box[1:] for box in picture.boxes], image > filters.threshold_local(image, 101, offset=-8)


def test_every_box_lies_inside_its_photo():
    for picture in demo_pictures.PICTURES:
        height, width = demo_pictures.read(picture.name).shape[:2]
        for name, x1, y1, x2, y2 in picture.boxes:
            assert 0 <= x1 < x2 <= width, (picture.name, name)
            assert 0 <= y1 < y2 <= height, (picture.name, name)


def test_the_boxes_of_coins_are_tight():
    boxes, bright = coins()
    for x1, y1, x2, y2 in boxes:
        assert bright[y1:y2, x1:x2].mean() > 0.55
        around = bright[y1 - 3 : y2 + 3, x1 - 3 : x2 + 3].copy()
        around[3:-3, 3:-3] = False
        assert around.mean() < 0.05


def test_a_demo_leaves_its_dataset_its_result_and_a_sheet(made):
    folder, result = made
    boxes = sum(len(picture.boxes) for picture in demo_pictures.PICTURES)
    dataset = formats.FORMATS["coco"].read(folder / "source", images=None, bbox_format=None)
    assert dataset.counts.sum() == len(result.rows) == boxes
    made_json = json.loads((folder / "result" / "annotations.json").read_text())
    assert [one["bbox"] for one in made_json["annotations"]] == [
        [x1, y1, x2 - x1, y2 - y1] for picture in demo_pictures.PICTURES for _, x1, y1, x2, y2 in picture.boxes
    ]
    assert json.loads((folder / "result" / "run.json").read_text())["counts"]["boxes"] == boxes
    assert all(path.exists() for path in result.places.values())
    assert result.seconds < 60


def test_the_demo_can_be_made_again_in_the_same_folder(made, untrained):
    folder, first = made
    before = (folder / "result" / "annotations.json").read_bytes(), (folder / "sheet.png").read_bytes()
    again = demo(folder, str(untrained), "cpu")
    assert again.rows == first.rows
    assert before == ((folder / "result" / "annotations.json").read_bytes(), (folder / "sheet.png").read_bytes())


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path, untrained):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "annotations.json").write_text('{"images": []}')
    with pytest.raises(RunError, match="the demo did not make"):
        demo(tmp_path, str(untrained), "cpu")
    assert (tmp_path / "source" / "annotations.json").read_text() == '{"images": []}'
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_sheet_shows_a_polygon_where_it_lies_and_leaves_its_hole_open(tmp_path):
    image = np.full((100, 100, 3), 255, np.uint8)
    square = np.array([[20.0, 20], [80, 20], [80, 80], [20, 80]])
    hole = np.array([[40.0, 40], [40, 60], [60, 60], [60, 40]])
    one = sheet.Drawn("", np.array([20.0, 20, 80, 80]), (Polygon(square, (hole,)),), None)
    sheet.draw([sheet.Panel(image, "", ()), sheet.Panel(image, "", (one,)), sheet.Panel(image, "", ())], tmp_path / "sheet.png")
    drawn = cv2.imread(str(tmp_path / "sheet.png")).astype(int)
    coloured = (drawn.max(axis=2) - drawn.min(axis=2)) > 30
    rows, columns = np.nonzero(coloured)
    width = drawn.shape[1]
    assert columns.min() > width / 3
    assert columns.max() < 2 * width / 3
    y, x = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    side = columns.max() - columns.min()
    assert not coloured[y - side // 8 : y + side // 8, x - side // 8 : x + side // 8].any()
    assert coloured[y - side * 3 // 8, x]


def test_an_empty_sheet_is_a_picture_too(tmp_path):
    sheet.draw([], tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_the_shipped_network_outlines_the_coins(tmp_path, shipped):
    result = demo(tmp_path, None, "cpu")
    assert result.exit_code == 0
    boxes, bright = coins()
    made_json = json.loads((tmp_path / "result" / "annotations.json").read_text())
    found = {tuple(one["bbox"]): one for one in made_json["annotations"]}
    for x1, y1, x2, y2 in boxes:
        one = found[x1, y1, x2 - x1, y2 - y1]
        size = bright.shape
        mask = rle.decode(rle.merge(rle.frPyObjects(one["segmentation"], *size))).astype(bool)
        ellipse = _ellipse(size, x1, y1, x2, y2)
        assert (mask & ellipse).sum() / (mask | ellipse).sum() > 0.8


def _ellipse(size, x1, y1, x2, y2):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.25
