import json
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autopoly import formats, images
from autopoly.errors import DataError
from autopoly.formats import coco, parquet, parquet_table
from autopoly.formats.parquet_write import TYPES
from autopoly.types import Category, Header, Instance, Polygon, Record, Rle

XYWH = [[[10.0, 10, 20, 5], [1, 2, 3, 4]], [], [[90.0, 40, 5, 5]]]
XYXY = [[[10.0, 10, 30, 15], [1, 2, 4, 6]], [], [[90.0, 40, 95, 45]]]
LABELS = [["cat", "dog"], [], ["ant"]]
PNG = [cv2.imencode(".png", np.full((50, 100, 3), level, np.uint8))[1].tobytes() for level in (10, 20, 30)]


def saved(folder, file="a.parquet", /, group=2, **columns):
    path = folder / file
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def records(data):
    return [data.record(index) for index in range(len(data.counts))]


def boxes(data):
    return [[one.box.tolist() for one in record.instances] for record in records(data)]


def structs(names=("bbox", "category")):
    return [dict(zip(names, pair, strict=True)) for pair in zip(XYWH, LABELS, strict=True)]


def test_hugging_face_with_pictures_inside(tmp_path):
    picture = pa.array([{"bytes": data, "path": f"/home/me/{n}.png"} for n, data in enumerate(PNG)])
    path = saved(
        tmp_path, image_id=[7, 8, 9], image=picture, width=[100] * 3, height=[50] * 3, objects=structs(), split=["train", None, "train"]
    )
    data = parquet.read(path)
    assert boxes(data) == XYXY and data.counts.tolist() == [2, 0, 1]
    assert [one.name for one in data.header.categories] == ["ant", "cat", "dog"]
    first, second, third = records(data)
    assert (first.image_id, first.file_name, first.size, first.problem) == (7, "0.png", (50, 100), None)
    assert [one.category_id for one in first.instances] == [2, 3] and third.instances[0].instance_id == 3
    assert first.extra["split"] == "train" and "image" not in first.extra
    assert [int(images.read_rgb(one, ".")[0, 0, 0]) for one in (first, second, third)] == [10, 20, 30]
    assert data.record(0).data == PNG[0], "going back works"
    assert any(note.startswith("boxes are read as xywh") for note in data.header.notes)


def test_a_list_of_structs_without_sizes_looks_at_the_pictures(tmp_path):
    held = [
        [{"bbox": box, "label": 1, "id": 50 + n, "area": 3.5} for n, box in enumerate(some)]
        for some in [[[60.0, 10, 80, 40], [50, 5, 55, 45]], [], [[70, 1, 99, 9]]]
    ]
    path = saved(tmp_path, image=pa.array([{"bytes": one, "path": None} for one in PNG]), objects=pa.array(held))
    data = parquet.read(path)
    assert "would leave their image as xywh" in data.header.notes[0]
    assert boxes(data)[0] == [[60, 10, 80, 40], [50, 5, 55, 45]]
    first = data.record(0)
    assert first.instances[1].extra == {"id": 51, "image_id": 1, "category_id": 1, "bbox": [50.0, 5.0, 5.0, 40.0], "area": 3.5}
    assert [one.file_name for one in records(data)] == ["00000000.png", "00000001.png", "00000002.png"]


@pytest.mark.parametrize(
    "box, label, name", [("bbox", "category", "file_name"), ("boxes", "labels", "image_path"), ("bboxes", "category_id", "image")]
)
def test_lists_beside_the_image(tmp_path, box, label, name):
    numbers = [[1, 2], [], [7]]
    path = saved(tmp_path, **{name: ["a.png", "b.png", "c.png"], box: XYXY, label: numbers, "tags": [["x"], [], ["y", "z"]]})
    data = parquet.read(path, bbox_format="xyxy")
    assert boxes(data) == XYXY and data.header.notes == ()
    assert [one.category_id for one in data.header.categories] == [1, 2, 7]
    assert [one.file_name for one in records(data)] == ["a.png", "b.png", "c.png"]
    assert data.record(2).extra["tags"] == ["y", "z"] and data.record(2).instances[0].category_id == 7


@pytest.mark.parametrize("group", [1, 3, 100])
def test_one_row_a_box(tmp_path, group):
    path = saved(
        tmp_path,
        group=group,
        image_id=["x", "y", "x", "z"],
        file_name=["x.png", "y.png", "x.png", "z.png"],
        bbox=[XYWH[0][0], XYWH[2][0], XYWH[0][1], None],
        label=["cat", "ant", "dog", None],
        mine=[1, 2, 3, 4],
    )
    data = parquet.read(path, bbox_format="xywh")
    assert boxes(data) == [XYXY[0], XYXY[2], []]
    assert data.counts.tolist() == [2, 1, 0], "a row without a box stands for an image without boxes"
    assert [one.extra["mine"] for one in data.record(0).instances] == [1, 3]
    assert [one.ordinal for record in records(data) for one in record.instances] == [0, 1, 2]
    assert any("not together" in note for note in data.header.notes)


def test_four_columns_are_a_box(tmp_path):
    path = saved(tmp_path, filename=["a.png", "a.png"], xmin=[1, 5], ymin=[2, 6], xmax=[3, 50], ymax=[4, 60], class_name=["b", "a"])
    data = parquet.read(path)
    assert boxes(data) == [[[1, 2, 3, 4], [5, 6, 50, 60]]] and data.header.notes == ()
    assert data.record(0).instances[1].extra["bbox"] == [5.0, 6.0, 45.0, 54.0]
    assert data.record(0).instances[0].category_id == 2


def test_class_labels_give_names(tmp_path):
    table = pa.table({"image_id": [1], "file_name": ["a.png"], "objects": [{"bbox": [[1.0, 2, 3, 4]], "category": [1]}]})
    features = {"info": {"features": {"objects": {"category": {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "a.parquet")
    assert [(one.category_id, one.name) for one in parquet.read(tmp_path / "a.parquet").header.categories] == [(1, "dog")]


def test_a_folder_is_its_files_by_name(tmp_path):
    saved(tmp_path, "b.parquet", file_name=["b.png"], bbox=[[[1.0, 2, 3, 4]]])
    saved(tmp_path, "a.parquet", file_name=["a.png", "c.png"], bbox=[[[5.0, 6, 7, 8]], []])
    data = parquet.read(tmp_path, bbox_format="xyxy")
    assert [one.file_name for one in records(data)] == ["a.png", "c.png", "b.png"] and data.counts.tolist() == [1, 0, 1]
    saved(tmp_path, "c.parquet", name=["b.png"], bbox=[[[1.0, 2, 3, 4]]])
    with pytest.raises(DataError, match=r"c\.parquet: other columns than a\.parquet"):
        parquet.read(tmp_path)


def test_the_folder_of_a_finished_run_is_a_source(tmp_path):
    header, *some = converted()
    parquet.write(header, iter(some), tmp_path / "annotations.parquet")
    saved(tmp_path, "failures.parquet", record_id=[1], code=["x"])
    assert formats.detect(tmp_path) == "parquet" and len(parquet.read(tmp_path).counts) == 3
    coco.write(header, iter(some), tmp_path / "annotations.json")
    assert formats.detect(tmp_path) == "coco"


@pytest.mark.parametrize("column", ["category", "score"])
def test_uneven_lists_name_the_row(tmp_path, column):
    lists = {"file_name": ["a", "b", "c"], "bbox": XYWH, "category": LABELS, "score": [[0.5, 0.5], [], [0.5]]}
    lists[column] = [*lists[column][:2], lists[column][0]]
    path = saved(tmp_path, **lists)
    with pytest.raises(DataError, match=rf"a\.parquet: row 2: lists of unequal length \(.*{column} 2"):
        parquet.read(path).record(2)
    held = [{"bbox": a, column: b} for a, b in zip(lists["bbox"], lists[column], strict=True)]
    with pytest.raises(DataError, match=r"row 2: lists of unequal length"):
        parquet.read(saved(tmp_path, file_name=["a", "b", "c"], objects=held)).record(2)


def test_bad_boxes_are_problems(tmp_path):
    some = [[None, [1.0, 2, 3], [float("nan"), 1, 2, 3], [5, 5, 0, 9], [1, 1, 5, 5]]]
    data = parquet.read(saved(tmp_path, file_name=["a.png"], bbox=some), bbox_format="xywh")
    codes = [one.problem and one.problem.code for one in data.record(0).instances]
    assert codes == ["box_missing", "box_malformed", "box_not_finite", "box_empty", None]
    coco.write(data.header, iter(records(data)), tmp_path / "out.json")
    assert [one["bbox"] for one in json.loads((tmp_path / "out.json").read_text())["annotations"]] == [
        None, [1.0, 2.0, 3.0], [None, 1.0, 2.0, 3.0], [5.0, 5.0, 0.0, 9.0], [1.0, 1.0, 5.0, 5.0]
    ]  # fmt: skip


def test_what_is_no_source_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing")
    for path in (tmp_path / "a.parquet", tmp_path):
        with pytest.raises(DataError, match="not a Parquet file"):
            parquet.read(path)
    whole = saved(tmp_path, file_name=["a"] * 50, bbox=[XYWH[0]] * 50).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a Parquet file, or cut off"):
        parquet.read(tmp_path / "cut.parquet")
    with pytest.raises(DataError, match="no boxes found in columns file_name, x; looked for bbox"):
        parquet.read(saved(tmp_path, file_name=["a"], x=[1]))
    picture = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes()
    for more in ({}, {"image": [picture]}, {"image": [{"bytes": picture}]}):
        with pytest.raises(DataError, match="no column names its image"):
            parquet.read(saved(tmp_path, bbox=[[1.0, 2, 3, 4]], **more))


RING = np.array([[10.0, 10.0], [40.005, 10.0], [40.0, 30.0], [10.0, 30.0]])
HOLE = np.array([[15.0, 15.0], [15.0, 20.0], [20.0, 20.0], [20.0, 15.0]])
FAR = np.array([[60.0, 10.0], [90.0, 10.0], [90.0, 30.0]])


def converted():
    """Make what a run hands to a writer: a hole, two parts, no polygon, an image without boxes, a crowd region."""
    header = Header("coco", (Category(3, "car", {"supercategory": "vehicle"}), Category(4, "unused")), (), {"info": {"year": 1}})
    box = np.array([10.0, 10, 40, 30])
    run = {"mask_source": "predicted", "quality": 0.75}
    first = (
        Instance(0, 1, 3, box, (Polygon(FAR), Polygon(RING, (HOLE,))), **run),
        Instance(
            1,
            2,
            3,
            box,
            (Polygon(RING), Polygon(FAR)),
            **run,
            extra={"id": 2, "image_id": 1, "category_id": 3, "bbox": [10, 10, 30.1, 20], "mine": [1]},
        ),
        Instance(2, 3, 3, box, (), mask_source="none"),
        Instance(3, 4, 3, box, Rle((50, 100), b"lf0"), crowd=True),
    )
    yield header
    yield Record(0, 1, "a.png", (50, 100), first)
    yield Record(1, 2, "b.png", None, (), extra={"id": 2, "file_name": "b.png", "license": 5})
    yield Record(2, 3, "", None, (Instance(4, 9, 7, box),), listed=False)


def test_columns_and_types_as_promised(tmp_path):
    header, *some = converted()
    parquet.write(header, iter(some), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    promised = "image_id, file_name, width, height, annotation_id, category_id, category, bbox, polygons, holes, rle, area, score"
    assert table.column_names == list(TYPES) == [*promised.split(", "), "mask_source", "extra"]
    assert all(table.schema.field(name).type == pa.int64() for name in ("image_id", "annotation_id", "category_id"))
    rows = table.to_pylist()
    assert [row["annotation_id"] for row in rows] == [1, 2, 3, 4, None, 9]
    assert rows[0]["polygons"] == [FAR.ravel().tolist(), np.round(RING, 2).ravel().tolist()] and rows[0]["holes"] == [HOLE.ravel().tolist()]
    assert rows[0]["rle"] and rows[1]["rle"] is None and rows[0]["area"] == pytest.approx(600 - 25 + 300, abs=20)
    assert rows[1]["bbox"] == [10.0, 10.0, 40.1, 30.0] and rows[1]["category"] == "car"
    assert (rows[2]["polygons"], rows[2]["mask_source"]) == ([], "none") and rows[4]["file_name"] == "b.png"
    metadata = json.loads(table.schema.metadata[b"autopoly"])
    assert metadata["bbox"] == "xyxy" and len(metadata["categories"]) == 2
    first = (tmp_path / "out.parquet").read_bytes()
    parquet.write(header, iter(some), tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == first
    assert [one.name for one in tmp_path.iterdir()] == ["out.parquet"]


def test_parquet_and_coco_say_the_same(tmp_path):
    header, *some = converted()
    parquet.write(header, iter(some), tmp_path / "out.parquet")
    coco.write(header, iter(some), tmp_path / "a.json")
    data = parquet.read(tmp_path / "out.parquet")
    coco.write(data.header, iter(records(data)), tmp_path / "b.json")
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "b.json").read_text())
    holed = data.record(0).instances[0].mask
    assert [len(one.holes) for one in holed] == [0, 1], "the hole is in the part it was in"
    parquet.write(data.header, iter(records(data)), tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()
    assert [(one.listed, one.problem and one.problem.code) for one in records(data)] == [
        (True, None),
        (True, None),
        (False, "image_not_listed"),
    ]


def test_text_ids_make_the_column_text(tmp_path):
    header, first, *rest = converted()
    some = [replace(first, image_id="one"), *rest]
    parquet.write(header, iter(some), tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.field("image_id").type == pa.string() and schema.field("annotation_id").type == pa.int64()


def test_a_filtered_file_without_our_metadata_is_still_read(tmp_path):
    header, *some = converted()
    parquet.write(header, iter(some), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet").replace_schema_metadata(None)
    pq.write_table(table.slice(1, 2), tmp_path / "less.parquet")
    data = parquet.read(tmp_path / "less.parquet")
    assert boxes(data) == [[[10.0, 10.0, 40.1, 30.0], [10.0, 10.0, 40.0, 30.0]]]
    assert [one.name for one in data.header.categories] == ["car"]


def test_no_records_is_a_file_that_reads(tmp_path):
    parquet.write(Header("coco", ()), iter(()), tmp_path / "out.parquet")
    assert parquet.read(tmp_path / "out.parquet").counts.tolist() == []


def test_other_libraries_read_it(tmp_path):
    header, *some = converted()
    parquet.write(header, iter(some), tmp_path / "out.parquet")
    dataset = pytest.importorskip("pyarrow.dataset")
    assert dataset.dataset(tmp_path / "out.parquet").count_rows() == 6


def test_pictures_of_a_large_row_group_come_in_turn(tmp_path):
    many = [cv2.imencode(".png", np.full((4, 5, 3), n, np.uint8))[1].tobytes() for n in range(40)]
    path = saved(tmp_path, group=30, image=pa.array([{"bytes": one, "path": None} for one in many]), bbox=[[[1.0, 1, 2, 2]]] * 40)
    data = parquet.read(path, bbox_format="xyxy")
    for index in (0, 1, 9, 29, 30, 39, 3, 31):
        assert data.record(index).data == many[index]


def test_readers_at_two_places_of_a_row_group_cost_one_pass_each(tmp_path, monkeypatch):
    """Two shards are at work at once, and their pictures may lie in one row group."""
    many = [cv2.imencode(".png", np.full((4, 5, 3), n, np.uint8))[1].tobytes() for n in range(200)]
    data = parquet.read(
        saved(tmp_path, group=200, image=pa.array([{"bytes": one} for one in many]), bbox=[[[1.0, 1, 2, 2]]] * 200), bbox_format="xyxy"
    )
    begun = []
    whole = parquet_table.Table._pictures
    monkeypatch.setattr(parquet_table.Table, "_pictures", lambda table, group: begun.append(group) or whole(table, group))
    for step in range(100):
        for index in (step, 100 + step):
            assert data.record(index).data == many[index]
    assert len(begun) <= 2


@pytest.mark.parametrize("paths, read", [(["0.png", "1.png", None], 1), (["0.png", "1.png", "2.png"], 0)])
def test_a_picture_that_nobody_needs_is_not_read(tmp_path, monkeypatch, paths, read):
    picture = pa.array([{"bytes": data, "path": name} for data, name in zip(PNG, paths, strict=True)])
    path = saved(tmp_path, image=picture, width=[100] * 3, height=[50] * 3, objects=structs())
    whole = records(parquet.read(path))
    asked = []
    picture_of = parquet_table.Table.picture_of
    monkeypatch.setattr(parquet_table.Table, "picture_of", lambda table, row: asked.append(row) or picture_of(table, row))
    data = parquet.read(path)
    bare = [data.record(index, picture=False) for index in range(3)]
    assert len(asked) == read and [one.data is None for one in bare].count(False) == read
    assert [(one.image_id, one.file_name, one.size, one.extra) for one in bare] == [
        (one.image_id, one.file_name, one.size, one.extra) for one in whole
    ]
