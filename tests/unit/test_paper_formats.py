"""The paper's datasets in the form their owners give out, drawn small: what is read, what is said of what cannot be."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from autopoly import formats, images
from autopoly.errors import DataError
from autopoly.formats import ade20k, cityscapes, kitti_instances, rooftop
from autopoly.geometry import raster

NEW = ["cityscapes", "kitti_instances", "ade20k", "rooftop"]


def photo(path, width, height):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8))


def labels(path, levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), levels)


def rectangle(x1, y1, x2, y2):
    """Give the vertices of the pixels x1..x2, y1..y2, both included, as Cityscapes writes them."""
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def draw_cityscapes(top, city="frankfurt"):
    stem = f"{city}_000000_000294"
    photo(top / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png", 80, 40)
    objects = [
        {"label": "road", "polygon": rectangle(0, 0, 79, 39)},
        {"label": "car", "polygon": rectangle(10, 10, 29, 29)},
        {"label": "license plate", "polygon": rectangle(11, 11, 12, 12)},
        {"label": "bicycle", "polygon": rectangle(50, 5, 52, 8)},
        {"label": "pole", "polygon": rectangle(18, 0, 21, 39)},
        {"label": "sky", "polygon": rectangle(48, 0, 60, 12)},
        {"label": "cargroup", "polygon": rectangle(60, 20, 69, 29)},
        {"label": "person", "polygon": rectangle(70, 0, 75, 9), "deleted": 1},
    ]
    file = top / "gtFine" / "val" / city / f"{stem}_gtFine_polygons.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"imgHeight": 40, "imgWidth": 80, "objects": objects}))
    return file


def draw_kitti(top):
    levels = np.zeros((30, 60), np.uint16)
    levels[5:15, 5:25] = 26 * 256 + 1
    levels[10:20, 20:40] = 26 * 256 + 2
    levels[0:4, 0:9] = 26 * 256
    levels[20:30, 40:60] = 7 * 256
    levels[22:28, 50:54] = 24 * 256 + 1
    photo(top / "image_2" / "000000_10.png", 60, 30)
    labels(top / "instance" / "000000_10.png", levels)
    return levels


def draw_ade(top):
    folder = top / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "urban" / "street"
    stem = "ADE_val_00000007"
    photo(folder / f"{stem}.jpg", 50, 40)
    car = np.zeros((40, 50), np.uint8)
    car[10:20, 10:30] = 255
    car[10:20, 18:22] = 128
    wheel = np.zeros((40, 50), np.uint8)
    wheel[16:20, 11:14] = 255
    words = [
        ("car, auto, automobile, machine, motorcar", 401, car, 0),
        ("wheel", 2978, wheel, 1),
        ("café, coffeehouse", 90, np.zeros_like(car), 0),
    ]
    objects = []
    for number, (name, index, mask, level) in enumerate(words):
        file = f"{stem}/instance_{number:03d}_{stem}.png"
        labels(folder / file, mask)
        objects.append({"id": number, "name": name, "name_ndx": index, "instance_mask": file, "parts": {"part_level": level}})
    objects.append({"id": 3, "name": "oven", "name_ndx": 1800, "instance_mask": f"{stem}/instance_003_{stem}.png", "parts": {}})
    labels(folder / f"{stem}_seg.png", np.dstack([car] * 3))
    document = {"annotation": {"filename": f"{stem}.jpg", "imsize": [40, 50, 3], "object": objects}}
    (folder / f"{stem}.json").write_bytes(json.dumps(document, ensure_ascii=False).encode("latin-1"))
    return folder


def draw_rooftop(folder, stem="IMG_0001"):
    photo(folder / f"{stem}.JPG", 100, 75)
    cell = np.empty((1, 2), object)
    cell[0, 0] = np.array([[10.2, 10.4], [40.2, 10.4], [40.2, 30.4], [10.2, 30.4], [10.2, 10.4]])
    cell[0, 1] = np.array([[60.0, 20.0], [80.0, 50.0], [60.0, 50.0]])
    savemat(folder / f"{stem}.mat", {"gt": cell})


@pytest.fixture
def drawn(tmp_path):
    """Draw all four; give the folder to read of each."""
    draw_cityscapes(tmp_path / "c")
    draw_kitti(tmp_path / "k")
    draw_ade(tmp_path / "a")
    draw_rooftop(tmp_path / "r" / "test")
    return {
        "cityscapes": tmp_path / "c" / "gtFine" / "val",
        "kitti_instances": tmp_path / "k",
        "ade20k": tmp_path / "a",
        "rooftop": tmp_path / "r" / "test",
    }


def area(instance, size):
    return raster.area(raster.of_mask(instance.mask, size))


@pytest.mark.parametrize("name", NEW)
def test_it_is_detected_and_survives_as_coco(name, drawn, tmp_path):
    assert formats.detect(drawn[name]) == name
    source = formats.FORMATS[name].read(drawn[name])
    record = source.record(0)
    assert images.read_rgb(record, source.image_root).shape[:2] == record.size
    records = [source.record(at) for at in range(len(source.counts))]
    assert [one.ordinal for record in records for one in record.instances] == list(range(int(source.counts.sum())))
    formats.FORMATS["coco"].write(source.header, iter(records), tmp_path / "out.json")
    back = formats.FORMATS["coco"].read(tmp_path / "out.json")
    assert [category.name for category in back.header.categories] == [category.name for category in source.header.categories]
    for one, two in zip(record.instances, back.record(0).instances, strict=True):
        assert (one.instance_id, one.category_id, one.crowd) == (two.instance_id, two.category_id, two.crowd)
        assert (one.mask is None) == (two.mask is None)
        assert dict(two.extra) == json.loads(json.dumps(dict(one.extra)))
        if one.mask is not None:
            assert two.box == pytest.approx(one.box)
            assert area(two, record.size) == area(one, record.size) > 0
    with pytest.raises(IndexError):
        source.record(len(source.counts))


@pytest.mark.parametrize("name", NEW)
def test_it_has_no_box_convention(name, drawn, tmp_path):
    with pytest.raises(DataError, match="--bbox-format"):
        formats.FORMATS[name].read(drawn[name], bbox_format="xywh")
    (tmp_path / "empty").mkdir()
    assert not formats.FORMATS[name].matches(tmp_path / "empty")
    assert not formats.FORMATS[name].matches(tmp_path / "nowhere")
    with pytest.raises(DataError):
        formats.FORMATS[name].read(tmp_path / "empty")


def test_cityscapes_masks_are_what_the_later_polygons_leave_visible(tmp_path):
    draw_cityscapes(tmp_path)
    source = cityscapes.read(tmp_path)
    (record,) = [source.record(0)]
    car, bicycle, group = record.instances
    mask = raster.decode(car.mask)
    expected = np.zeros((40, 80), bool)
    expected[10:30, 10:30] = True
    expected[:, 18:22] = False
    assert (mask == expected).all()
    assert car.box.tolist() == [10, 10, 30, 30]
    assert car.extra["cityscapes"]["polygon"][0] == [10, 10]
    assert bicycle.mask is None and bicycle.problem.code == "object_hidden"
    assert group.crowd and group.category_id == 26 and group.problem is None and area(group, record.size) == 100
    assert record.file_name == "val/frankfurt/frankfurt_000000_000294_leftImg8bit.png"


def test_cityscapes_is_read_from_any_of_its_folders(tmp_path):
    file = draw_cityscapes(tmp_path)
    for folder in (tmp_path, tmp_path / "gtFine", tmp_path / "gtFine" / "val", file.parent):
        source = formats.FORMATS[formats.detect(folder)].read(folder)
        assert images.read_rgb(source.record(0), source.image_root).shape == (40, 80, 3)
    (tmp_path / "gtFine").rename(tmp_path / "labels")
    with pytest.raises(DataError, match="--images"):
        cityscapes.read(tmp_path / "labels")
    cityscapes.read(tmp_path / "labels" / "val", images=tmp_path / "leftImg8bit" / "val")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "car", "polygon": 3}]}', '{"objects": []}']
)
def test_a_damaged_cityscapes_file_is_named(text, tmp_path):
    file = draw_cityscapes(tmp_path)
    file.write_text(text)
    with pytest.raises(DataError, match=file.name):
        cityscapes.read(tmp_path)


def test_kitti_s_sixteen_bits_are_label_and_number(tmp_path):
    levels = draw_kitti(tmp_path)
    source = kitti_instances.read(tmp_path)
    record = source.record(0)
    found = {(one.category_id, one.extra["kitti_instance"]["value"] & 255): one for one in record.instances}
    assert set(found) == {(24, 1), (26, 0), (26, 1), (26, 2)}
    assert found[26, 0].crowd and not found[26, 1].crowd
    assert found[26, 1].box.tolist() == [5, 5, 25, 15]
    assert (raster.decode(found[26, 1].mask) == (levels == 26 * 256 + 1)).all()


def test_kitti_car_masks_come_as_numbers_or_as_a_file_each(tmp_path):
    numbered = np.zeros((30, 60), np.uint8)
    numbered[2:12, 2:12], numbered[15:25, 30:50] = 1, 2
    for stem in ("000001", "000002", "000003"):
        photo(tmp_path / "image_2" / f"{stem}.png", 60, 30)
    labels(tmp_path / "instance" / "000001.png", numbered)
    labels(tmp_path / "instance" / "000002_00.png", np.uint8(255) * (numbered == 1))
    labels(tmp_path / "instance" / "000002_01.png", np.uint8(255) * (numbered == 2))
    source = kitti_instances.read(tmp_path)
    assert source.counts.tolist() == [2, 2, 0]
    assert source.header.notes == ("1 pictures have no masks: kept without boxes",)
    for at in (0, 1):
        assert [one.box.tolist() for one in source.record(at).instances] == [[2, 2, 12, 12], [30, 15, 50, 25]]
        assert {one.category_id for one in source.record(at).instances} == {26}
    (tmp_path / "instance" / "000001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000001\.png"):
        kitti_instances.read(tmp_path)


def test_a_kitti_mask_is_of_the_photo_with_the_longest_name_that_fits(tmp_path, monkeypatch):
    for stem in ("cam", "cam_1", "other"):
        photo(tmp_path / "image_2" / f"{stem}.png", 60, 30)
    car = np.zeros((30, 60), np.uint8)
    car[2:12, 2:12] = 255
    for stem in ("cam_0", "cam_1_0", "cam_1_1", "cam_x_y", "other", "other_0", "gone_0"):
        labels(tmp_path / "masks" / f"{stem}.png", car)
    listed = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: listed.append(path) or glob(path, pattern))
    source = kitti_instances.read(tmp_path)
    records = [source.record(at) for at in range(len(source.counts))]
    assert len(listed) <= 5, "the folder is not listed anew for each photo"
    assert {one.file_name: [each.extra["kitti_instance"]["file"] for each in one.instances] for one in records} == {
        "cam.png": ["cam_0.png", "cam_x_y.png"],
        "cam_1.png": ["cam_1_0.png", "cam_1_1.png"],
        "other.png": ["other.png"],
        "gone_0.png": ["gone_0.png"],
    }
    assert source.header.notes == ("1 masks of one car lie beside the mask of their whole photo: left out",)
    assert len(source.files) == 6


def test_kitti_with_labels_too_is_a_source_of_boxes_unless_told(tmp_path):
    draw_kitti(tmp_path)
    (tmp_path / "label_2").mkdir()
    (tmp_path / "label_2" / "000000_10.txt").write_text("Car 0 0 0 5 5 25 15 1 1 1 1 1 1 0\n")
    assert formats.detect(tmp_path) == "kitti"
    assert kitti_instances.read(tmp_path).counts.tolist() == [4]


def test_a_kitti_mask_without_its_photo_is_not_lost(tmp_path):
    draw_kitti(tmp_path)
    labels(tmp_path / "instance" / "000009_10.png", np.full((30, 60), 26 * 256 + 1, np.uint16))
    source = kitti_instances.read(tmp_path)
    assert source.counts.tolist() == [4, 1]
    with pytest.raises(images.ImageProblem, match="no such picture"):
        images.read_rgb(source.record(1), source.image_root)


def test_ade20k_counts_what_is_visible_and_says_what_is_missing(tmp_path):
    draw_ade(tmp_path)
    source = ade20k.read(tmp_path)
    record = source.record(0)
    car, wheel, cafe, oven = record.instances
    assert car.box.tolist() == [10, 10, 30, 20]
    assert area(car, record.size) == 160  # 200 pixels, 40 of them behind something
    assert wheel.extra["ade20k"]["parts"] == {"part_level": 1}
    assert cafe.problem.code == "object_hidden"
    assert oven.problem.code == "mask_missing"
    assert {one.category_id: one.name for one in source.header.categories} == {401: "car", 2978: "wheel", 90: "café", 1800: "oven"}


def test_ade20k_categories_of_one_first_word_keep_their_whole_names(tmp_path):
    folder = draw_ade(tmp_path)
    file = next(folder.glob("*.json"))
    document = json.loads(file.read_bytes().decode("latin-1"))
    for found, name in zip(document["annotation"]["object"], ("crane, bird", "crane, machine", "bus", "oven"), strict=True):
        found["name"] = name
    file.write_text(json.dumps(document))
    assert {one.name for one in ade20k.read(tmp_path).header.categories} == {"crane, bird", "crane, machine", "bus", "oven"}
    labels(folder / document["annotation"]["object"][0]["instance_mask"], np.zeros((7, 7), np.uint8))
    assert ade20k.read(tmp_path).record(0).instances[0].problem.code == "mask_size_mismatch"
    file.write_text('{"annotation": {}}')
    with pytest.raises(DataError, match=file.name):
        ade20k.read(tmp_path)


def test_rooftop_outlines_are_polygons(tmp_path):
    draw_rooftop(tmp_path)
    source = rooftop.read(tmp_path)
    record = source.record(0)
    assert record.size == (75, 100)
    square, triangle = record.instances
    assert len(square.mask[0].exterior) == 4  # the repeated first corner is left out
    assert square.box.tolist() == pytest.approx([10.2, 10.4, 40.2, 30.4])
    assert len(triangle.mask[0].exterior) == 3


def test_rooftop_says_which_file_it_cannot_read_and_keeps_malformed_outlines(tmp_path):
    draw_rooftop(tmp_path)
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0], [np.nan, 3.0], [4.0, 9.0]])
    savemat(tmp_path / "IMG_0002.mat", {"gt": cell})
    source = rooftop.read(tmp_path)
    assert source.counts.tolist() == [2, 2]
    assert [one.problem.code for one in source.record(1).instances] == ["outline_malformed"] * 2
    (tmp_path / "IMG_0003.mat").write_bytes(b"MATLAB no longer" * 20)
    with pytest.raises(DataError, match=r"IMG_0003\.mat"):
        rooftop.read(tmp_path)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 11)", "time.sleep(60)"])
def test_a_file_that_ends_or_holds_up_its_reader_is_named(tmp_path, monkeypatch, end):
    for stem in ("IMG_0001", "IMG_0002", "IMG_0003"):
        draw_rooftop(tmp_path, stem)
    script = tmp_path / "reader.py"
    script.write_text(f"import os, time\nprint('{{\"outlines\": []}}', flush=True)\n{end}\n")
    monkeypatch.setattr(rooftop, "READER", script)
    monkeypatch.setattr(rooftop, "PATIENCE_S", 2.0)
    with pytest.raises(DataError, match=r"IMG_0002\.mat.*ends or holds up"):
        rooftop.read(tmp_path)


def test_a_file_that_changes_under_a_run_is_said(tmp_path):
    file = draw_cityscapes(tmp_path)
    source = cityscapes.read(tmp_path)
    file.write_text(json.dumps({"imgHeight": 40, "imgWidth": 80, "objects": []}))
    with pytest.raises(DataError, match="changed while"):
        source.record(0)
