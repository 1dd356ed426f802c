"""A conversion that the machine or its user cuts off, at every single thing it does to its folder: nothing lost, nothing half left behind.

The same command again must end with the bytes of a run that nothing disturbed. What Ray's processes do when they die: test_chaos_ray.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import cv2
import faults
import inscribed
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drivers import environment, files, leftovers

from autopoly import cli
from autopoly.execute import parts, shards
from autopoly.jobs.convert import ConvertOptions, convert

BOXES = 12
BOTH = ["coco", "parquet"]


class Stable:
    """The program of :mod:`faults`: a fresh process for every conversion."""

    def __init__(self, *command):
        python = [sys.executable, faults.__file__]
        self.process = subprocess.Popen([*command, *python], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)

    def convert(self, source, out, at=0, how="count", network=None, before=(), after=(), **options):
        """Run one conversion with a fault; give how it ended, without anything that is not one line of ours."""
        order = {"source": str(source), "out": str(out), "at": at, "how": how, "boxes": BOXES, "network": network or {}}
        self.process.stdin.write(json.dumps(order | {"before": before, "after": after, "options": {"score": False} | options}) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        if said["status"] == 0:
            assert said["error"] in (None, "RunError"), said
            assert "\n" not in said["line"]
            assert "report this bug" not in said["line"]
        return said

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def stable():
    stable = Stable()
    yield stable
    stable.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return inscribed.make_dataset(tmp_path_factory.mktemp("made"), images=8)


def disturb(stable, source, begun, out, at, how, **options):
    """Fail at point ``at`` in a copy of the folder ``begun`` (None: a new one), then give the same command again; give what is left."""
    if begun is not None:
        shutil.copytree(begun, out)
    said = stable.convert(source, out, at, how, **options)
    if how == "full":
        assert said["error"] == "RunError", said
        assert "No space left on device" in said["line"]
        assert "make room" in said["line"] or "choose another folder" in said["line"]
        assert not out.exists() or leftovers(out) == []
    else:
        assert said["status"] == -signal.SIGKILL
    again = stable.convert(source, out, **options)
    assert again["error"] is None, again
    left = files(out)
    shutil.rmtree(out)
    return left


def undisturbed(stable, source, begun, out, **options):
    """Run as :func:`disturb` without a fault; give the points that the run passes, and its files."""
    if begun is not None:
        shutil.copytree(begun, out)
    said = stable.convert(source, out, **options)
    assert said["error"] is None, said
    return said["seen"], files(out)


def first(points, *words):
    return next(number for number, point in enumerate(points, 1) if all(word in point for word in words))


def test_a_full_disk_or_a_sudden_death_costs_nothing(stable, made, tmp_path):
    points, whole = undisturbed(stable, made, None, tmp_path / "whole", to=BOTH)
    assert sum("rename parts/0" in point and ".parquet" in point for point in points) == 3
    for at, how in (
        (first(points, "rename parts/plan.json"), "kill"),
        (first(points, "write", ".inhand"), "full"),
        (first(points, "write parts/.00001", ".parquet"), "torn"),
        (first(points, "write", "annotations.json", ".spool"), "full"),
        (first(points, "rename annotations.parquet"), "kill"),
        (first(points, "rename annotations.parquet"), "full"),
        (first(points, "rename run.json"), "kill"),
    ):
        assert disturb(stable, made, None, tmp_path / "out", at, how, to=BOTH) == whole, points[at - 1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_death_over_the_score_costs_no_polygon(stable, made, tmp_path, overwrite):
    points, whole = undisturbed(stable, made, None, tmp_path / "whole", to=BOTH, score=True, overwrite=overwrite)
    assert "score.json" in whole
    published = first(points, "rename run.json") + 1
    for at, how in (
        (published, "kill"),
        (published + first(points[published:], "write", "report.html"), "full"),
        (published + first(points[published:], "rename score.json"), "kill"),
        (published + first(points[published:], "rename run.json"), "kill"),
    ):
        assert disturb(stable, made, None, tmp_path / "out", at, how, to=BOTH, score=True, overwrite=overwrite) == whole, points[at - 1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "kill", "torn"])
def test_at_every_point_of_a_new_run(stable, made, tmp_path, how):
    points, whole = undisturbed(stable, made, None, tmp_path / "whole", to=BOTH)
    # The hooks miss nothing: every file that the run leaves, and every part and note, has passed them.
    for word in (*whole, "plan.json", "run.json", "00002-", ".inhand", ".autopoly.lock"):
        assert any(word in point for point in points), word
    for at in range(1, len(points) + 1):
        if how == "full" and points[at - 1] == "write .autopoly.lock":
            continue  # The name of the holder is a courtesy; with a full disk the run ends at its next step.
        assert disturb(stable, made, None, tmp_path / "out", at, how, to=BOTH) == whole, points[at - 1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "kill"])
def test_at_every_point_of_a_run_that_replaces_another(stable, made, tmp_path, how):
    undisturbed(stable, made, None, tmp_path / "begun", to=BOTH, tolerance=2.0)
    points, whole = undisturbed(stable, made, tmp_path / "begun", tmp_path / "whole", overwrite=True)
    assert "annotations.parquet" not in whole
    for at in range(1, len(points) + 1):
        if points[at - 1] == "write .autopoly.lock":
            continue
        assert disturb(stable, made, tmp_path / "begun", tmp_path / "out", at, how, overwrite=True) == whole, points[at - 1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "kill"])
def test_at_every_point_of_a_retry(stable, tmp_path, how):
    made = inscribed.make_dataset(tmp_path / "data", images=8)
    _, whole = undisturbed(stable, made, None, tmp_path / "whole", to=BOTH)
    picture = made.parent / "images/0003.png"
    picture.rename(tmp_path / "away.png")
    undisturbed(stable, made, None, tmp_path / "begun", to=BOTH)
    (tmp_path / "away.png").rename(picture)
    points, retried = undisturbed(stable, made, tmp_path / "begun", tmp_path / "retried", to=BOTH, retry_failures=True)
    assert retried == whole
    for at in range(1, len(points) + 1):
        if points[at - 1] == "write .autopoly.lock":
            continue
        assert disturb(stable, made, tmp_path / "begun", tmp_path / "out", at, how, to=BOTH, retry_failures=True) == whole, points[at - 1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "torn"])
def test_at_every_point_where_pictures_are_written(stable, made, tmp_path, how):
    document = json.loads(made.read_text())
    rows = []
    for image in document["images"]:
        own = [one for one in document["annotations"] if one["image_id"] == image["id"]]
        objects = {"bbox": [one["bbox"] for one in own], "category": [one["category_id"] for one in own], "id": [one["id"] for one in own]}
        data = (made.parent / "images" / image["file_name"]).read_bytes()
        rows.append({"image_id": image["id"], "image": {"bytes": data, "path": image["file_name"]}, "objects": objects})
    (tmp_path / "source").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "source/data.parquet")
    options = {"bbox_format": "xywh", "write_images": True}
    points, whole = undisturbed(stable, tmp_path / "source", None, tmp_path / "whole", **options)
    pictures = [number for number, point in enumerate(points, 1) if "images" in point or ".png" in point]
    assert len(pictures) == 4 * 8  # its folder, opened, written, put in place
    for at in pictures:
        assert disturb(stable, tmp_path / "source", None, tmp_path / "out", at, how, **options) == whole, points[at - 1]


def namespace():
    """Give the words before a command that let it mount for itself alone, or skip the test."""
    words = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        tried = subprocess.run([*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here to mount a small disk with")
    if tried.returncode:
        pytest.skip(f"no small disk may be mounted here: {tried.stderr.strip()}")
    return words


@pytest.mark.slow
def test_a_disk_that_is_really_too_small(made, tmp_path):
    stable = Stable(*namespace())
    try:
        _, whole = undisturbed(stable, made, None, tmp_path / "whole", to=BOTH)
        out, ended = tmp_path / "disk", set()
        out.mkdir()
        for kilobytes in range(4, 700, 24):
            mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(out)]
            said = stable.convert(made, out, before=[mount], to=BOTH)
            ended.add((said["error"], said["line"].replace(str(out), "").split(": ")[0]))
            assert said["error"] is None or "No space left on device" in said["line"]
            enlarge, copy = ["mount", "-o", "remount,size=16m", str(out)], ["cp", "-r", str(out), str(tmp_path / "copy")]
            assert stable.convert(made, out, before=[enlarge], after=[copy, ["umount", str(out)]], to=BOTH)["error"] is None
            assert files(tmp_path / "copy") == whole
            shutil.rmtree(tmp_path / "copy")
        assert len(ended) > 3  # the plan, a part, a result, and nothing at all
    finally:
        stable.close()


@pytest.mark.slow
def test_a_disk_that_may_not_be_written(made, tmp_path):
    stable = Stable(*namespace())
    try:
        (tmp_path / "disk").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path / "disk")]
        said = stable.convert(made, tmp_path / "disk/out", before=[mount])
        assert said["error"] == "RunError"
        assert "Read-only file system" in said["line"]
    finally:
        stable.close()


@pytest.mark.parametrize("place", ["file/out", "file/deeper/out", "/proc/autopoly/out", "/dev/null/out", "x" * 300])
def test_an_output_that_cannot_be_made_is_one_line(made, tmp_path, place, capsys, monkeypatch, untrained):
    (tmp_path / "file").write_text("mine")
    command = ["autopoly", "convert", str(made), str(tmp_path / place), "--checkpoint", str(untrained), "--device", "cpu", "--quiet"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert (ended.value.code, len(said.splitlines())) == (2, 1), said
    assert "choose another" in said
    assert "overwrite" not in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_stops_when_it_is_asked_to_and_says_how_to_go_on(made, tmp_path, capsys, monkeypatch, untrained, how, code):
    monkeypatch.setattr(shards, "BOXES_LEAST", BOXES)
    out, command = (
        tmp_path / "out",
        ["autopoly", "convert", str(made), "", "--checkpoint", str(untrained), "--device", "cpu", "--no-score", "--quiet"],
    )

    def run(folder):
        monkeypatch.setattr(sys, "argv", [word or str(folder) for word in command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    def commit(path, *given, real=parts.commit, **options):
        # In the middle of the second part: it is being written when the signal comes.
        if path.name.startswith("00001-") and path.suffix == ".parquet":
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", lambda *_: signal.raise_signal(how))
                return real(path, *given, **options)
        return real(path, *given, **options)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    good = run(tmp_path / "whole")[0]
    with monkeypatch.context() as patch:
        patch.setattr(parts, "commit", commit)
        stopped = run(out)
    assert stopped == (code, "autopoly: interrupted; what was finished is kept, the same command goes on from there\n")
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    # Two shards are at work at once, so the first and the third may be there: whole parts, and of the second nothing.
    left = {path.name.split("-")[0] for path in (out / "parts").iterdir()}
    assert {"plan.json"} <= left <= {"plan.json", "00000", "00002"}
    assert not (out / "annotations.json").exists()
    assert run(out)[0] == good
    assert files(out) == files(tmp_path / "whole")


def test_a_folder_of_parts_that_is_not_ours_is_left_alone(made, tmp_path):
    mine = tmp_path / "out/parts/engine.step"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for overwrite in (False, True):
        asked = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu", overwrite=overwrite)
        with pytest.raises(parts.RunError, match="has parts, but not from a run of autopoly"):
            convert(asked, network=inscribed.network())
    assert mine.read_text() == "mine"


def test_a_deadly_picture_without_ray_is_said_before_the_next_start(stable, made, tmp_path):
    from autopoly.jobs.convert import plan

    pixel = cv2.imread(str(made.parent / "images/0003.png"))[0, 0, ::-1].tolist()
    said = stable.convert(made, tmp_path / "out", network={"deadly": pixel})
    assert said["status"] == -signal.SIGKILL
    asked = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu", score=False)
    assert any("--workers 1 finds and leaves out a deadly one" in note for note in plan(asked, inscribed.network()).notes)
