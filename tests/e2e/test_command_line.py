"""The commands as a user meets them: what they print where, and the exit codes."""

import errno
import inspect
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from skimage import data

from autopoly import cli
from autopoly.cli import progress
from autopoly.jobs import convert as convert_job
from autopoly.jobs import train as train_job
from autopoly.jobs.conversion.options import ConvertOptions, Progress


@pytest.fixture
def autopoly(monkeypatch, capsys):
    """Run a command in this process; give its exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["autopoly", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def dataset(tmp_path):
    """Write a COCO folder with one photo and two boxes; give the folder."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "coffee.png"), data.coffee()[..., ::-1])
    write(folder, [[172, 18, 238, 290], [326, 66, 99, 260]])
    return folder


def write(folder, boxes):
    annotations = [{"id": 7 + at, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0} for at, box in enumerate(boxes)]
    images = [{"id": 1, "file_name": "coffee.png", "height": 400, "width": 600}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations.json").write_text(json.dumps(document))


def only_line(text):
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_convert_says_its_plan_and_progress_apart_from_its_summary(autopoly, dataset, tmp_path, untrained):
    arguments = ("convert", dataset, tmp_path / "out", "--checkpoint", untrained, "--device", "cpu", "--min-quality", "0")
    code, out, err = autopoly(*arguments)
    assert code == 0, err
    assert "source: coco, 1 image, 2 boxes" in err
    assert "2 of 2 boxes" in err
    assert "2 boxes" in out
    assert "annotations.json" in out
    made = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [one["id"] for one in made["annotations"]] == [7, 8]
    code, out, err = autopoly(*arguments, "--quiet")
    assert (code, err) == (0, "")
    assert "finished before" in out


def test_failures_give_exit_code_1_and_say_where_they_are(autopoly, dataset, tmp_path, untrained):
    write(dataset, [[172, 18, 238, 290], [326, 66, -3, 260]])
    code, out, _ = autopoly("convert", dataset, tmp_path / "out", "--checkpoint", untrained, "--device", "cpu", "--quiet")
    assert code == 1
    assert "failures: 1 " in out
    assert str(tmp_path / "out" / "failures.parquet") in out


def test_a_dry_run_says_the_plan_and_writes_nothing(autopoly, dataset, tmp_path, untrained):
    code, out, err = autopoly("convert", dataset, tmp_path / "out", "--checkpoint", untrained, "--device", "cpu", "--dry-run")
    assert (code, err) == (0, "")
    assert "2 boxes" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "DATA", "OUT", "--workers", "many"], ["--workers", "many"]),
        (["convert", "DATA", "OUT", "--workers", "-2"], ["--workers -2"]),
        (["convert", "nowhere.json", "OUT"], ["nowhere.json", "check SOURCE"]),
        (["convert", "two\nlines.json", "OUT"], ["two lines.json"]),
        (["convert", "DATA", "OUT", "--tolerance", "-1"], ["--tolerance"]),
        (["convert", "DATA", "OUT", "--tolerance", "nan"], ["--tolerance"]),
        (["convert", "DATA", "OUT", "--min-quality", "2"], ["--min-quality"]),
        (["convert", "DATA", "OUT", "--to", "svg"], ["--to svg", "coco"]),
        (["convert", "DATA", "OUT", "--from", "yolo9"], ["--from yolo9", "coco"]),
        (["convert", "DATA", "OUT", "--mode", "all"], ["--mode", "per-instance"]),
        (["convert", "DATA", "OUT", "--categories", "thinh"], ["thinh", "did you mean 'thing'"]),
        (["convert", "DATA"], ["OUT", "convert --help"]),
        (["convert", "DATA", "OUT", "--checkpoint", "no-such"], ["no-such"]),
        (["convart", "DATA"], ["convart"]),
        (["score", "DATA", "--no-such-option"], ["--no-such-option"]),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_code_2(autopoly, dataset, tmp_path, untrained, arguments, words):
    places = {"DATA": dataset, "OUT": tmp_path / "out"}
    given = [places.get(word, word) for word in arguments]
    if arguments[0] == "convert" and "--checkpoint" not in arguments:
        given += ["--checkpoint", untrained]
    code, out, err = autopoly(*given)
    assert (code, out) == (2, "")
    line = only_line(err)
    assert line.startswith("autopoly: ")
    assert [word for word in words if word not in line] == []
    assert not (tmp_path / "out").exists()


def test_an_interrupted_training_says_how_it_goes_on(autopoly, dataset, tmp_path, monkeypatch):
    def stop(options, tell, say):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_job, "run", stop)
    code, out, err = autopoly("train", "--train", dataset, "--out", tmp_path / "out")
    assert (code, out) == (130, "") and "--resume" in err and "the same command goes on" not in err


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/out/parts"), 2, "/data/out/parts: No space left"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/out"), 2, "/data/out: Permission denied"),
    ],
)
def test_an_interruption_or_a_refusal_of_the_machine_is_one_line(autopoly, dataset, tmp_path, untrained, monkeypatch, raised, code, words):
    def stop(options, progress=None, setup=None):
        raise raised

    monkeypatch.setattr(convert_job, "convert", stop)
    got, out, err = autopoly("convert", dataset, tmp_path / "out", "--checkpoint", untrained, "--quiet")
    assert (got, out) == (code, "")
    assert words in only_line(err)


def test_a_bug_keeps_its_traceback(dataset, tmp_path, untrained, monkeypatch):
    def fail(options, progress=None, setup=None):
        raise ZeroDivisionError

    monkeypatch.setattr(convert_job, "convert", fail)
    monkeypatch.setattr(sys, "argv", ["autopoly", "convert", str(dataset), str(tmp_path / "out"), "--quiet"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_the_defaults_of_the_command_are_those_of_the_job():
    given = {name: one.default for name, one in inspect.signature(cli.convert).parameters.items()}
    fields = {name: one.default for name, one in inspect.signature(ConvertOptions).parameters.items()}
    given["to"], given["categories"] = fields["to"], fields["categories"]  # lists that are empty until given
    beside = {"dry_run", "quiet"}
    assert {name for name in given if name not in fields} == beside
    assert {name for name in fields if name not in given} == {"shard_timeout"}
    assert {name: value for name, value in given.items() if name not in beside} == {
        name: fields[name] for name in given if name not in beside
    }


def test_a_closed_pipe_ends_a_command_without_complaint():
    ended = subprocess.run(
        f"{sys.executable} -m autopoly --help | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stderr == ""


def test_plain_progress_comes_every_few_seconds_and_at_the_end(monkeypatch):
    clock = iter([100.0, 101.0, 104.9, 105.1, 106.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = []
    tell = progress.plain(lines.append)
    for boxes in (64, 128, 192, 256, 1000):
        tell(Progress(boxes=boxes, boxes_total=1000, boxes_before=0, failures=2, seconds=boxes / 32))
    assert lines == [
        "64 of 1,000 boxes, 32.0 boxes/s, 29 s left, 2 failures",
        "256 of 1,000 boxes, 32.0 boxes/s, 23 s left, 2 failures",
        "1,000 of 1,000 boxes, 32.0 boxes/s, 0 s left, 2 failures",
    ]


def test_boxes_of_an_earlier_start_do_not_count_as_speed():
    assert progress.rate(Progress(boxes=150, boxes_total=200, boxes_before=100, failures=0, seconds=5.0)) == 10.0


def test_the_bar_shows_boxes_speed_and_failures(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.shown(quiet=False) as tell:
        tell(Progress(boxes=64, boxes_total=128, boxes_before=0, failures=3, seconds=2.0))
    shown = capsys.readouterr().err
    assert "32.0/s" in shown
    assert "3 failures" in shown
    assert np.char.count(shown, "64/128") >= 1
