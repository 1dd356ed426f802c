"""What a run makes of a source that changed under it, and of files in its folder that are not its own."""

import json
import shutil

import cv2
import inscribed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autopoly.errors import RunError
from autopoly.formats import FORMATS, parquet_table
from autopoly.jobs import convert as job
from autopoly.jobs import source
from autopoly.jobs.convert import ConvertOptions, convert


def run(dataset, out, progress=None, **options):
    asked = ConvertOptions(source=dataset, out=out, workers=0, device="cpu", score=False, **options)
    return convert(asked, progress, inscribed.network())


def masks(folder, count):
    """Draw ``count`` photos with an instance picture of one car each."""
    for number in range(count):
        add(folder, f"{number:06d}_10")
    return folder


def add(folder, stem):
    levels = np.zeros((60, 90), np.uint16)
    levels[20:40, 30:60] = 26 * 256 + 1
    for name, pixels in (("instance", levels), ("image_2", np.full((60, 90, 3), 90, np.uint8))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name / f"{stem}.png"), pixels)


class Cut(Exception):
    pass


def stop(progress):
    raise Cut


def test_masks_that_are_pictures_count_as_the_source(tmp_path):
    folder = masks(tmp_path / "source", 80)
    with pytest.raises(Cut):
        run(folder, tmp_path / "out", stop)
    (folder / "instance/000003_10.png").unlink()
    (folder / "image_2/000003_10.png").unlink()
    add(folder, "000100_10")
    with pytest.raises(RunError, match="source was"):
        run(folder, tmp_path / "out")


def test_a_photo_without_masks_counts_too(tmp_path):
    folder = masks(tmp_path / "source", 3)
    run(folder, tmp_path / "out")
    shutil.copy(folder / "image_2/000001_10.png", folder / "image_2/000001_11.png")
    with pytest.raises(RunError, match="source was"):
        run(folder, tmp_path / "out")


def test_files_that_the_format_does_not_read_do_not_count(tmp_path):
    made = inscribed.make_dataset(tmp_path / "made").parent
    run(made, made / "one")
    run(made, made / "two")
    (made / "notes.txt").write_text("on the way")
    assert run(made, made / "one").already
    assert run(made, made / "two").already


def test_the_hash_of_a_single_file_is_the_files_own(tmp_path):
    made = inscribed.make_dataset(tmp_path / "made")
    dataset = FORMATS["coco"].read(made.parent)
    assert source.digest(made.parent, dataset) == source.digest(made, FORMATS["coco"].read(made))


def test_a_part_of_other_annotations_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("autopoly.jobs.conversion.preparation.digest", lambda path, dataset: "whatever is there")
    made = inscribed.make_dataset(tmp_path / "made")
    with pytest.raises(Cut):
        run(made, tmp_path / "out", stop)
    inscribed.change(made, lambda document: [one.update(id=one["id"] + 10_000) for one in document["annotations"]])
    with pytest.raises(RunError, match="of another source"):
        run(made, tmp_path / "out")


def embedded(folder, paths, size=True):
    """Write Parquet rows with a picture and a box each; the pictures differ."""
    rows = []
    for number, path in enumerate(paths):
        data = cv2.imencode(".png", np.full((60, 80, 3), 60 + number, np.uint8))[1].tobytes()
        shape = {"width": 80, "height": 60} if size else {}
        rows.append({"image_id": number, **shape, "image": {"bytes": data, "path": path}, "objects": {"bbox": [[10.0, 10, 40, 30]]}})
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    return rows


def test_pictures_of_one_name_become_files_of_their_own(tmp_path):
    rows = embedded(tmp_path / "source", ["/home/a/1.png", "/home/b/1.png", "2.png"])
    summary = run(tmp_path / "source", tmp_path / "out", bbox_format="xywh", write_images=True)
    assert summary.exit_code == 0
    assert any("1 pictures have the name of an earlier one" in note for note in summary.notes)
    names = [one["file_name"] for one in json.loads((tmp_path / "out/annotations.json").read_text())["images"]]
    assert names == ["1.png", "1-1.png", "2.png"]
    for row, name in zip(rows, names, strict=True):
        assert (tmp_path / "out/images" / name).read_bytes() == row["image"]["bytes"]


def test_pictures_of_a_user_are_not_written_over(tmp_path):
    embedded(tmp_path / "source", ["mine.png"])
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out/images/mine.png").write_bytes(b"mine")
    with pytest.raises(RunError, match="not from a run of autopoly"):
        run(tmp_path / "source", tmp_path / "out", bbox_format="xywh", write_images=True)
    assert (tmp_path / "out/images/mine.png").read_bytes() == b"mine"
    assert run(tmp_path / "source", tmp_path / "out", bbox_format="xywh").exit_code == 0


def test_pictures_of_an_earlier_run_make_room(tmp_path):
    embedded(tmp_path / "source", ["a.png"])
    run(tmp_path / "source", tmp_path / "out", bbox_format="xywh", write_images=True)
    shutil.rmtree(tmp_path / "source")
    rows = embedded(tmp_path / "source", ["b.png", "a.png"])
    run(tmp_path / "source", tmp_path / "out", bbox_format="xywh", write_images=True, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/images").iterdir()} == {
        row["image"]["path"]: row["image"]["bytes"] for row in rows
    }


def test_pictures_of_an_earlier_run_go_with_it(tmp_path):
    embedded(tmp_path / "source", ["a.png"])
    ways = [{"write_images": True}, {"tolerance": 1.0}, {"write_images": True}]
    for way, names in zip(ways, (["a.png"], [], ["a.png"]), strict=True):
        summary = run(tmp_path / "source", tmp_path / "out", bbox_format="xywh", overwrite=True, **way)
        assert sorted(path.name for path in (tmp_path / "out/images").glob("*")) == names
        assert ("images" in summary.outputs) == bool(names)


def test_a_retry_keeps_the_sizes_that_are_known(tmp_path):
    rows = embedded(tmp_path / "source", ["a.png", "b.png"], size=False)
    rows[1]["image"]["bytes"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "source/data.parquet")
    assert run(tmp_path / "source", tmp_path / "out", bbox_format="xywh").exit_code == 1
    before = (tmp_path / "out/annotations.json").read_bytes()
    seen = []
    run(tmp_path / "source", tmp_path / "out", seen.append, bbox_format="xywh", retry_failures=True)
    assert (tmp_path / "out/annotations.json").read_bytes() == before
    assert json.loads(before)["images"][0]["width"] == 80
    assert seen[-1].boxes - seen[-1].boxes_before == 1


def test_an_unreadable_plan_is_no_obstacle_to_a_new_start(tmp_path):
    made = inscribed.make_dataset(tmp_path / "made")
    with pytest.raises(Cut):
        run(made, tmp_path / "out", stop)
    (tmp_path / "out/parts/plan.json").write_text("")
    with pytest.raises(RunError, match="--overwrite"):
        run(made, tmp_path / "out")
    assert run(made, tmp_path / "out", overwrite=True).exit_code == 0


def test_pictures_inside_a_source_are_read_for_the_network_alone(tmp_path, monkeypatch):
    count = 40
    data = cv2.imencode(".png", np.full((60, 90, 3), 90, np.uint8))[1].tobytes()
    columns = {
        "image": [{"bytes": data, "path": f"{number}.png"} for number in range(count)],
        "objects": [{"bbox": [[5.0, 5, 40, 40]], "segmentation": [[[5.0, 5, 40, 5, 40, 40]]]}] * count,
    }
    pq.write_table(pa.table(columns | {"width": [90] * count, "height": [60] * count}), tmp_path / "a.parquet")
    asked = []
    picture_of = parquet_table.Table.picture_of
    monkeypatch.setattr(parquet_table.Table, "picture_of", lambda table, row: asked.append(row) or picture_of(table, row))
    monkeypatch.setattr(job, "report_run", lambda *_: b"")
    options = ConvertOptions(tmp_path / "a.parquet", tmp_path / "out", workers=0, device="cpu", bbox_format="xyxy", to=("coco", "parquet"))
    summary = convert(options, None, inscribed.network())
    assert summary.counts["predicted"] == count and (tmp_path / "out/score.json").exists()
    assert len(asked) <= count + 3, "neither the results nor the score need pictures"
