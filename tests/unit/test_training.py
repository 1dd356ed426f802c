"""Training: targets, losses by formula, augmentation that keeps pixels and points together, a loop that learns and resumes exactly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from autopoly.config import NetworkConfig
from autopoly.errors import CheckpointError, DataError, RecipeError, RunError
from autopoly.formats import coco
from autopoly.geometry import raster
from autopoly.network.siamanno import Output, SiamAnno, box_contour
from autopoly.training import augment, batches, cache, loop, losses, objective, schedule, validation
from autopoly.training.cache import CacheConfig, Source, held_out
from autopoly.training.samples import Samples, cached
from autopoly.types import Polygon

SMALL = NetworkConfig(crop_side=64, width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32)
CACHE = CacheConfig(side=96, mask_side=48, ring=64, smallest_side=4)


@pytest.fixture(scope="module")
def samples(ellipses: Path, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    source = Source("ellipses", coco.read(ellipses))
    return cached([source], tmp_path_factory.mktemp("cache"), CACHE, share=0.2)


def test_every_instance_and_every_part_is_a_sample(samples: Samples) -> None:
    whole, parts = samples.table["whole"].sum(), (~samples.table["whole"]).sum()
    assert whole == 40
    assert parts == 16  # eight instances in two parts
    assert 0 < len(samples.validation) < len(samples.train)


def test_cache_is_opened_again_only_for_the_same_sources(ellipses: Path, tmp_path: Path) -> None:
    source = Source("ellipses", coco.read(ellipses))
    cached([source], tmp_path, CACHE)
    stamp = (tmp_path / "pixels.u8").stat().st_mtime_ns
    cached([source], tmp_path, CACHE)
    assert (tmp_path / "pixels.u8").stat().st_mtime_ns == stamp
    cached([source], tmp_path, dataclasses.replace(CACHE, side=64))
    assert (tmp_path / "pixels.u8").stat().st_mtime_ns != stamp


def test_the_cache_is_the_same_for_any_number_of_processes(ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "RECORDS", 2)
    monkeypatch.setattr(cache, "SHAPES", 2)
    source, config = Source("ellipses", coco.read(ellipses)), dataclasses.replace(CACHE, drawn=6)
    one, two = (cached([source], tmp_path / str(number), config, 0.2, 0.1, number) for number in (1, 2))
    np.testing.assert_array_equal(one.table, two.table)
    for name in ("pixels.u8", "masks.u8", "rings.f4"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_images_are_held_out_by_their_name_alone() -> None:
    share = np.mean([held_out("a", f"{i}.jpg", 0.25) for i in range(4000)])
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("slot", range(12))
def test_contour_mask_and_pixels_stay_together(samples: Samples, slot: int) -> None:
    whole = np.flatnonzero(samples.table["whole"])
    config = augment.AugmentConfig(jpeg=0, noise=0, invert=0, grey=0, quarter_turn=1)
    made = samples.sample(int(whole[slot * 3]), 64, 1.4, 32, np.random.default_rng(slot), config)
    filled = raster.fill((Polygon(made.contour.astype(np.float64) / 2),), (32, 32))
    truth = made.mask > 127
    assert (filled & truth).sum() / (filled | truth).sum() > 0.85
    bright = made.pixels.astype(int).sum(2)
    inside = cv2.resize(made.mask, (64, 64)) > 250
    assert bright[inside].mean() > bright[cv2.resize(made.mask, (64, 64)) < 5].mean() + 100


def test_without_randomness_a_sample_is_the_box_itself(samples: Samples) -> None:
    made = samples.sample(int(samples.validation[0]), 64, 1.4, 32, None, augment.AugmentConfig())
    low, high = made.contour.min(0), made.contour.max(0)
    half = 64 / 2.8
    np.testing.assert_allclose(low, 32 - half, atol=2.5)
    np.testing.assert_allclose(high, 32 + half, atol=2.5)
    assert made.corrections == 0


def test_draws_depend_on_seed_and_step_alone(samples: Samples) -> None:
    np.testing.assert_array_equal(samples.draw(1, 7, 32), samples.draw(1, 7, 32))
    assert not np.array_equal(samples.draw(1, 7, 32), samples.draw(1, 8, 32))
    assert set(samples.draw(0, 0, 500)) <= set(samples.train)


def test_what_is_drawn_in_a_step_and_how_each_sample_varies_have_streams_of_their_own(
    samples: Samples, config: schedule.TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, first = np.random.default_rng, []

    def noted(seed: object) -> np.random.Generator:
        first.append(int(made(seed).integers(2**62)))
        return made(seed)

    monkeypatch.setattr(np.random, "default_rng", noted)
    batches.Stream(samples, SMALL, config, 0)[3]
    assert len(first) == len(set(first)) == 1 + config.batch


def test_turning_points_turns_what_turning_pixels_turns() -> None:
    for turns in range(4):
        for flip in (False, True):
            placement = augment.Placement(np.array([0.0, 0.0, 1.0, 1.0]), flip, turns)
            picture = np.zeros((20, 20), dtype=np.uint8)
            picture[3, 14] = 255
            turned = augment.turn_pixels(picture, placement)
            row, column = np.argwhere(turned)[0]
            np.testing.assert_allclose(augment.turn_points(np.array([[14.5, 3.5]]), placement, 20)[0], [column + 0.5, row + 0.5])


def test_vertex_loss_is_equation_four() -> None:
    contour, target = torch.tensor([[[10.0, 0.0], [0.0, 50.0]]]), torch.tensor([[[0.0, 0.0], [0.0, 49.9]]])
    side, beta = 100.0, 0.02
    naive = np.mean([0.1 - beta / 2, 0, 0, 0.5 * 0.001**2 / beta])
    free = torch.zeros(1, 2, dtype=torch.bool)
    assert float(losses.vertex_loss(contour, target, free, side, beta)) == pytest.approx(naive, rel=1e-4)
    held = torch.tensor([[True, False]])
    assert float(losses.vertex_loss(contour, target, held, side, beta)) == pytest.approx(0.5 * 0.001**2 / beta / 2, rel=1e-2)


def test_the_loss_of_a_batch_is_the_mean_of_its_shares() -> None:
    torch.manual_seed(0)
    masks = (torch.rand(4, 1, 16, 16) > torch.tensor([0.1, 0.5, 0.9, 0.99]).view(4, 1, 1, 1)).float()
    logits, contour, target = torch.randn(4, 1, 16, 16), torch.rand(4, 8, 2), torch.rand(4, 8, 2)
    held = torch.arange(8) < torch.tensor([[0], [7], [2], [0]])
    for loss in (
        lambda part: losses.mask_loss(logits[part], masks[part], 8.0),
        lambda part: losses.vertex_loss(contour[part], target[part], held[part], 1.0, 0.02),
    ):
        torch.testing.assert_close(loss(slice(4)), (loss(slice(2)) + loss(slice(2, 4))) / 2)


def test_dice_is_zero_for_a_perfect_map_and_one_for_a_disjoint_one() -> None:
    target = torch.zeros(1, 1, 64, 64)
    target[..., :32] = 1
    assert float(losses.dice(target * 60 - 30, target)) == pytest.approx(0, abs=1e-6)
    assert float(losses.dice((1 - target) * 60 - 30, target)) == pytest.approx(1, abs=1e-3)


def test_boundary_is_where_coverage_changes() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    boundary = losses.boundary_of(mask)[0, 0]
    assert float(boundary[3, 2]) == float(boundary[3, 1]) == 1
    assert float(boundary[0, 0]) == 0


def test_cells_near_the_outline_weigh_more_in_the_mask_s_loss() -> None:
    torch.manual_seed(0)
    target, logits = torch.zeros(1, 1, 12, 12), torch.randn(1, 1, 12, 12)
    target[..., :, 6:] = 1
    each = -(target * torch.sigmoid(logits).log() + (1 - target) * torch.sigmoid(-logits).log())
    near = torch.zeros(12)
    near[4:8] = 1  # two columns to either side
    mean = (each * (1 + 3 * near)).sum() / (12 * (8 + 4 * 4))
    expected = mean + losses.dice(logits, target)
    torch.testing.assert_close(losses.mask_loss(logits, target, 3.0), expected)


def test_true_iou_of_a_square_contour_by_formula() -> None:
    side = 64
    contour = box_contour(side, 2.0, 32)  # the central 32 x 32 of 64
    mask = torch.zeros(1, side // 2, side // 2)
    mask[:, 8:24, 8:16] = 1  # its left half, at S/2
    logits = torch.full((1, 1, side // 2, side // 2), -9.0)
    logits[..., 8:24, 8:24] = 9.0
    output = Output((contour,), logits, logits, torch.zeros(1, 2))
    targets = losses.Targets(contour, mask, torch.zeros(1, 32, dtype=torch.bool), 32.0)
    np.testing.assert_allclose(objective.true_iou(output, targets).numpy(), [[0.5, 0.5]], atol=0.03)


@pytest.fixture(scope="module")
def config() -> schedule.TrainConfig:
    return schedule.TrainConfig(steps=6, batch=4, sides=((0.0, 32), (0.5, 64)), warmup=2, save_every=0.0, ema=0.5, loaders=0)


def _network() -> SiamAnno:
    torch.manual_seed(0)
    return SiamAnno(SMALL)


def _weights(network: SiamAnno) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_stopped_and_resumed_is_the_same_as_undisturbed(samples: Samples, config: schedule.TrainConfig, tmp_path: Path) -> None:
    once = loop.train(_network(), samples, tmp_path / "once", config, "cpu", False, lambda report: None)

    class StopError(Exception):
        pass

    def stop(report: loop.Report) -> None:
        raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TELL_EVERY", 3)
        with pytest.raises(StopError):
            loop.train(_network(), samples, tmp_path / "twice", config, "cpu", False, stop)
    again = loop.train(_network(), samples, tmp_path / "twice", config, "cpu", True, lambda report: None)
    torch.testing.assert_close(_weights(again), _weights(once), rtol=0, atol=0)


def test_state_of_another_network_is_refused(samples: Samples, config: schedule.TrainConfig, tmp_path: Path) -> None:
    short = dataclasses.replace(config, steps=1)
    loop.train(_network(), samples, tmp_path, short, "cpu", False, lambda report: None)
    other = SiamAnno(dataclasses.replace(SMALL, width4=24))
    with pytest.raises(CheckpointError, match="state of another network"):
        loop.train(other, samples, tmp_path, short, "cpu", True, lambda report: None)


@pytest.mark.slow
def test_the_loop_learns_ellipses(samples: Samples, tmp_path: Path) -> None:
    config = schedule.TrainConfig(steps=150, batch=16, sides=((0.0, 64),), warmup=10, save_every=1e9, ema=0.95)
    torch.manual_seed(0)
    network = SiamAnno(SMALL, pretrained=True)
    before = validation.validate(network, samples, config, "cpu")
    after = validation.validate(loop.train(network, samples, tmp_path, config, "cpu", False, lambda report: None), samples, config, "cpu")
    assert after["val_contour"] > before["val_contour"] + 0.03
    assert after["val_mask"] > 0.85


def test_a_dataset_without_masks_is_one_line(ellipses: Path, tmp_path: Path) -> None:
    data = json.loads((ellipses / "annotations.json").read_text())
    for annotation in data["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    (tmp_path / "images").symlink_to(ellipses / "images")
    with pytest.raises(DataError, match="no instance has a mask"):
        cached([Source("bare", coco.read(tmp_path))], tmp_path / "cache", CACHE)


def test_a_gradient_that_stays_infinite_ends_the_training_in_one_line(
    samples: Samples, config: schedule.TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PATIENCE", 2)
    network = _network()
    before = _weights(network).clone()
    broken = dataclasses.replace(config, loss=losses.LossConfig(vertex=float("inf")))
    with pytest.raises(RunError, match="no finite gradient in 2 steps; lower --rate"):
        loop.train(network, samples, tmp_path, broken, "cpu", False, lambda report: None)
    assert torch.equal(_weights(network), before)  # no step was taken


def test_a_loss_that_is_not_finite_is_no_part_of_the_running_means(
    samples: Samples, config: schedule.TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of_steps = iter([1.0, float("nan"), 1.0, float("inf"), 1.0, 1.0])
    taken = loop.step

    def step(*given: Any) -> tuple[dict[str, float], bool]:
        numbers, finite = taken(*given)
        return numbers | {"vertex": next(losses_of_steps)}, finite

    monkeypatch.setattr(loop, "step", step)
    monkeypatch.setattr(loop, "TELL_EVERY", 1)
    told: list[loop.Report] = []
    loop.train(_network(), samples, tmp_path, config, "cpu", False, told.append)
    assert [one.numbers["vertex"] for one in told if not one.validated] == [1.0] * 6


def test_validations_come_in_equal_shares_of_the_schedule(samples: Samples, config: schedule.TrainConfig, tmp_path: Path) -> None:
    told: list[loop.Report] = []
    asked: list[int] = []

    def check(_network: SiamAnno, step: int) -> dict[str, float]:
        asked.append(step)
        return {"mine": 0.5}

    loop.train(_network(), samples, tmp_path, dataclasses.replace(config, validations=3), "cpu", False, told.append, check)
    validated = [one for one in told if one.validated]
    assert [one.step for one in validated] == asked == [2, 4, 6]
    assert all({"val_contour", "mine"} <= one.numbers.keys() for one in validated)


def test_the_schedule_is_a_function_of_progress() -> None:
    config = schedule.TrainConfig(steps=100, warmup=10, sides=((0.0, 160), (0.72, 224)))
    assert [schedule.side_at(config, progress) for progress in (0.0, 0.71, 0.72, 1.0)] == [160, 160, 224, 224]
    assert schedule.rate_at(config, 0.0, 0) == pytest.approx(config.rate / 10)
    assert schedule.rate_at(config, 0.5, 50) == pytest.approx(config.rate * 0.505)
    assert schedule.rate_at(config, 1.0, 100) == pytest.approx(config.rate / 100)
    short = dataclasses.replace(config, steps=40, warmup=200)
    rates = [schedule.rate_at(short, schedule.progress_of(short, step, 0), step) / short.rate for step in range(40)]
    assert max(rates) > 0.95 and rates[0] < 0.01  # the peak is reached, gently, in training of fewer steps than the warm-up
    assert schedule.progress_of(config, 25, 1e9) == 0.25
    assert schedule.progress_of(dataclasses.replace(config, minutes=2.0), 25, 30) == 0.25


def test_precision_follows_the_device() -> None:
    assert objective.dtype_of("fp32", "cpu") == torch.float32
    assert objective.dtype_of("bf16", "cpu") == torch.bfloat16
    assert objective.dtype_of("auto", "cpu") in (torch.float32, torch.bfloat16)
    with pytest.raises(RecipeError, match="fp16: needs a CUDA device"):
        objective.dtype_of("fp16", "cpu")
    assert objective.unscaled_dtype("fp16", "cuda") == torch.float32
    assert objective.unscaled_dtype("bf16", "cuda") == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_gpu_learns_and_resumes_in_half_precision(precision: str, samples: Samples, config: schedule.TrainConfig, tmp_path: Path) -> None:
    half = dataclasses.replace(config, precision=precision)
    loop.train(_network(), samples, tmp_path, half, "cuda", False, lambda report: None)
    longer = dataclasses.replace(half, steps=9)
    assert torch.isfinite(_weights(loop.train(_network(), samples, tmp_path, longer, "cuda", True, lambda report: None))).all()


@pytest.mark.slow
def test_a_loader_that_is_told_to_end_while_it_copies_ends_well(samples: Samples) -> None:
    # Batches of 17 MB take long to copy: the interpreter must not end under that thread ("terminate called without an active exception").
    config = schedule.TrainConfig(batch=64, loaders=1, sides=((0.0, 256),))
    made = iter(batches.loader(batches.Stream(samples, SMALL, config, 0), "cpu"))
    next(made)
    (process,) = made._workers
    del made
    process.join(60)
    assert process.exitcode == 0


def test_a_user_corrects_where_the_contour_is_far_from_the_outline_and_once_per_place() -> None:
    angle = torch.linspace(0, 2 * np.pi, 129)[:-1]
    truth = torch.stack([angle.cos(), angle.sin()], dim=-1).expand(4, 128, 2) * 50
    found = truth.clone()
    found[:, 20:25] *= 1.5  # a bulge that should not be there
    found[:, 90] *= 0.4
    held = objective.worst(found, truth, torch.tensor([0, 1, 2, 3]))
    assert held.sum(1).tolist() == [0, 1, 2, 3]
    assert held[1, 90]
    assert held[2, 90] and held[2, 20:25].sum() == 1
    assert held[3, 20:25].sum() == 1


def test_corrections_are_of_the_samples_that_ask_for_them(samples: Samples) -> None:
    network = SiamAnno(SMALL)
    rng = np.random.default_rng(0)
    batch = batches.stacked([samples.sample(int(samples.train[0]), 64, 1.4, 32, rng, augment.AugmentConfig()) for _ in range(3)])
    batch["corrections"] = torch.tensor([0, 2, 1])
    held = objective.corrected(network, batch, "cpu", torch.float32)
    assert held.sum(1).tolist() == [0, 2, 1]
    output, targets = objective.forward(network, SMALL, batch, "cpu", torch.float32, held)
    for contour in output.contours:
        torch.testing.assert_close(contour[held], targets.contour[held])
