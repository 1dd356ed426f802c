"""The whole training as a user runs it: options in, a folder with the best checkpoint, a log, curves and a sheet out."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from autopoly.cli.train import side_from
from autopoly.cli.train_progress import plain
from autopoly.config import NetworkConfig, Precision
from autopoly.errors import CheckpointError, RecipeError, RunError
from autopoly.jobs import train as job
from autopoly.jobs.train_options import TrainOptions
from autopoly.network import checkpoint
from autopoly.network.siamanno import SiamAnno
from autopoly.training.loop import Report
from autopoly.training.objective import PRECISIONS
from autopoly.training.schedule import TrainConfig
from autopoly.training.state import State

SMALL = NetworkConfig(crop_side=64, width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a checkpoint of a small untrained network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small")
    checkpoint.save(SiamAnno(SMALL), folder, {})
    return folder


@pytest.fixture(scope="module")
def trained(ellipses: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainOptions, list[Report], list[str]]:
    """Train once for all that only looks at the result."""
    out = tmp_path_factory.mktemp("trained")
    options = options_of(ellipses, small, out)
    told: list[Report] = []
    said: list[str] = []
    assert job.run(options, told.append, said.append) == out / "checkpoint"
    return options, told, said


def options_of(ellipses: Path, small: Path, out: Path) -> TrainOptions:
    return TrainOptions(
        train=((ellipses, 1.0),),
        out=out,
        init=str(small),
        epochs=0.3,
        batch=4,
        warmup=2,
        sides=((0.0, 64),),
        validations=2,
        held_out=0.15,
        device="cpu",
        precision="fp32",
        workers=0,
    )


Trained = tuple[TrainOptions, list[Report], list[str]]


def test_it_leaves_a_checkpoint_that_predicts(trained: Trained) -> None:
    from autopoly import predict

    options, told, _ = trained
    folder = options.out / "checkpoint"
    about = json.loads((folder / "config.json").read_text())["about"]
    assert about["trained_on"].keys() == {"ellipses"}
    assert about["trained_on"]["ellipses"]["samples"] > 30
    assert re.fullmatch("[0-9a-f]{32}", about["trained_on"]["ellipses"]["annotations"])
    assert told[-1].progress == 1.0
    polygons, quality = predict.load(folder, device="cpu").polygons(np.zeros((100, 100, 3), np.uint8), [[10, 10, 60, 60]])
    assert len(polygons) == len(quality) == 1


def test_the_checkpoint_is_the_best_on_whole_held_out_images(trained: Trained) -> None:
    options, told, said = trained
    validated = [one for one in told if one.validated]
    assert len(validated) == 2
    best = max(validated, key=lambda one: one.numbers["miou_instances"])
    about = json.loads((options.out / "checkpoint" / "config.json").read_text())["about"]
    assert about["best"]["step"] == best.step
    assert about["best"]["miou_instances"] == best.numbers["miou_instances"]
    kept, last = (checkpoint.load_network(options.out / name).state_dict() for name in ("checkpoint", "best"))
    assert all(torch.equal(value, last[name]) for name, value in kept.items())
    assert any(line.startswith(f"the checkpoint is that of step {best.step}") for line in said)


def test_it_says_where_it_starts_what_it_learns_from_and_leaves_pictures(trained: Trained) -> None:
    options, _, said = trained
    assert said[0].startswith(f"starts from checkpoint {options.init} (")
    assert any("ellipses: coco," in line and "samples to learn from" in line for line in said)
    assert any("learns on cpu in float32, 4 samples a step" in line for line in said)
    assert "4 steps in all" in said  # of a checkpoint, which needs few
    for name in ("curves.png", "sheet.png"):
        assert (options.out / name).read_bytes()[:4] == b"\x89PNG"
    rows = [json.loads(line) for line in (options.out / "log.jsonl").read_text().splitlines()]
    assert {"val_contour", "miou_instances", "f_1px", "f_2px"} <= rows[-1].keys()


def test_a_training_is_not_begun_over_another(trained: Trained) -> None:
    with pytest.raises(RunError, match="--resume"):
        job.run(trained[0], lambda report: None)


def test_what_an_abandoned_training_left_is_no_part_of_a_new_one(trained: Trained, tmp_path: Path) -> None:
    """Ended before its first state was saved, a training has only its best network and its log."""
    options, out = trained[0], tmp_path / "out"
    best = json.loads((options.out / "best" / "config.json").read_text())
    (out / "best").mkdir(parents=True)
    best["about"]["miou_instances"] = 1.0
    (out / "best" / "config.json").write_text(json.dumps(best))
    (out / "best" / "weights.safetensors").write_bytes((options.out / "best" / "weights.safetensors").read_bytes())
    (out / "log.jsonl").write_text("of before\n")
    job.run(dataclasses.replace(options, out=out, epochs=0.1), lambda report: None)
    assert json.loads((out / "checkpoint" / "config.json").read_text())["about"]["best"]["miou_instances"] < 1.0
    assert "of before" not in (out / "log.jsonl").read_text()


def test_a_checkpoint_cut_off_while_it_is_written_is_none(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = checkpoint.load_network(small)
    checkpoint.save(network, tmp_path, {"step": 1})
    replaced = os.replace

    def cut(source: Path, target: Path) -> None:
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        replaced(source, target)

    monkeypatch.setattr("autopoly.network.checkpoint.os.replace", cut)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(network, tmp_path, {"step": 2})
    with pytest.raises(CheckpointError, match=r"no folder with config\.json"):
        checkpoint.load_network(tmp_path)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), MemoryError()])
def test_memory_that_runs_out_is_one_line(error: Exception, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr(job, "train", fail)
    with pytest.raises(RunError, match=r"^cpu: not enough memory for 4 samples at once \(.*\); lower --batch or --sides") as caught:
        job.run(dataclasses.replace(trained[0], out=tmp_path), lambda report: None)
    assert "\n" not in str(caught.value)


def test_another_error_of_the_network_keeps_its_traceback(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(job, "train", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        job.run(dataclasses.replace(trained[0], out=tmp_path), lambda report: None)


def test_a_full_disk_is_one_line_and_the_state_of_before_stays(small: Path, tmp_path: Path) -> None:
    network = checkpoint.load_network(small)
    state = State(network, checkpoint.load_network(small), TrainConfig())
    state.save(tmp_path)
    checkpoint.save(network, tmp_path / "c", {})
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(RunError, match=r"state\.tmp: cannot be written \(.*make room"):
            state.save(tmp_path)
        with pytest.raises(RunError, match=r"weights\.tmp: cannot be written \(.*make room"):
            checkpoint.save(network, tmp_path / "c", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_corrections_are_learned_on_top_of_a_checkpoint_that_stays(trained: Trained, tmp_path: Path) -> None:
    options = dataclasses.replace(trained[0], out=tmp_path / "out", epochs=0.0, correction_steps=6)
    said: list[str] = []
    folder = job.run(options, lambda report: None, said.append)
    before, after = checkpoint.load_network(options.init).state_dict(), checkpoint.load_network(folder)
    learned = after.state_dict()
    assert all(torch.equal(value, learned[name]) for name, value in before.items())
    told = [line for line in said if line.startswith("corrections: ")]
    assert told[0].startswith("corrections: step 6 of 6, IoU 0.")
    assert "mean IoU after 0, 1, 2, 3, 5 of them: 0." in told[-1]
    assert (after.correction is None) == told[-1].endswith("left out")
    # A training that goes on from it changes what the pass was learned for.
    again = dataclasses.replace(options, out=tmp_path / "again", init=str(folder), epochs=0.1, correction_steps=0)
    assert checkpoint.load_network(job.run(again, lambda report: None)).correction is None


def test_what_was_learned_is_there_before_passes_that_may_fail(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise RunError("no more memory")

    monkeypatch.setattr(job.correction_training, "learned", fail)
    with pytest.raises(RunError, match="no more memory"):
        job.run(dataclasses.replace(trained[0], out=tmp_path, epochs=0.0, correction_steps=6), lambda report: None)
    learned = checkpoint.load_network(tmp_path / "checkpoint").state_dict()
    assert all(torch.equal(value, learned[name]) for name, value in checkpoint.load_network(trained[0].init).state_dict().items())


def test_a_source_without_large_objects_has_no_edges_to_learn(trained: Trained, ellipses: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = job.run(dataclasses.replace(trained[0], out=tmp_path / "out", epochs=0.1, edge_steps=2), lambda report: None, said.append)
    assert any(line == "edge pass: no object is large enough to learn along its outline" for line in said)
    assert checkpoint.load_network(folder).edge is None


@pytest.mark.slow
def test_the_held_out_score_is_that_of_autopoly_score(trained: Trained, ellipses: Path, tmp_path: Path) -> None:
    """Whole held-out datasets are measured as convert and score do it, up to the two decimals that are written."""
    from autopoly.jobs.conversion.options import ConvertOptions
    from autopoly.jobs.convert import convert

    twin = tmp_path / "twin"
    twin.mkdir()
    shutil.copytree(ellipses / "images", twin / "images")  # the same files would be held out in both
    (twin / "annotations.json").write_text((ellipses / "annotations.json").read_text())
    told: list[Report] = []
    options = dataclasses.replace(trained[0], out=tmp_path / "out", val=(twin,), held_out=0.0, validations=1)
    folder = job.run(options, told.append)
    convert(ConvertOptions(source=twin, out=tmp_path / "run", checkpoint=str(folder), workers=0, device="cpu", score=True))
    score = json.loads((tmp_path / "run" / "score.json").read_text())
    assert score["n"] == 40
    for name in ("miou_instances", "f_1px", "f_2px"):
        assert told[-1].numbers[name] == pytest.approx(score[name], abs=0.01)


@pytest.mark.slow
def test_a_seed_gives_the_same_weights_and_another_one_others(trained: Trained, tmp_path: Path) -> None:
    weights = {}
    for name, seed in (("again", 0), ("other", 1)):
        folder = job.run(dataclasses.replace(trained[0], out=tmp_path / name, seed=seed), lambda report: None)
        weights[name] = (folder / "weights.safetensors").read_bytes()
    first = (trained[0].out / "checkpoint" / "weights.safetensors").read_bytes()
    assert weights["again"] == first
    assert weights["other"] != first


def test_every_precision_that_can_be_asked_for_is_known() -> None:
    assert set(get_args(Precision)) == {"auto", *PRECISIONS}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": ()}, "--train"),
        ({"held_out": 1.0}, "--held-out"),
        ({"epochs": 0.0}, "--epochs"),
        ({"minutes": -1.0}, "--minutes"),
        ({"minutes": 0.0}, "--epochs 0, --minutes 0"),
        ({"correction_steps": -1}, "--correction-steps"),
        ({"batch": 0}, "--batch"),
        ({"rate": float("nan")}, "--rate"),
        ({"warmup": -1}, "--warmup"),
        ({"clip": 0.0}, "--clip"),
        ({"ema": 1.0}, "--ema"),
        ({"sides": ((0.5, 160),)}, "--sides"),
        ({"sides": ((0.0, 160), (0.0, 224))}, "--sides"),
        ({"sides": ((0.0, 100),)}, "--sides"),
        ({"sides": ((0.0, 160), (72.0, 224))}, "--sides"),
        ({"sides": ((0.0, 160), (float("nan"), 224))}, "--sides"),
        ({"precision": "fp8"}, "--precision"),
        ({"validations": 0}, "--validations"),
        ({"device": "tpu"}, "--device"),
        ({"workers": -1}, "--workers"),
        ({"init": "a", "backbone": "b"}, "--init and --backbone"),
    ],
)
def test_options_out_of_range_are_one_line(change: dict[str, object], said: str) -> None:
    options = dataclasses.replace(TrainOptions(train=((Path("a"), 1.0),), out=Path("b")), **change)
    with pytest.raises(RecipeError, match=f"^{said}"):
        options.check()


@pytest.mark.parametrize(
    ("change", "sides", "said"),
    [
        ({}, ((0.0, 64),), None),
        ({"sides": ((0.0, 32), (0.5, 64))}, ((0.0, 32), (0.5, 64)), None),
        ({"sides": ((0.0, 64), (0.5, 96))}, ((0.0, 64), (0.5, 96)), "its crop side of 64 px becomes 96 px (--sides)"),
        ({"epochs": 0.0}, ((0.0, 64),), None),
        (
            {"epochs": 0.0, "sides": ((0.0, 96),)},
            ((0.0, 64),),
            "its crop side of 64 px stays, since nothing is learned (--sides)",
        ),
        (
            {"minutes": 0.0, "sides": ((0.0, 96),)},
            ((0.0, 64),),
            "its crop side of 64 px stays, since nothing is learned (--sides)",
        ),
        ({"init": None}, ((0.0, 160), (0.72, 224)), None),
    ],
)
def test_a_network_goes_on_at_its_own_crop_side(
    change: dict[str, object], sides: tuple[tuple[float, int], ...], said: str | None, small: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    options = dataclasses.replace(TrainOptions(train=((Path("a"), 1.0),), out=tmp_path, init=str(small)), **change)
    options.check()
    network, resolved = job._start(options, lines.append)
    assert resolved.sides == sides
    assert network.config.crop_side == sides[-1][1]
    assert lines[:-1] == ([said] if said else [])


@pytest.mark.parametrize(("steps", "anew", "warned"), [(38, True, True), (38, False, False), (1500, True, False)])
def test_a_training_says_how_long_it_is_and_when_that_is_too_short(steps: int, anew: bool, warned: bool) -> None:
    lines: list[str] = []
    job._say_length(TrainConfig(steps=steps), anew, lines.append)
    assert len(lines) == 1 and lines[0].startswith(f"{steps:,} steps in all")
    assert ("teach little from ImageNet weights" in lines[0]) == warned
    job._say_length(TrainConfig(minutes=1.0), anew, lines.append)  # nobody knows
    assert len(lines) == 1


@pytest.mark.parametrize("text", ["", "a=160", "0.5=", "0.5=160.5"])
def test_a_side_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(RecipeError, match="--sides"):
        side_from(text)


def test_off_a_terminal_lines_are_few_and_validations_are_never_left_out() -> None:
    lines: list[str] = []
    tell = plain(lines.append)
    for step in range(5):
        tell(Report(step, step / 10, 1.0, 64, {"vertex": 0.25, "iou_mask": 0.5}, speed=12.0, left=90.0))
    tell(Report(5, 0.5, 1.0, 64, {"miou_instances": 0.75}, validated=True))
    assert lines == ["step 0  0.0%  12 samples/s  1.5 min left  vertex 0.250  iou_mask 0.500", "step 5  50.0%  miou_instances 0.750"]
