"""The conversion in this process: what comes back, what is counted, what is refused, how it goes on."""

import json
import shutil
from pathlib import Path

import inscribed
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autopoly.errors import AutopolyError, DataError, RecipeError, RunError
from autopoly.execute import local, parts
from autopoly.jobs.convert import ConvertOptions, convert, plan


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return inscribed.make_dataset(tmp_path_factory.mktemp("made"))


@pytest.fixture
def dataset(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "data")
    return tmp_path / "data" / "annotations.json"


def run(dataset, out, pause=0.0, network=None, **options):
    asked = ConvertOptions(source=dataset, out=out, workers=0, device="cpu", score=False, **options)
    return convert(asked, network=network or inscribed.network(pause))


def read(path):
    return json.loads(Path(path).read_text())


def failures(out):
    return pq.read_table(out / "failures.parquet").to_pylist()


def files(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name not in ("run.json", "images")}


def test_every_annotation_comes_back_in_order_with_its_own_fields(made, tmp_path):
    summary = run(made, tmp_path / "out")
    before, after = read(made)["annotations"], read(tmp_path / "out/annotations.json")["annotations"]
    assert len(before) == 170
    for one, other in zip(before, after, strict=True):
        assert {key: other[key] for key in ("id", "image_id", "category_id", "bbox", "iscrowd", "colour")} == {
            key: one[key] for key in ("id", "image_id", "category_id", "bbox", "iscrowd", "colour")
        }
        assert other["mask_source"] == "predicted"
        x, y, _, h = one["bbox"]
        ring = other["segmentation"][0]
        assert min(ring[::2]) == pytest.approx(x, abs=0.01)
        assert max(ring[1::2]) == pytest.approx(y + h, abs=0.01)
        assert 0 < other["quality"] < 1
    assert [one["camera"] for one in read(tmp_path / "out/annotations.json")["images"]] == [k % 3 for k in range(40)]
    assert summary.exit_code == 0
    assert summary.counts["predicted"] == 170
    assert failures(tmp_path / "out") == []


def test_a_finished_folder_holds_its_results_and_nothing_else(made, tmp_path):
    summary = run(made, tmp_path / "out", to=("coco", "parquet"))
    names = ["annotations.json", "annotations.parquet", "failures.parquet", "report.html", "run.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert list(summary.outputs) == names
    record = read(tmp_path / "out/run.json")
    assert record["counts"]["boxes"] == 170
    assert record["checkpoint"]["hash"] == "inscribed-1"
    assert record["boxes_per_second"] > 0


def test_the_same_command_again_does_nothing_and_says_so(made, tmp_path):
    first = run(made, tmp_path / "out")
    stamp = (tmp_path / "out/annotations.json").stat().st_mtime_ns
    again = run(made, tmp_path / "out")
    assert (first.already, again.already) == (False, True)
    assert (tmp_path / "out/annotations.json").stat().st_mtime_ns == stamp
    assert again.counts == first.counts


def test_other_options_are_refused_with_the_reason_until_overwrite(made, tmp_path):
    run(made, tmp_path / "out", to=("coco", "parquet"))
    with pytest.raises(RunError, match=r"tolerance was 0.5, now 2.0.*--overwrite"):
        run(made, tmp_path / "out", to=("coco", "parquet"), tolerance=2.0)
    with pytest.raises(RunError, match="checkpoint was"):
        run(made, tmp_path / "out", to=("coco", "parquet"), network=inscribed.network(fingerprint="other"))
    run(made, tmp_path / "out", tolerance=2.0, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["annotations.json", "failures.parquet", "report.html", "run.json"]


def test_a_changed_source_is_refused(dataset, tmp_path):
    run(dataset, tmp_path / "out")
    inscribed.change(dataset, lambda document: document["annotations"].pop())
    with pytest.raises(RunError, match="source was"):
        run(dataset, tmp_path / "out")


def test_the_source_and_foreign_files_are_never_overwritten(dataset, tmp_path):
    before = dataset.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="would overwrite the source"):
            run(dataset, dataset.parent, overwrite=overwrite)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/annotations.json").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="not from a run of autopoly"):
            run(dataset, tmp_path / "mine", overwrite=overwrite)
    with pytest.raises(RunError, match="is a file"):
        run(dataset, dataset)
    assert dataset.read_bytes() == before
    assert (tmp_path / "mine/annotations.json").read_text() == "mine"


def test_nothing_is_lost_when_pictures_and_boxes_are_bad(dataset, tmp_path):
    document = read(dataset)
    absent, cut = document["images"][1], document["images"][2]
    (dataset.parent / "images" / absent["file_name"]).unlink()
    (dataset.parent / "images" / cut["file_name"]).write_bytes((dataset.parent / "images" / cut["file_name"]).read_bytes()[:200])
    good = [one for one in document["annotations"] if one["image_id"] not in (absent["id"], cut["id"])]
    flat, away, crowd, partly = good[0]["id"], good[1]["id"], good[2]["id"], good[3]["id"]

    def edit(document):
        by_id = {one["id"]: one for one in document["annotations"]}
        by_id[flat]["bbox"] = [4.0, 4.0, -3.0, 5.0]
        by_id[away]["bbox"] = [400.0, 4.0, 10.0, 5.0]
        by_id[crowd] |= {"iscrowd": 1, "segmentation": {"size": [96, 96], "counts": [0, 9216]}}
        by_id[partly]["bbox"] = [-5.0, 4.0, 20.0, 20.0]

    inscribed.change(dataset, edit)
    summary = run(dataset, tmp_path / "out")
    rows = failures(tmp_path / "out")
    after = {one["id"]: one for one in read(tmp_path / "out/annotations.json")["annotations"]}
    lost = {str(one["id"]) for one in document["annotations"] if one["image_id"] in (absent["id"], cut["id"])}
    expected = lost | {str(flat), str(away), str(partly)}
    assert {row["annotation_id"] for row in rows} == expected
    assert len(rows) == len(expected) == sum(summary.failures.values())
    assert {key for key in after if after[key].get("mask_source") == "none"} == {int(key) for key in expected}
    assert all(after[int(key)]["segmentation"] == [] for key in expected)
    assert after[flat]["bbox"] == [4.0, 4.0, -3.0, 5.0]
    assert after[crowd]["segmentation"] == {"size": [96, 96], "counts": [0, 9216]}
    assert summary.failures["no_polygon"] == 1
    assert summary.counts["skipped_crowd"] == 1
    assert summary.counts["predicted"] == len(after) - len(expected) - 1
    assert summary.exit_code == 1
    assert {row["stage"] for row in rows} == {"read", "image", "predict"}
    assert all(row["message"] and "\n" not in row["message"] and row["file"] for row in rows)


def test_strict_stops_at_the_first_bad_item_and_the_run_can_go_on_without(dataset, tmp_path):
    inscribed.change(dataset, lambda document: document["annotations"][5].update(bbox=[4.0, 4.0, 0.0, 5.0]))
    with pytest.raises(DataError, match=r"annotation 1005 \(image \d+\): .*--strict stops here"):
        run(dataset, tmp_path / "out", strict=True)
    assert not (tmp_path / "out/annotations.json").exists()
    assert run(dataset, tmp_path / "out").counts["predicted"] == 169


def test_a_run_cut_short_goes_on_and_ends_with_the_same_bytes(made, tmp_path):
    run(made, tmp_path / "whole")

    class Cut(Exception):
        pass

    def stop(progress):
        raise Cut

    asked = ConvertOptions(source=made, out=tmp_path / "cut", workers=0, device="cpu", score=False)
    with pytest.raises(Cut):
        convert(asked, stop, inscribed.network())
    kept = sorted((tmp_path / "cut/parts").glob("*.parquet"))
    assert 1 <= len(kept) <= local.LANES
    assert not (tmp_path / "cut/annotations.json").exists()
    assert plan(asked, inscribed.network()).shards_left == plan(asked, inscribed.network()).shards - len(kept)
    with pytest.raises(RunError, match="unfinished run with other input or options"):
        run(made, tmp_path / "cut", min_quality=0.5)
    seen = []
    convert(asked, seen.append, inscribed.network())
    assert seen[-1].boxes == seen[-1].boxes_total == 170
    assert seen[0].boxes_before > 0
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_damaged_part_is_named(made, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    asked = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu", score=False)
    with pytest.raises(KeyboardInterrupt):
        convert(asked, stop, inscribed.network())
    part = next((tmp_path / "out/parts").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(RunError, match=r"damaged part.*delete it"):
        run(made, tmp_path / "out")
    part.unlink()
    assert run(made, tmp_path / "out").exit_code == 0


def test_retry_runs_the_failed_rows_alone(dataset, tmp_path):
    picture = dataset.parent / "images" / read(dataset)["images"][8]["file_name"]
    run(dataset, tmp_path / "whole", to=("coco", "parquet"))
    picture.rename(tmp_path / "away.png")
    first = run(dataset, tmp_path / "out", to=("coco", "parquet"))
    assert sum(first.failures.values()) == 5
    (tmp_path / "away.png").rename(picture)
    assert run(dataset, tmp_path / "out", to=("coco", "parquet")).already

    seen = []
    asked = ConvertOptions(
        source=dataset, out=tmp_path / "out", workers=0, device="cpu", score=False, retry_failures=True, to=("coco", "parquet")
    )
    again = convert(asked, seen.append, inscribed.network())
    assert len(seen) == 1
    assert again.exit_code == 0
    assert again.counts["predicted"] == 170
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert convert(asked, seen.append, inscribed.network()).already


def test_retry_of_what_fails_again_changes_nothing(dataset, tmp_path):
    inscribed.change(dataset, lambda document: document["annotations"][5].update(bbox=[4.0, 4.0, 0.0, 5.0]))
    run(dataset, tmp_path / "out")
    before = files(tmp_path / "out")
    assert run(dataset, tmp_path / "out", retry_failures=True).exit_code == 1
    assert files(tmp_path / "out") == before


def test_retry_needs_a_finished_run(made, tmp_path):
    with pytest.raises(RunError, match="needs a finished run"):
        run(made, tmp_path / "out", retry_failures=True)
    assert not (tmp_path / "out").exists()


def test_existing_masks_are_kept_when_asked(made, tmp_path):
    summary = run(made, tmp_path / "out", existing="keep")
    before, after = read(made)["annotations"], read(tmp_path / "out/annotations.json")["annotations"]
    with_mask = [one for one in before if "segmentation" in one]
    assert summary.counts["kept"] == len(with_mask) > 10
    for one, other in zip(before, after, strict=True):
        assert other["mask_source"] == ("kept" if "segmentation" in one else "predicted")
        assert "segmentation" not in one or other["segmentation"] == one["segmentation"]


def test_the_mask_of_the_source_does_not_change_the_result(dataset, tmp_path):
    run(dataset, tmp_path / "with")
    inscribed.change(dataset, lambda document: [one.pop("segmentation", None) for one in document["annotations"]])
    run(dataset, tmp_path / "without")
    first, second = (read(tmp_path / name / "annotations.json")["annotations"] for name in ("with", "without"))
    assert [one["segmentation"] for one in first] == [one["segmentation"] for one in second]


def test_low_quality_keeps_the_box_and_says_so(made, tmp_path):
    summary = run(made, tmp_path / "out", min_quality=0.4)
    after = read(tmp_path / "out/annotations.json")["annotations"]
    low = [one for one in after if one["segmentation"] == []]
    assert 0 < len(low) < 170
    assert summary.failures == {}
    assert (summary.exit_code, summary.counts["below_min_quality"], summary.counts["none"]) == (0, len(low), 0)
    assert failures(tmp_path / "out") == []
    assert all(one["quality"] < 0.4 and one["mask_source"] == "none" for one in low)
    assert all(one["quality"] >= 0.4 for one in after if one["segmentation"])


def test_categories_and_limit_choose(made, tmp_path):
    document = read(made)
    cats = [one["id"] for one in document["annotations"] if one["category_id"] == 7]
    summary = run(made, tmp_path / "cats", categories=("cat",))
    assert [one["id"] for one in read(tmp_path / "cats/annotations.json")["annotations"]] == cats
    assert summary.counts["left_out_categories"] == 170 - len(cats)
    assert len(read(tmp_path / "cats/annotations.json")["images"]) == 40
    run(made, tmp_path / "id", categories=("7",))
    assert (tmp_path / "id/annotations.json").read_bytes() == (tmp_path / "cats/annotations.json").read_bytes()
    with pytest.raises(DataError, match="did you mean 'cup'"):
        run(made, tmp_path / "cups", categories=("cups",))

    run(made, tmp_path / "few", limit=3)
    few = read(tmp_path / "few/annotations.json")
    assert [one["id"] for one in few["images"]] == [100, 101, 102]
    assert {one["image_id"] for one in few["annotations"]} == {101, 102}


def test_components_of_a_field_are_run_one_by_one_and_joined(dataset, tmp_path):
    inscribed.change(dataset, lambda document: document["annotations"][0].update(component_boxes=[[2, 2, 10, 10], [50, 50, 20, 30]]))
    inscribed.change(dataset, lambda document: document["annotations"][1].update(component_boxes=[[2, 2, "wide", 10]]))
    summary = run(dataset, tmp_path / "out", mode="per-component")
    first, second, *others = read(tmp_path / "out/annotations.json")["annotations"]
    assert len(first["segmentation"]) == 2
    assert first["component_boxes"] == [[2, 2, 10, 10], [50, 50, 20, 30]]
    assert second["segmentation"] == []
    assert summary.failures == {"bad_component_boxes": 1}
    assert {len(one["segmentation"]) for one in others} == {1}


def test_components_of_the_truth_are_stamped(dataset, tmp_path):
    two = [[2, 2, 12, 2, 12, 12, 2, 12], [50, 50, 70, 50, 70, 80, 50, 80]]
    inscribed.change(dataset, lambda document: document["annotations"][0].update(segmentation=two, bbox=[2, 2, 68, 78]))
    run(dataset, tmp_path / "out", mode="per-component", components_from_truth=True)
    rings = read(tmp_path / "out/annotations.json")["annotations"][0]["segmentation"]
    spans = sorted((min(ring[::2]), max(ring[::2]), max(ring[1::2])) for ring in rings)
    assert spans == [pytest.approx((2, 12, 12), abs=0.01), pytest.approx((50, 70, 80), abs=0.2)]
    assert read(tmp_path / "out/run.json")["truth_boxes"] is True


def test_a_plan_says_what_will_happen_and_writes_nothing(made, tmp_path):
    asked = ConvertOptions(source=made, out=tmp_path / "out", device="cpu")
    said = plan(asked, inscribed.network())
    assert (said.state, said.format, said.images, said.boxes, said.workers) == ("new", "coco", 40, 170, 0)
    assert said.shards == said.shards_left == 3
    assert said.seconds > 0
    assert said.bytes > 0
    assert not (tmp_path / "out").exists()


def test_a_second_driver_is_refused(made, tmp_path):
    with parts.lock(tmp_path / "out"), pytest.raises(RunError, match="is running in this folder"):
        run(made, tmp_path / "out")


def test_a_dataset_without_images_is_a_finished_run(tmp_path):
    source = tmp_path / "annotations.json"
    source.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    (tmp_path / "images").mkdir()
    assert run(source, tmp_path / "out").exit_code == 0
    assert read(tmp_path / "out/annotations.json")["annotations"] == []
    assert failures(tmp_path / "out") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "per-pixel"},
        {"existing": "drop"},
        {"to": ()},
        {"to": ("coco", "coco")},
        {"to": ("kitti",)},
        {"tolerance": -1.0},
        {"tolerance": float("nan")},
        {"min_quality": 1.5},
        {"limit": 0},
        {"components_from_truth": True},
        {"retry_failures": True, "overwrite": True},
        {"address": "auto"},
        {"from_format": "yolo"},
        {"images": Path("/nowhere")},
    ],
)
def test_wrong_options_are_one_line(made, tmp_path, wrong):
    with pytest.raises((RecipeError, DataError)) as caught:
        run(made, tmp_path / "out", **wrong)
    assert isinstance(caught.value, AutopolyError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_address_loses_its_credentials_in_what_is_written(made, tmp_path):
    from autopoly.jobs.conversion.options import as_json

    asked = ConvertOptions(source=made, out=tmp_path, address="ray://user:secret@host:10001?token=abc")
    assert as_json(asked)["address"] == "ray://host:10001"


def test_pictures_inside_a_parquet_source_are_written_when_asked(made, tmp_path):
    document = read(made)
    rows = []
    for image in document["images"][:9]:
        own = [one for one in document["annotations"] if one["image_id"] == image["id"]]
        objects = {"bbox": [one["bbox"] for one in own], "category": [one["category_id"] for one in own], "id": [one["id"] for one in own]}
        data = (made.parent / "images" / image["file_name"]).read_bytes()
        rows.append({"image_id": image["id"], "image": {"bytes": data, "path": image["file_name"]}, "objects": objects})
    (tmp_path / "source").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "source/data.parquet")
    without = run(tmp_path / "source", tmp_path / "without", bbox_format="xywh")
    assert any("--write-images" in note for note in without.notes)
    assert without.counts["predicted"] == without.counts["boxes"] == sum(len(row["objects"]["id"]) for row in rows)
    summary = run(tmp_path / "source", tmp_path / "with", bbox_format="xywh", write_images=True)
    assert not any("--write-images" in note for note in summary.notes)
    assert "images" in summary.outputs
    names = [one["file_name"] for one in read(tmp_path / "with/annotations.json")["images"]]
    for row, name in zip(rows, names, strict=True):
        assert (tmp_path / "with/images" / name).read_bytes() == row["image"]["bytes"]
    again = run(tmp_path / "with/annotations.json", tmp_path / "again")
    assert again.exit_code == 0
    with pytest.raises(RecipeError, match="inside the Parquet source"):
        run(tmp_path / "source", tmp_path / "source/out")


def test_retry_of_a_parquet_result(dataset, tmp_path):
    picture = dataset.parent / "images" / read(dataset)["images"][8]["file_name"]
    run(dataset, tmp_path / "whole", to=("parquet",))
    picture.rename(tmp_path / "away.png")
    assert run(dataset, tmp_path / "out", to=("parquet",)).exit_code == 1
    (tmp_path / "away.png").rename(picture)
    assert run(dataset, tmp_path / "out", to=("parquet",), retry_failures=True).exit_code == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")
