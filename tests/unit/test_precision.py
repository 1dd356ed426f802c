"""The shipped checkpoint in bf16, which is what a processor or GPU that has it runs, against float32."""

import importlib.util
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed.py"


@pytest.mark.slow
def test_bf16_moves_hardly_a_vertex(shipped, tmp_path):
    spec = importlib.util.spec_from_file_location("speed", SPEED)
    speed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(speed)
    shares = speed.precision(speed.draw(tmp_path / "drawn", 40), 40)
    assert shares["contours"] >= 0.99
    assert shares["polygons"] >= 0.99
