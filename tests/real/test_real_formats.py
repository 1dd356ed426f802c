"""Readers and writers on the real sources beside the repository; skipped where they are not there."""

import json
import os
from pathlib import Path

import pytest

from autopoly import formats, images

SHARED = Path(os.environ.get("AUTOPOLY_SHARED", Path(__file__).parents[3] / "shared")) / "data"
pytestmark = [pytest.mark.real, pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real photos: AUTOPOLY_SHARED or ../shared")]


def stream(data):
    return (data.record(index) for index in range(len(data.counts)))


@pytest.mark.parametrize("name", ["eval/coco-complete", "eval/street-cityscapes", "eval/aerial-buildings"])
def test_coco_comes_back_through_itself_and_through_parquet(name, tmp_path):
    source = SHARED / name
    assert formats.detect(source) == "coco"
    data = formats.FORMATS["coco"].read(source)
    whole = json.loads((source / "annotations.json").read_text())
    formats.FORMATS["coco"].write(data.header, stream(data), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == whole
    formats.FORMATS["parquet"].write(data.header, stream(data), tmp_path / "a.parquet")
    again = formats.FORMATS["parquet"].read(tmp_path / "a.parquet")
    formats.FORMATS["coco"].write(again.header, stream(again), tmp_path / "b.json")
    back = json.loads((tmp_path / "b.json").read_text())
    for one in (whole, back):
        one["annotations"].sort(key=lambda annotation: annotation["id"])
    assert back == whole


def test_genuine_kitti_frames():
    source = SHARED / "kitti-native"
    assert formats.detect(source) == "kitti"
    data = formats.FORMATS["kitti"].read(source)
    for record in stream(data):
        assert images.read_rgb(record, data.image_root).shape == (*record.size, 3) == (375, 1242, 3)
        assert all(one.problem is None for one in record.instances)
    rows = sum(len(path.read_text().splitlines()) for path in (source / "label_2").glob("*.txt"))
    assert data.counts.sum() == rows > 0
