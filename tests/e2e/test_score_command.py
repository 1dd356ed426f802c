"""``autopoly score`` as a user meets it: the table, the JSON file, run folders, several predictions, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import inscribed
import pytest

from autopoly.cli import main
from autopoly.errors import DataError, RunError
from autopoly.jobs.convert import ConvertOptions, convert, set_up
from autopoly.jobs.score import score_run
from autopoly.jobs.source import Source

KEYS = {"schema", "convention", "n", "missing", "miou", "miou_instances", "map", "map_constant", "pass_rate", "f_1px", "f_2px"}
KEYS |= {"vertices_mean", "quality_spearman", "ci95", "per_category", "by_size"}


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def write(path: Path, shift: float, **fields: Any) -> Path:
    """Write four images with three squares each, moved by ``shift`` px."""
    annotations = []
    for n in range(12):
        side = (20, 40, 60)[n % 3]
        common = {"id": n, "image_id": f"im{n // 3}", "category_id": n % 2 + 1, "bbox": [10, 10, side, side], "iscrowd": 0, "area": side**2}
        annotations.append({**common, "segmentation": square(10 + shift, 10, side), **fields})
    images = [{"id": f"im{n}", "file_name": f"{n}.png", "height": 100, "width": 120} for n in range(4)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["autopoly", "score", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def test_the_table_and_the_json_have_the_keys_of_the_contract(tmp_path: Path, command: Any) -> None:
    truth, prediction = write(tmp_path / "truth.json", 0), write(tmp_path / "made.json", 4, quality=0.5)
    code, out, _ = command(prediction, truth, "--json", tmp_path / "score.json", "--min-side", 32)
    found = json.loads((tmp_path / "score.json").read_text())
    assert code == 0
    assert found.keys() >= KEYS
    assert (found["n"], found["missing"], found["all"]["n"], found["vertices_mean"]) == (8, 0, 12, 4.0)
    # 40 and 60 px, shifted by 4: a mean of 36/44 and 56/64 in each category.
    assert found["miou"] == pytest.approx((36 / 44 + 56 / 64) / 2, abs=1e-6)
    assert f"{100 * found['miou']:.2f}" in out
    for word in ("pycocotools", "DAVIS", "box shorter side >= 32 px", "annotation id", "full image"):
        assert word in out


def test_a_run_folder_is_scored_by_its_annotations_and_says_when_boxes_came_from_truth(tmp_path: Path, command: Any) -> None:
    truth, folder = write(tmp_path / "truth.json", 0), tmp_path / "run"
    folder.mkdir()
    write(folder / "annotations.json", 0)
    (folder / "run.json").write_text(json.dumps({"truth_boxes": True}))
    assert command(folder, truth, "--json", tmp_path / "score.json")[0] == 0
    found = json.loads((tmp_path / "score.json").read_text())
    assert (found["miou"], found["convention"]["truth_boxes"]) == (1.0, True)
    (folder / "annotations.json").unlink()
    code, _, err = command(folder, truth)
    assert code == 2
    assert err.count("\n") == 1
    assert "finish the run" in err


def test_several_predictions_stand_side_by_side_with_deltas(tmp_path: Path, command: Any) -> None:
    truth = write(tmp_path / "truth.json", 0)
    paths = [write(tmp_path / f"{shift}.json", shift) for shift in (2, 4, 0)]
    code, out, _ = command(*paths, truth, "--json", tmp_path / "score.json")
    found = json.loads((tmp_path / "score.json").read_text())
    assert code == 0
    assert [Path(one["prediction"]).name for one in found["predictions"]] == ["2.json", "4.json", "0.json"]
    assert [one["worse"] for one in found["deltas"]] == [12, 0]
    assert [one["better"] for one in found["deltas"]] == [0, 12]
    low, high = found["deltas"][0]["miou"]["ci95"]
    assert low <= found["deltas"][0]["miou"]["delta"] <= high < 0
    assert len(found["deltas"][0]["worst"]) == 12
    assert "4.json - first" in out


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["truth.json"], "PREDICTION... TRUTH"),
        (["nothing.json", "truth.json"], "no such file"),
        (["truth.json", "boxes.json"], "boxes.json: no instance has a mask"),
        (["truth.json", "truth.json", "--json", "nowhere/score.json"], "folder does not exist"),
        (["truth.json", "truth.json", "--min-side", "5000"], "--min-side"),
        (["truth.json", "truth.json", "--min-side", "-1"], "--min-side"),
        (["truth.json", "truth.json", "--match", "name"], "--match"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any, arguments: list[str], said: str
) -> None:
    write(tmp_path / "truth.json", 0)
    write(tmp_path / "boxes.json", 0, segmentation=[])
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


def test_a_folder_in_the_place_of_a_result_is_refused_before_anything_is_measured(tmp_path: Path, command: Any) -> None:
    truth = write(tmp_path / "truth.json", 0)
    (tmp_path / "there").mkdir()
    for option in ("--json", "--html"):
        code, out, error = command(truth, truth, option, tmp_path / "there")
        assert (code, out) == (2, "")
        assert error == f"autopoly: {tmp_path / 'there'}: is a folder; give {option} a file\n"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_name_in_brackets_is_shown_as_it_is(tmp_path: Path, command: Any) -> None:
    truth = write(tmp_path / "truth.json", 0)
    code, out, _ = command(write(tmp_path / "run[red]x.json", 1), truth)
    assert code == 0
    assert "run[red]x.json" in out


def test_a_conversion_is_scored_over_what_it_converted(tmp_path: Path) -> None:
    truth, staged = write(tmp_path / "truth.json", 0), tmp_path / "staged"
    staged.mkdir()
    shutil.copy(write(tmp_path / "made.json", 4), staged / "annotations.json")
    options = ConvertOptions(truth, tmp_path / "out", categories=("cat",), limit=2, mode="per-component", components_from_truth=True)
    made = Source(staged / "annotations.json", "coco", tmp_path).open()
    found = score_run(made, set_up(options, inscribed.network()), options)[0]
    assert (found["n"], found["images"], found["convention"]["truth_boxes"]) == (3, 2, True)
    assert found["categories_without_instances"] == ["dog"]
    assert found["per_component"]["n"] == 3
    assert str(tmp_path) not in json.dumps(found)


def test_a_conversion_that_cannot_be_scored_keeps_its_polygons(tmp_path: Path) -> None:
    """Not one that was not asked for, nor one that was: that is an error when all else is done, and stays one."""
    made = inscribed.make_dataset(tmp_path / "made")
    inscribed.change(made, lambda document: [one.pop("segmentation", None) for one in document["annotations"]])
    without = {"source": made, "workers": 0, "device": "cpu"}
    summary = convert(ConvertOptions(out=tmp_path / "quiet", **without), network=inscribed.network())
    assert "score.json" not in summary.outputs
    assert not any("scored" in note for note in summary.notes)
    asked = ConvertOptions(out=tmp_path / "asked", score=True, **without)
    for _ in range(2):
        with pytest.raises(DataError, match=r"its polygons are there, but there is no score: not scored: .*--score needs masks"):
            convert(asked, network=inscribed.network())
        assert json.loads((tmp_path / "asked/annotations.json").read_text())["annotations"][0]["segmentation"]


def test_masks_that_cannot_be_measured_do_not_cost_the_result(tmp_path: Path) -> None:
    """The pictures are not there and the source has no sizes: every mask is known, none can be drawn."""
    made = inscribed.make_dataset(tmp_path / "made")

    def forget(document: dict[str, Any]) -> None:
        for image in document["images"]:
            image.pop("width"), image.pop("height")
            image["file_name"] = "gone-" + image["file_name"]
        for one in document["annotations"]:
            x, y, width, height = one["bbox"]
            one["segmentation"] = [[x, y, x + width, y, x + width, y + height]]

    inscribed.change(made, forget)
    summary = convert(ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu"), network=inscribed.network())
    assert summary.exit_code == 1
    assert set(summary.failures) == {"image_missing"}
    assert any("not scored: annotations.json: no instance has a mask to score against (" in note for note in summary.notes)


def test_a_score_that_a_finished_run_lacks_is_not_passed_over(tmp_path: Path) -> None:
    made = inscribed.make_dataset(tmp_path / "made")
    options = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu", score=False)
    convert(options, network=inscribed.network())
    with pytest.raises(DataError, match="made without --score"):
        convert(replace(options, score=True), network=inscribed.network())


@pytest.mark.parametrize("changes", [{}, {"overwrite": True}])
def test_polygons_are_there_before_they_are_scored_and_a_start_goes_on_with_the_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    made = inscribed.make_dataset(tmp_path / "made")
    options = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu", **changes)
    convert(replace(options, out=tmp_path / "whole"), network=inscribed.network())
    with monkeypatch.context() as patched:
        patched.setattr("autopoly.jobs.convert.score_run", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(options, network=inscribed.network())
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["annotations.json", "failures.parquet", "run.json"]
    stamp = (out / "annotations.json").stat().st_mtime_ns
    again = convert(options, network=replace(inscribed.network(), load=stop))
    assert (again.already, again.counts["predicted"]) == (False, 170)
    assert (out / "annotations.json").stat().st_mtime_ns == stamp
    for name in ("annotations.json", "score.json", "report.html"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    told, whole = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("out", "whole"))
    assert (told["outputs"], told["notes"], told["truths"]) == (whole["outputs"], whole["notes"], whole["truths"])
    assert convert(replace(options, overwrite=False), network=inscribed.network()).already


def test_polygons_that_are_gone_before_they_are_scored_are_made_again_by_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ConvertOptions(source=inscribed.make_dataset(tmp_path / "made"), out=tmp_path / "out", workers=0, device="cpu")
    with monkeypatch.context() as patched:
        patched.setattr("autopoly.jobs.convert.score_run", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(options, network=inscribed.network())
    (tmp_path / "out/annotations.json").unlink()
    with pytest.raises(RunError, match=r"annotations.json is missing; use --overwrite"):
        convert(options, network=inscribed.network())
    assert "score.json" in convert(replace(options, overwrite=True), network=inscribed.network()).outputs


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_too_little_memory_for_a_score_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("autopoly.jobs.convert.score_run", burst)
    options = ConvertOptions(source=inscribed.make_dataset(tmp_path / "made"), out=tmp_path / "out", workers=0, device="cpu")
    summary = convert(options, network=inscribed.network())
    assert any("not scored: this machine has too little memory" in note for note in summary.notes)
    assert "report.html" in summary.outputs and "score.json" not in summary.outputs
