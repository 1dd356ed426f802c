"""Several processes under torchrun learn what one process learns, and only the first of them writes and speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autopoly.config import NetworkConfig
from autopoly.network import checkpoint
from autopoly.network.siamanno import SiamAnno

SMALL = NetworkConfig(crop_side=64, width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32)
PATIENCE = 1500.0


def train(processes: int, ellipses: Path, small: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    options = ["--train", ellipses, "--init", small, "--out", out, "--epochs", "0.35", "--batch", "4", "--warmup", "2", "--sides", "64"]
    options += ["--rate", "0.0001", "--held-out", "0.1", "--validations", "1", "--device", "cpu", "--precision", "fp32", "--workers", "0"]
    command = [sys.executable, *start, "-m", "autopoly", "train", *map(str, options), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small")
    checkpoint.save(SiamAnno(SMALL), folder, {})
    return folder


@pytest.mark.slow
def test_two_processes_with_half_the_batch_learn_what_one_learns(ellipses, small, tmp_path):
    for processes in (1, 2):
        done = train(processes, ellipses, small, tmp_path / str(processes))
        assert done.returncode == 0, done.stderr
        assert "terminate called" not in done.stderr
    assert done.stdout.count("the trained checkpoint") == 1
    assert done.stderr.count("starts from checkpoint") == 1
    assert "4 samples a step, shared by 2 processes" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "2" / "log.jsonl").read_text().splitlines()]
    assert ["miou_instances" in row for row in rows].count(True) == 1  # one process wrote it
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("1", "2"))
    start = checkpoint.load_network(small).state_dict()
    assert one.keys() == two.keys()
    moved = far = 0.0
    for name, value in start.items():
        moved = max(moved, float((one[f"network.{name}"] - value).abs().max()))
        far = max(far, float((one[f"network.{name}"] - two[f"network.{name}"]).abs().mean()))
    # Sums in another order: a gradient near zero may change its sign, which AdamW makes a step of; on average they agree.
    assert moved > 1e-4
    assert far < 0.02 * moved


@pytest.mark.slow
def test_a_batch_without_equal_shares_is_one_line(ellipses, small, tmp_path):
    done = train(2, ellipses, small, tmp_path / "out", "--batch", "5")
    assert done.returncode != 0
    assert "autopoly: --batch 5: expected a multiple of the 2 processes" in done.stderr
    assert not (tmp_path / "out" / "checkpoint").exists()
