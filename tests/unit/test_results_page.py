"""The page of results: each number in its column, truth-given boxes marked, published rows beside, what is not there left out."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import results
from ways import FOUND, GIVEN, PER_INSTANCE, WAYS


def score(value, truth_boxes=False):
    return {
        "n": 7,
        "miou_instances": value,
        "miou": value + 0.01,
        "map": value + 0.02,
        "f_1px": None,
        "f_2px": value + 0.04,
        "ci95": {"miou_instances": [value - 0.1, value + 0.1], "map": [0.25, 0.75]},
        "convention": {"truth_boxes": truth_boxes},
    }


SHIPPED = results.Shown("shipped", None, "0123", ("coco-people", "davis"))
OTHER = results.Shown("coco alone", "runs/x", "4567", ("coco-people",))


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_numbers_stand_in_their_columns_with_their_intervals():
    measured = {("coco-people", "shipped", way.name): score(0.5 + at / 10, way.from_truth) for at, way in enumerate(WAYS)}
    page = results.page(["coco-people"], [SHIPPED], measured, [])
    head, _, one, found, given, paper = rows(page)
    assert head == ["set", "mode", "n", "instance mIoU", "mIoU", "mAP", "F1", "F2"]
    assert one == ["coco-people", PER_INSTANCE.name, "7", "50.0 [40.0, 60.0]", "51.0", "52.0 [25.0, 75.0]", "", "54.0"]
    assert (found[1], given[1]) == (FOUND.name, f"{GIVEN.name} †")
    assert paper == ["", "*paper, COCO, Table IV*", "", "", "*79.85*", "*56.3*", "*59.17*", "*71.37*"]
    assert "In-domain" in page and "Cross-domain" not in page and "Not measured" not in page
    assert "`0123`" in page and "None of them is on the same\npictures" in page


def test_a_second_checkpoint_has_its_columns_and_a_set_that_failed_is_named():
    measured = {("cells", "shipped", PER_INSTANCE.name): score(0.5), ("cells", "coco alone", PER_INSTANCE.name): score(0.4)}
    page = results.page(["cells", "coco-people"], [SHIPPED, OTHER], measured, ["coco-people, shipped, per instance: no such file"])
    (_, _), (head, _, one) = rows(page)[:2], rows(page)[2:]
    assert head[-2:] == ["coco alone: instance mIoU", "coco alone: F2"]
    assert one[-2:] == ["40.0 [30.0, 50.0]", "44.0"]
    assert page.index("Cross-domain: sources it never saw") > page.index("In-domain")
    assert "- coco-people, shipped, per instance: no such file" in page


@pytest.mark.parametrize("name", results.LIKE)
def test_published_rows_come_from_the_recipes(name):
    labels = [label for label, _ in results.published(name)]
    assert len(labels) == (2 if name == "street-cityscapes" else 1)
    assert all(None not in (row.miou, row.map, row.f_1px, row.f_2px) for _, row in results.published(name))
    assert [label for label in labels if "†" in label] == (["*paper, Cityscapes †, Table IV*"] if name == "street-cityscapes" else [])


def test_a_checkpoint_that_is_not_there_is_left_out(tmp_path, capsys):
    assert results._checkpoint(f"later={tmp_path}") is None
    assert "checkpoint later is left out" in capsys.readouterr().err
    (tmp_path / "weights.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"about": {"trained_on": {"davis": 1}}}))
    assert results._checkpoint(f"later={tmp_path}").learned == ("davis",)
