"""A conversion of much that is malformed, in one run: every box is counted, with the code it must get, and nothing secret is written."""

import json
import os
from pathlib import Path

import cv2
import inscribed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autopoly.cli.convert import plan_lines, summary_lines
from autopoly.jobs.convert import ConvertOptions, convert, plan

SECRETS = ("hunter2", "f00dcafe", "AKIAEVIL", "wJalrEVIL")
SIGNED = "https://bucket.host/a.png?X-Amz-Credential=AKIAEVIL&X-Amz-Signature=f00dcafe"
SIDE = 48
PICTURE = np.random.default_rng(8).integers(0, 255, (SIDE, SIDE, 3), np.uint8)

# File names of an image with one good box, with what lies there: the code its box gets; None: a polygon.
PICTURES = {
    "good.png": (PICTURE, None),
    "sub/good.png": (PICTURE, None),
    "empty.png": (b"", "image_empty"),
    "text.png": (b"no picture", "image_truncated_or_corrupt"),
    "half.jpg": (cv2.imencode(".jpg", PICTURE)[1].tobytes()[:400], "image_truncated_or_corrupt"),
    "large.png": (PICTURE[:20], "image_size_mismatch"),
    "none.png": (None, "image_missing"),
    "../up.png": (None, "path_outside_root"),
    "/etc/passwd": (None, "path_outside_root"),
    "link.png": ("../secret.png", "path_outside_root"),
    "loop.png": ("loop.png", "image_missing"),
    "zero\0.png": (None, "image_missing"),
    "\ud800.png": (None, "image_missing"),
    "\x1b[31mred.png": (None, "image_missing"),
    "two\nlines.png": (None, "image_missing"),
    "n" * 100_000: (None, "image_missing"),
    SIGNED: (None, "image_missing"),
    "https://me:hunter2@host/a.png": (None, "image_missing"),
    5: (None, "image_missing"),
    None: (None, "image_missing"),
}
# Boxes on a good picture of unknown size.
BOXES = {
    "null": (None, "box_missing"),
    "text": ("x" * 100_000, "box_malformed"),
    "three": ([1, 2, 3], "box_malformed"),
    "infinite": ([1, 2, 1e999, 3], "box_not_finite"),
    "empty": ([9, 9, 0, 9], "box_empty"),
    "outside": ([900, 900, 9, 9], "box_outside_image"),
    "of 10^18": ([-1e18, -1e18, 2e18, 2e18], "no_polygon"),
    "of 10^299": ([-9e298, 4, 1e299, 20], "no_polygon"),
    "good": ([9, 9, 20, 20], None),
}
MODES = {
    "components a text": ("all", "bad_component_boxes"),
    "components of three": ([[1, 2, 3]], "bad_component_boxes"),
    "components of 400 digits": ([[10**400, 2, 3, 4]], "bad_component_boxes"),
    "components nan": ([[None, 2, 3, 4]], "bad_component_boxes"),
    "components ragged": ([[1, 2], [3, 4, 5, 6]], "bad_component_boxes"),
    "100,000 components": ([[1, 1, 5, 5]] * 100_000, "too_many_components"),
    "components outside": ([[900, 900, 5, 5]], "box_outside_image"),
    "components of none": ([], None),
}


def write_whole(folder):
    root = folder / "images"
    root.mkdir(parents=True)
    cv2.imwrite(str(folder / "secret.png"), PICTURE)
    images, annotations, wanted = [], [], {}

    def add(image_id, box, code, **more):
        wanted[str(len(annotations) + 1)] = code
        annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "bbox": box, "iscrowd": 0} | more)

    for number, (name, (held, code)) in enumerate(PICTURES.items()):
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        add(number, [9, 9, 20, 20], code)
        if isinstance(held, str):
            (root / name).symlink_to(held)
        elif held is not None:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(held if isinstance(held, bytes) else cv2.imencode(".png", held)[1].tobytes())
    images.append({"id": "boxes", "file_name": "good.png"})
    for box, code in BOXES.values():
        add("boxes", box, code)
    for components, code in MODES.values():
        add("boxes", [9, 9, 20, 20], code, component_boxes=components)
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    (folder / "annotations.json").write_text(json.dumps(whole))
    return wanted


def options(folder, **more):
    return ConvertOptions(
        **{"source": folder / "annotations.json", "out": folder / "out", "workers": 0, "device": "cpu", "score": False} | more
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    wanted = write_whole(folder)
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "AKIAEVIL", "AWS_SECRET_ACCESS_KEY": "wJalrEVIL"}
    try:
        summary = convert(options(folder, mode="per-component", to=("coco", "parquet")), network=inscribed.network())
    finally:
        os.environ.clear()
        os.environ.update(before)
    return folder, wanted, summary


def test_every_box_gets_its_code_or_its_polygon(made):
    folder, wanted, summary = made
    rows = pq.read_table(folder / "out/failures.parquet").to_pylist()
    assert {row["annotation_id"]: row["code"] for row in rows} == {name: code for name, code in wanted.items() if code is not None}
    assert sum(summary.failures.values()) == len(rows) == summary.counts["none"]
    assert summary.counts["predicted"] == sum(code is None for code in wanted.values())
    assert summary.exit_code == 1


def test_every_box_comes_back_as_it_was(made):
    folder, wanted, _ = made
    before, after = (json.loads((folder / name).read_text())["annotations"] for name in ("annotations.json", "out/annotations.json"))
    assert len(after) == len(wanted)
    for one, other in zip(before, after, strict=True):
        same = json.loads(json.dumps(one["bbox"]).replace("Infinity", "null"))
        assert (other["id"], other["bbox"]) == (one["id"], same)
        assert bool(other["segmentation"]) == (wanted[str(one["id"])] is None)


def test_messages_are_short_printable_lines(made):
    folder, _, summary = made
    for row in pq.read_table(folder / "out/failures.parquet").to_pylist():
        for text in (row["message"], row["file"]):
            assert text.isprintable()
            assert len(text) <= 2000
    for told in summary_lines(summary):
        assert told.isprintable()


def test_no_secret_reaches_a_record_of_the_run(made):
    folder, _, summary = made
    texts = {name: (folder / "out" / name).read_text() for name in ("run.json", "report.html")}
    texts["failures"] = str(pq.read_table(folder / "out/failures.parquet").to_pylist())
    texts["summary"] = "\n".join(summary_lines(summary))
    for name, text in texts.items():
        assert [secret for secret in SECRETS if secret in text] == [], name
    # The data itself comes back as it was: it is the user's.
    assert "f00dcafe" in (folder / "out/annotations.json").read_text()


def test_a_plan_says_that_pictures_are_not_there(made):
    folder, _, _ = made
    told = [one for one in plan_lines(plan(options(folder, out=folder / "other"), inscribed.network())) if "cannot be found" in one]
    assert len(told) == 1
    assert "pictures that were looked for" in told[0]
    assert told[0].isprintable()
    assert not [secret for secret in SECRETS if secret in told[0]]
    assert not (folder / "other").exists()


def test_a_plan_says_nothing_of_pictures_that_are_there(tmp_path):
    made = inscribed.make_dataset(tmp_path / "data", images=6)
    asked = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu")
    assert plan(asked, inscribed.network()).notes == ()
    (made.parent / "images/0003.png").unlink()
    assert plan(asked, inscribed.network()).notes[0].startswith("1 of 6 pictures that were looked for cannot be found: 0003.png")


def test_boxes_below_the_quality_asked_for_are_no_failures(tmp_path):
    made = inscribed.make_dataset(tmp_path / "data", images=4)
    asked = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu", score=False, min_quality=1.0)
    summary = convert(asked, network=inscribed.network())
    assert (summary.exit_code, summary.failures, summary.counts["none"]) == (0, {}, 0)
    assert summary.counts["below_min_quality"] == summary.counts["boxes"] > 0
    told = "\n".join(summary_lines(summary))
    assert "below min quality" in told
    assert "--retry-failures" not in told
    assert "below --min-quality" in (tmp_path / "out/report.html").read_text()


def test_components_of_a_truth_that_is_not_there_are_said_and_counted(tmp_path):
    made = inscribed.make_dataset(tmp_path / "data", images=4)
    inscribed.change(made, lambda whole: [one.pop("segmentation", None) for one in whole["annotations"]])
    asked = ConvertOptions(
        source=made, out=tmp_path / "out", workers=0, device="cpu", score=False, mode="per-component", components_from_truth=True
    )
    summary = convert(asked, network=inscribed.network())
    count = summary.counts["boxes"]
    assert [note for note in summary.notes if note.startswith(f"{count} of {count} boxes have no mask in the source")]


def test_repeated_ids_and_unlisted_categories_are_said_once(tmp_path):
    made = inscribed.make_dataset(tmp_path / "data", images=4)

    def edit(whole):
        for one in whole["annotations"]:
            one["id"] = 7
        whole["categories"] = []

    inscribed.change(made, edit)
    asked = ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu", score=False)
    summary = convert(asked, network=inscribed.network())
    count = summary.counts["boxes"]
    assert [note.startswith(f"{count - 1} annotations repeat the id") for note in summary.notes].count(True) == 1
    assert [note.startswith(f"{count} annotations name categories") for note in summary.notes].count(True) == 1
    assert json.loads((tmp_path / "out/run.json").read_text())["notes"] == list(summary.notes)


PICTURES_INSIDE = {
    "../up.png": None,
    "a" * 1000 + ".png": "image_not_written",
    "a/b.png": None,
    "a/b.png/c.png": "image_not_written",
    "a": "image_not_written",
    "\0.png": "image_not_written",
    ".": "image_not_written",
}


def test_names_of_pictures_inside_that_no_file_can_have(tmp_path):
    data = cv2.imencode(".png", PICTURE)[1].tobytes()
    count = len(PICTURES_INSIDE)
    table = {"file_name": list(PICTURES_INSIDE), "image": [data] * count, "bbox": [[[9.0, 9.0, 20.0, 20.0]]] * count}
    pq.write_table(pa.table(table), tmp_path / "boxes.parquet")
    asked = ConvertOptions(
        source=tmp_path / "boxes.parquet", out=tmp_path / "out", workers=0, device="cpu", score=False, write_images=True, bbox_format="xywh"
    )
    convert(asked, network=inscribed.network())
    rows = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert [row["code"] for row in rows] == [code for code in PICTURES_INSIDE.values() if code is not None]
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert written == {"out/images/up.png", "out/images/a/b.png"}


RUNS = {
    "empty": b"",
    "a list": b"[]",
    "nested": b"[" * 100_000,
    "not utf-8": b"\xff",
    "of another tool": b'{"schema": "other"}',
    "without its fields": b'{"schema": "autopoly.run/1"}',
    "inputs a list": b'{"schema": "autopoly.run/1", "inputs": []}',
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_folder_of_others_is_refused(case, tmp_path):
    from autopoly.errors import RunError

    made = inscribed.make_dataset(tmp_path / "data", images=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_bytes(RUNS[case])
    with pytest.raises(RunError) as caught:
        convert(ConvertOptions(source=made, out=tmp_path / "out", workers=0, device="cpu"), network=inscribed.network())
    assert "run.json" in str(caught.value)
    assert Path(tmp_path / "out/run.json").read_bytes() == RUNS[case]


CASES = {"picture": PICTURES, "box": BOXES, "component": MODES, "inside": PICTURES_INSIDE, "run": RUNS}
