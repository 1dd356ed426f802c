import json

import cv2
import numpy as np
import pytest

from autopoly.errors import DataError
from autopoly.formats import coco, kitti

CAR = "Car 0.35 1 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56"
IGNORED = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture
def folder(tmp_path):
    for name in ("label_2", "image_2"):
        (tmp_path / name).mkdir()
    for stem in ("000001", "000007", "000009"):
        cv2.imwrite(str(tmp_path / "image_2" / f"{stem}.png"), np.zeros((375, 1242, 3), np.uint8))
    (tmp_path / "label_2" / "000001.txt").write_text(f"{CAR}\n\n{IGNORED}\nRickshaw{CAR[3:]} 0.87\n")
    (tmp_path / "label_2" / "000002.txt").write_text(f"{CAR}\r\nCar 0 0 0 1 2 x 4\nCar 1\n")
    (tmp_path / "label_2" / "000007.txt").write_text("")
    return tmp_path


def records(data):
    return [data.record(index) for index in range(len(data.counts))]


def test_rows_are_boxes_and_nothing_is_lost(folder):
    data = kitti.read(folder)
    assert data.counts.tolist() == [3, 3, 0, 0]
    first, second, third, fourth = records(data)
    car, ignored, odd = first.instances
    assert first.size == (375, 1242) and first.file_name == "000001.png"
    assert car.box.tolist() == [599.41, 156.40, 629.75, 189.25] and car.extra["bbox"] == [599.41, 156.4, 30.34, 32.85]
    assert car.extra["kitti"] == CAR and car.score is None
    assert ignored.crowd and ignored.extra["ignore"] == 1 and ignored.extra["kitti"] == IGNORED and ignored.problem is None
    assert odd.score == 0.87 and odd.category_id == 10
    assert [one.name for one in data.header.categories] == [*kitti.KINDS, "Rickshaw"]
    assert [one.problem and one.problem.code for one in second.instances] == [None, "row_malformed", "row_malformed"]
    assert second.size is None and "line 2" in second.instances[1].problem.message
    assert third.instances == () and fourth.file_name == "000009.png"
    assert "1 pictures have no label file" in data.header.notes[0]


def test_to_coco(folder, tmp_path):
    data = kitti.read(folder)
    coco.write(data.header, iter(records(data)), tmp_path / "out.json")
    whole = json.loads((tmp_path / "out.json").read_text())
    assert [one["id"] for one in whole["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert whole["annotations"][1] | {"iscrowd": 1, "ignore": 1, "kitti": IGNORED} == whole["annotations"][1]
    assert whole["annotations"][5]["kitti"] == "Car 1" and whole["annotations"][5]["bbox"] is None
    assert [(one["file_name"], one.get("width")) for one in whole["images"]] == [
        ("000001.png", 1242), ("000002.png", None), ("000007.png", 1242), ("000009.png", 1242)
    ]  # fmt: skip


def test_what_kitti_cannot_do_is_one_line(folder):
    with pytest.raises(DataError, match="leave the option out"):
        kitti.read(folder, bbox_format="xywh")
    with pytest.raises(DataError, match="no label_2"):
        kitti.read(folder / "image_2")
    for file in (folder / "label_2").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no \.txt files"):
        kitti.read(folder)
