"""Which rows of Parquet annotations are of one image, over files and writers."""

import json
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autopoly import images
from autopoly.formats import coco, parquet, parquet_table

BOX = [1.0, 2.0, 30.0, 40.0]
PNG = [cv2.imencode(".png", np.full((50, 60, 3), level, np.uint8))[1].tobytes() for level in (10, 20, 30, 40)]


def saved(path, group=100, **columns):
    length = len(next(iter(columns.values())))
    pq.write_table(pa.table({"bbox": [BOX] * length} | columns), path, row_group_size=group)
    return path


def embedded(numbers, names=None):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array(
        [{"bytes": None if n is None else PNG[n], "path": None if names is None else names[at]} for at, n in enumerate(numbers)], kind
    )


def opened(path):
    data = parquet.read(path, bbox_format="xyxy")
    records = [data.record(index) for index in range(len(data.counts))]
    assert [len(one.instances) for one in records] == data.counts.tolist()
    return data, records


def levels(records):
    return [int(images.read_rgb(one, ".")[0, 0, 0]) for one in records]


def test_pictures_without_any_name_are_images_of_their_own(tmp_path):
    """Hugging Face writes a PIL picture so."""
    data, records = opened(saved(tmp_path / "a.parquet", image=embedded([0, 1, 2, 3])))
    assert data.counts.tolist() == [1, 1, 1, 1] and levels(records) == [10, 20, 30, 40]
    assert [one.image_id for one in records] == [1, 2, 3, 4] and data.header.notes == ()


def test_rows_without_id_or_name_are_images_that_are_missing(tmp_path):
    _, records = opened(saved(tmp_path / "a.parquet", image_id=pa.array([7, None, None], pa.int64()), file_name=["a.png", None, ""]))
    assert [one.problem and one.problem.code for one in records] == [None, "image_missing", "image_missing"]
    assert "a.parquet: row 2: image 9 has no file name" in records[2].problem.message


@pytest.mark.parametrize("kind, ids", [(pa.int64(), [0, 1, 2, 3]), (pa.string(), ["0", "1", "2", "3"])])
def test_ids_that_begin_anew_in_each_file_are_of_other_pictures(tmp_path, kind, ids):
    for name in "ab":
        saved(tmp_path / f"{name}.parquet", image_id=pa.array(ids[:2], kind), file_name=[f"{name}0.png", f"{name}1.png"])
    data, records = opened(tmp_path)
    assert [one.file_name for one in records] == ["a0.png", "a1.png", "b0.png", "b1.png"] and data.counts.tolist() == [1] * 4
    assert [one.image_id for one in records] == ids and [one.instances[0].extra["image_id"] for one in records] == ids
    assert any(note.startswith("2 images have the id of another picture") for note in data.header.notes)
    for module, file in ((coco, tmp_path / "out.json"), (parquet, tmp_path / "out" / "annotations.parquet")):
        file.parent.mkdir(exist_ok=True)
        module.write(data.header, iter(records), file)
        again = module.read(file)
        assert [again.record(index).file_name for index in range(4)] == ["a0.png", "a1.png", "b0.png", "b1.png"]
        assert again.counts.tolist() == [1] * 4
    assert [one["id"] for one in json.loads((tmp_path / "out.json").read_text())["images"]] == ids


def test_our_own_files_of_several_runs_side_by_side(tmp_path):
    for name in "ab":
        source = tmp_path / name
        source.mkdir()
        data, records = opened(saved(source / "x.parquet", image_id=[5], file_name=[f"{name}.png"]))
        parquet.write(data.header, iter(records), tmp_path / f"{name}.parquet")
    _, records = opened(tmp_path)
    assert [(one.image_id, one.file_name, one.instances[0].extra["image_id"]) for one in records] == [(5, "a.png", 5), (6, "b.png", 6)]


def test_rows_of_one_image_per_row_with_one_id(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image_id": [4, 4, None], "file_name": ["a", "b", "c"], "bboxes": [[BOX], [BOX], []]}), path)
    assert [one.image_id for one in opened(path)[1]] == [4, 5, 6]


def test_ids_that_are_partly_missing(tmp_path):
    path = saved(tmp_path / "a.parquet", image_id=pa.array([None, None, 3, None], pa.int64()), file_name=["a", "b", "c", "a"])
    data, records = opened(path)
    assert [(one.image_id, one.file_name) for one in records] == [(4, "a"), (5, "b"), (3, "c")] and data.counts.tolist() == [2, 1, 1]
    floats = saved(tmp_path / "b.parquet", image_id=[float("nan"), float("nan")], file_name=["a", "a"])
    assert opened(floats)[0].counts.tolist() == [2]


def test_a_row_without_name_joins_the_one_image_of_its_id(tmp_path):
    path = saved(tmp_path / "a.parquet", image_id=[1, 1, 2, 2, 2, 1], file_name=["a", None, "b", "c", None, "a"])
    data, records = opened(path)
    assert [one.file_name for one in records] == ["a", "b", "c", ""] and data.counts.tolist() == [3, 1, 1, 1]
    assert records[3].problem.code == "image_missing", "which of two pictures it belongs to, nobody can tell"


@pytest.mark.parametrize("group", [1, 100])
def test_embedded_pictures_tell_where_an_id_without_name_comes_back(tmp_path, group):
    saved(tmp_path / "a.parquet", group, image_id=[0, 0, 1], image=embedded([0, None, 1]))
    saved(tmp_path / "b.parquet", group, image_id=[1, 0, 2], image=embedded([1, 2, 3]))
    data, records = opened(tmp_path)
    assert data.counts.tolist() == [2, 2, 1, 1] and levels(records) == [10, 20, 30, 40]
    assert [one.image_id for one in records] == [0, 1, 3, 2]


def test_a_box_is_there_where_any_of_its_corners_is(tmp_path):
    corners = {"xmin": [None, 10.0, None], "ymin": [1.0, 10, None], "xmax": [50.0, 60, None], "ymax": [50.0, 60, None]}
    pq.write_table(pa.table({"file_name": ["a", "b", "c"]} | corners), tmp_path / "a.parquet")
    data, records = opened(tmp_path)
    assert data.counts.tolist() == [1, 1, 0]
    assert [(one.ordinal, one.problem and one.problem.code) for record in records for one in record.instances] == [
        (0, "box_not_finite"),
        (1, None),
    ]


@pytest.mark.parametrize("kept, reads, held", [(1 << 20, 20, 20), (0, 400, parquet_table.KEPT)])
def test_row_groups_of_scattered_rows_are_decoded_once_where_they_fit(tmp_path, monkeypatch, kept, reads, held):
    monkeypatch.setattr(parquet_table, "KEPT_BYTES", kept)
    ids = list(range(20)) * 20
    path = saved(tmp_path / "a.parquet", 20, image_id=ids, width=[60] * 400, height=[50] * 400)
    data = parquet.read(path, bbox_format="xyxy")
    decoded = []
    read = parquet_table.Table._read
    monkeypatch.setattr(parquet_table.Table, "_read", lambda table, *asked: decoded.append(asked) or read(table, *asked))
    assert [len(data.record(index).instances) for index in range(20)] == [20] * 20
    assert (len(decoded), len(data._table._decoded)) == (reads, held)


@pytest.mark.parametrize("key", ["image_id", "file_name"])
def test_the_note_on_scattered_rows_says_how_to_sort_them(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    data = parquet.read(saved(tmp_path / "a.parquet", **{key: ["b", "a", "b"]}, image=embedded([1, 0, 1])))
    (note,) = [note for note in data.header.notes if "not together" in note]
    command = shlex.split(note.partition("sort it: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    again, records = opened(tmp_path / "sorted.parquet")
    assert again.counts.tolist() == [1, 2] and levels(records) == [10, 20]
    assert not any("not together" in note for note in again.header.notes)
