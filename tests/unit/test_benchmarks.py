"""What benchmarks print and count, without a network."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from autopoly.types import Instance, Polygon

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import checkpoint
import modes


def test_a_set_whose_qualities_have_no_rank_has_an_empty_cell(tmp_path, monkeypatch, capsys):
    numbers = dict.fromkeys(("miou_instances", "miou", "f_1px", "f_2px", "map"), 0.5)
    result = {"n": 1, **numbers, "ci95": {"miou_instances": [0.5, 0.5]}, "all": numbers, "quality_spearman": None, "boxes_per_second": 3.0}
    (tmp_path / "one").mkdir()
    (tmp_path / "one/annotations.json").write_text("{}")
    monkeypatch.setattr(checkpoint, "measure", lambda *_: result)
    monkeypatch.setattr(sys, "argv", ["checkpoint", str(tmp_path)])
    checkpoint.main()
    assert "| 50.0 | 50.0 |  | 3 |" in capsys.readouterr().out


def test_parts_that_touch_at_a_corner_are_one_as_in_a_score():
    squares = tuple(Polygon(np.array([[a, a], [b, a], [b, b], [a, b]], float)) for a, b in ((2, 8), (8, 14)))
    instance = Instance(0, 1, 1, np.array([2.0, 2, 14, 14]), squares)
    truth = SimpleNamespace(record=lambda _: SimpleNamespace(instances=(instance,), size=(20, 20)))
    assert modes.parts_of(SimpleNamespace(rows=[SimpleNamespace(image=0, truth_at=0)]), truth).tolist() == [1]
