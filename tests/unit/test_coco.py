import json
from dataclasses import replace

import numpy as np
import pytest

from autopoly import formats
from autopoly.errors import DataError
from autopoly.formats import coco
from autopoly.geometry import raster
from autopoly.types import Polygon, Rle

SQUARE = np.array([[10.0, 10.0], [30.123, 10.0], [30.0, 25.0], [10.0, 25.456]])


def dataset(**changes):
    whole = {
        "info": {"year": 2017, "unknown": [1, 2.5, None]},
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50, "license": 3},
            {"id": "text", "file_name": "sub/b.jpg"},
            {"id": 9, "file_name": "empty.jpg", "width": 10, "height": 10},
        ],
        # Not grouped by image, as in official files.
        "annotations": [
            {"id": 5, "image_id": 7, "category_id": 90, "bbox": [10, 10, 20, 15], "segmentation": [], "score": 0.25, "mine": {"a": None}},
            {"id": 1, "image_id": "text", "category_id": 3, "bbox": [1.5, 2.0, 3, 4], "iscrowd": 0},
            {
                "id": 6,
                "image_id": 7,
                "category_id": 3,
                "bbox": [0.0, 0.0, 50.5, 50.0],
                "iscrowd": 1,
                "segmentation": {"size": [50, 100], "counts": [5000]},
            },
            {"id": 5, "image_id": 7, "category_id": 3, "bbox": [20, 20, 10, 10]},
        ],
        "categories": [{"id": 3, "name": "car", "supercategory": "vehicle"}, {"id": 90, "name": "tooth brush"}],
    }
    return whole | changes


def opened(folder, whole, **options):
    path = folder / "annotations.json"
    path.write_text(whole if isinstance(whole, str) else json.dumps(whole))
    return coco.read(path, **options)


def records(data):
    return [data.record(index) for index in range(len(data.counts))]


def written(data, changed, path):
    coco.write(data.header, iter(changed), path)
    return json.loads(path.read_text())


def only(data, annotation_index):
    return next(one for record in records(data) for one in record.instances if one.ordinal == annotation_index)


def annotated(**fields):
    return dataset(annotations=[{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5]} | fields])


def test_everything_comes_back_byte_for_byte_in_source_order(tmp_path):
    whole = dataset()
    data = opened(tmp_path, whole)
    assert data.counts.tolist() == [3, 1, 0]
    assert [one.ordinal for one in data.record(0).instances] == [0, 2, 3]
    back = written(data, records(data), tmp_path / "out.json")
    assert json.dumps(back, sort_keys=True) == json.dumps(whole, sort_keys=True)
    assert list(back["annotations"][0]) == list(whole["annotations"][0])


def test_records_may_be_written_in_any_order_and_bytes_are_the_same(tmp_path):
    data = opened(tmp_path, dataset())
    coco.write(data.header, iter(records(data)), tmp_path / "a.json")
    coco.write(data.header, iter(records(data)), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert [one["id"] for one in written(data, records(data)[::-1], tmp_path / "c.json")["annotations"]] == [5, 1, 6, 5]


def test_what_a_run_adds(tmp_path):
    data = opened(tmp_path, dataset())
    first, second, third = records(data)
    a, crowd, none = first.instances
    first = replace(
        first,
        instances=(
            replace(a, mask=(Polygon(SQUARE),), mask_source="predicted", quality=0.91239),
            replace(crowd, mask_source="none"),
            replace(none, mask=(), mask_source="none"),
        ),
    )
    second = replace(
        second,
        size=(40, 60),
        instances=(replace(second.instances[0], mask=(Polygon(SQUARE, (SQUARE / 4 + 12,)),), mask_source="predicted", quality=0.5),),
    )
    back = written(data, [first, second, third], tmp_path / "out.json")
    one, two, three, four = back["annotations"]
    assert one["segmentation"] == [[10.0, 10.0, 30.12, 10.0, 30.0, 25.0, 10.0, 25.46]]
    assert (one["quality"], one["score"], one["mask_source"], one["bbox"], one["mine"]) == (
        0.9124,
        0.25,
        "predicted",
        [10, 10, 20, 15],
        {"a": None},
    )
    assert one["bbox_tight"] == [10.0, 10.0, 20.12, 15.46]
    assert one["area"] == pytest.approx(20 * 15, abs=10)
    assert "iscrowd" not in one
    assert isinstance(one["bbox"][0], int)
    assert (two["score"], two["quality"]) == (0.5, 0.5)
    assert set(two["segmentation"]) == {"size", "counts"} and two["segmentation"]["size"] == [40, 60] and two["iscrowd"] == 0
    assert three == dataset()["annotations"][2], "a crowd region comes back verbatim"
    assert (four["segmentation"], four["mask_source"], four["id"]) == ([], "none", 5)
    assert "score" not in four
    assert back["images"][1] == {"id": "text", "file_name": "sub/b.jpg", "height": 40, "width": 60}


def test_a_kept_mask_stays_as_it_was(tmp_path):
    ring = [1, 1, 9.123456, 1, 9, 9]
    data = opened(tmp_path, annotated(segmentation=[ring]))
    record = data.record(0)
    record = replace(record, instances=(replace(record.instances[0], mask_source="kept"),))
    back = written(data, [record], tmp_path / "out.json")["annotations"][0]
    assert back["segmentation"] == [ring] and back["mask_source"] == "kept" and back["area"] > 20


def test_our_own_output_is_predicted_anew_with_a_new_score(tmp_path):
    data = opened(
        tmp_path, annotated(score=0.4, quality=0.4, mask_source="predicted", bbox_tight=[0, 0, 1, 1], segmentation=[[0, 0, 1, 0, 1, 1]])
    )
    record = data.record(0)
    record = replace(record, instances=(replace(record.instances[0], mask=(Polygon(SQUARE),), mask_source="predicted", quality=0.8),))
    back = written(data, [record], tmp_path / "out.json")["annotations"][0]
    assert (back["quality"], back["score"], back["bbox_tight"][2]) == (0.8, 0.8, 20.12)


@pytest.mark.parametrize(
    "bbox, code",
    [
        (None, "box_missing"),
        ([1, 2, 3], "box_malformed"),
        (["1", 2, 3, 4], "box_malformed"),
        ([True, 2, 3, 4], "box_malformed"),
        ({"x": 1}, "box_malformed"),
        ([None, 2, 3, 4], "box_not_finite"),
        ([1, 2, 0, 4], "box_empty"),
        ([1, 2, -3.0, 4], "box_empty"),
        ([500, 2, 3, 4], "box_outside_image"),
        ([0.1, 0.2, 0.5, 0.5], "box_normalised"),
        ([10**400, 0, 1, 1], "box_not_finite"),
        ([-50, -50, 5000, 5000], None),
    ],
)
def test_a_bad_box_is_a_problem_and_comes_back(tmp_path, bbox, code):
    whole = annotated(bbox=bbox)
    data = opened(tmp_path, whole)
    (instance,) = data.record(0).instances
    assert (instance.problem.code if instance.problem else None) == code
    assert written(data, records(data), tmp_path / "out.json")["annotations"] == whole["annotations"]


def test_nan_and_infinity_become_null_and_are_said(tmp_path):
    data = opened(tmp_path, json.dumps(annotated(bbox=[float("nan"), 1, float("inf"), 4], note="NaN, Infinity")))
    assert "NaN" in data.header.notes[0]
    assert data.record(0).instances[0].problem.code == "box_not_finite"
    back = written(data, records(data), tmp_path / "out.json")["annotations"][0]
    assert back["bbox"] == [None, 1, None, 4] and back["note"] == "NaN, Infinity"


def test_annotations_of_images_that_are_not_listed_follow_and_come_back(tmp_path):
    whole = dataset()
    whole["annotations"] += [
        {"id": 11, "image_id": 404, "category_id": 3, "bbox": [1, 1, 2, 2]},
        {"id": 12, "category_id": 3, "bbox": [1, 1, 2, 2]},
        {"id": 13, "image_id": 404, "category_id": 3, "bbox": [1, 1, 2, 2]},
    ]
    data = opened(tmp_path, whole)
    assert data.counts.tolist() == [3, 1, 0, 2, 1]
    lost = data.record(3)
    assert (lost.listed, lost.problem.code, lost.image_id, lost.size) == (False, "image_not_listed", 404, None)
    back = written(data, records(data), tmp_path / "out.json")
    assert back == whole
    assert any("404" in note for note in data.header.notes)


@pytest.mark.parametrize(
    "name, bad",
    [
        ("../x.jpg", True),
        ("a/../../x.jpg", True),
        ("/etc/x.jpg", True),
        ("..\\x.jpg", True),
        ("C:/x.jpg", True),
        ("a/../x.jpg", False),
        ("..x.jpg", False),
    ],
)
def test_a_file_name_must_not_leave_the_image_folder(tmp_path, name, bad):
    record = opened(tmp_path, dataset(images=[{"id": 7, "file_name": name}], annotations=[])).record(0)
    assert (record.problem is not None and record.problem.code == "path_outside_root") == bad


def test_masks_in_every_form(tmp_path):
    ring = [1, 1, 9, 1, 9, 9]
    picture = np.zeros((50, 100), dtype=bool)
    picture[3:30, 5:60] = picture[40:, 80:] = True
    encoded = raster.encode(picture)
    text = {"size": [50, 100], "counts": encoded.counts.decode()}
    whole = dataset(annotations=[])
    forms = [[ring, [20, 20, 30, 20, 30, 30, 20, 30]], ring, {"size": [50, 100], "counts": [100, 50, 4850]}, [], None]
    whole["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5], "segmentation": one} for n, one in enumerate([*forms, text])
    ]
    masks = [one.mask for one in opened(tmp_path, whole).record(0).instances]
    assert [len(one.exterior) for one in masks[0]] == [3, 4]
    assert masks[1][0].exterior.tolist() == [[1, 1], [9, 1], [9, 9]]
    assert isinstance(masks[2], Rle) and masks[2].size == (50, 100)
    assert raster.area(masks[2]) == 50
    assert masks[3] is None and masks[4] is None
    assert masks[5] == encoded


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        7,
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        ["a"],
        [["a"] * 6],
        [[None] * 6],
        {"size": [50, 100]},
        {"size": [50, 100], "counts": [1, 2]},
        {"size": [50, 100], "counts": "~~~"},
        {"size": [50, 100], "counts": "é"},
        {"size": [50, 100], "counts": "P" * 40},
        {"size": [5], "counts": "0"},
        {"size": [20, 10], "counts": [200]},
    ],
)
def test_a_broken_segmentation_is_no_mask_and_is_counted_and_comes_back(tmp_path, broken):
    whole = annotated(segmentation=broken)
    data = opened(tmp_path, whole)
    for _ in range(2):
        assert data.record(0).instances[0].mask is None
    assert data.record(0).instances[0].problem is None
    assert [note for note in data.header.notes if note.startswith("1 annotations have a segmentation")]
    assert written(data, records(data), tmp_path / "out.json") == whole


def test_sound_rings_beside_a_broken_one_are_used(tmp_path):
    data = opened(tmp_path, annotated(segmentation=[[1, 1, 9, 1, 9, 9], [1, 2]]))
    assert len(data.record(0).instances[0].mask) == 1
    assert any("segmentation" in note for note in data.header.notes)


@pytest.mark.parametrize(
    "text, says",
    [
        ("[{}]", "bare list"),
        ("7", "not a JSON object"),
        ('{"images": [', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"images": []}', "no 'annotations'"),
        ('{"images": [], "annotations": {}}', "'annotations' is not a list"),
        ('{"images": [], "annotations": [null]}', "annotation at position 0 is not an object"),
        ('{"images": [3], "annotations": []}', "image at position 0 is not an object"),
        ('{"images": [], "annotations": [], "categories": [{"name": "x"}]}', "category at position 0 has no id"),
        ('{"images": [], "annotations": [], "categories": 5}', "'categories' is not a list"),
        ('{"images": NaN, "annotations": []}', "'images' is not a list"),
    ],
)
def test_what_is_not_coco_is_one_line(tmp_path, text, says):
    with pytest.raises(DataError, match=r"annotations\.json") as caught:
        opened(tmp_path, text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_odd_but_legal_files(tmp_path):
    data = opened(tmp_path, "\ufeff" + json.dumps(annotated(image_id=7.0, extra="\U0001f600")))
    assert data.counts.tolist() == [1, 0, 0]
    data = opened(
        tmp_path,
        dataset(images=[{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}], annotations=[{"image_id": 7, "bbox": [1, 1, 2, 2]}]),
    )
    assert data.counts.tolist() == [1, 0] and "repeat" in data.header.notes[0]
    assert data.record(0).instances[0].instance_id == "#0"
    assert opened(tmp_path, {"images": [], "annotations": []}).counts.tolist() == []


def test_lone_surrogates_survive(tmp_path):
    data = opened(tmp_path, json.dumps(annotated(note="x")).replace('"x"', '"\\ud800"'))
    assert written(data, records(data), tmp_path / "out.json")["annotations"][0]["note"] == "\ud800"


def test_whole_numbers_written_with_a_point_are_ids(tmp_path):
    whole = dataset(annotations=[{"id": 1.0, "image_id": 7.0, "category_id": 3.0, "bbox": [1, 2, 30, 40]}])
    for one in whole["categories"]:
        one["id"] = float(one["id"])
    data = opened(tmp_path, whole)
    assert [type(one.category_id) for one in data.header.categories] == [int] * len(whole["categories"])
    assert next(one for record in records(data) for one in record.instances).category_id == 3
    with pytest.raises(DataError, match="no id that is a whole number or a text"):
        opened(tmp_path, dataset(categories=[{"id": 1.5, "name": "car"}]))


def test_an_image_named_by_a_text_is_that_of_the_number(tmp_path):
    data = opened(tmp_path, dataset(annotations=[{"id": 1, "image_id": "7", "category_id": 3, "bbox": [1, 2, 30, 40]}]))
    assert [len(record.instances) for record in records(data) if record.image_id == 7] == [1]
    assert all(record.listed for record in records(data))
    assert any("1 annotations name their image by a text" in note for note in data.header.notes)


def test_corners_in_a_coco_file_are_noticed_and_can_be_read(tmp_path):
    boxes = [[10, 10, 90, 45], [50, 20, 99, 49], [60, 5, 95, 30], [70, 30, 99, 40]]
    whole = dataset(annotations=[{"id": n, "image_id": 7, "category_id": 3, "bbox": box} for n, box in enumerate(boxes)])
    data = opened(tmp_path, whole)
    assert any("--bbox-format xyxy" in note for note in data.header.notes)
    data = opened(tmp_path, whole, bbox_format="xyxy")
    assert data.record(0).instances[1].box.tolist() == [50, 20, 99, 49]
    # What is written is COCO, and means the same boxes to whoever reads it next.
    assert written(data, records(data), tmp_path / "out.json")["annotations"][1]["bbox"] == [50, 20, 49, 29]
    with pytest.raises(DataError, match="bbox-format"):
        opened(tmp_path, whole, bbox_format="cxcywh")


def test_crowd_truth_is_pointed_out(tmp_path):
    assert any("1 of 4 annotations are iscrowd 1" in note for note in opened(tmp_path, dataset()).header.notes)


def test_the_image_folder_is_found(tmp_path):
    whole = dataset()
    assert opened(tmp_path, whole).image_root == str(tmp_path)
    (tmp_path / "images").mkdir()
    assert opened(tmp_path, whole).image_root == str(tmp_path / "images")
    (tmp_path / "images" / "a.jpg").touch()
    whole["images"][0]["file_name"] = "images/a.jpg"
    assert opened(tmp_path, whole).image_root == str(tmp_path)
    assert opened(tmp_path, whole, images=tmp_path / "else").image_root == str(tmp_path / "else")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    out = tmp_path / "out" / "annotations.json"
    out.parent.mkdir()
    out.write_text("old")
    data = opened(tmp_path, dataset())

    def stream():
        yield data.record(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coco.write(data.header, stream(), out)
    assert [one.name for one in out.parent.iterdir()] == ["annotations.json"] and out.read_text() == "old"


def test_detect_names_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        formats.detect(tmp_path / "missing")
    with pytest.raises(DataError, match=r"looked for COCO .* KITTI .* Parquet"):
        formats.detect(tmp_path)
    opened(tmp_path, dataset())
    assert formats.detect(tmp_path) == formats.detect(tmp_path / "annotations.json") == "coco"
    (tmp_path / "label_2").mkdir()
    with pytest.raises(DataError, match="coco or kitti; say which with --from"):
        formats.detect(tmp_path)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_has_the_same_face(name, tmp_path):
    module = formats.FORMATS[name]
    assert module.matches(tmp_path / "missing") is False
    assert hasattr(module, "write") == (name in formats.WRITERS)
    with pytest.raises(DataError):
        module.read(tmp_path)
    with pytest.raises(DataError, match="bbox-format"):
        module.read(tmp_path, bbox_format="wrong")


def test_an_index_outside_is_an_index_error(tmp_path):
    data = opened(tmp_path, dataset())
    for index in (-1, 3):
        with pytest.raises(IndexError):
            data.record(index)
