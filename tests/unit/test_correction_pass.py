"""The correction pass: where it is told that the outline runs, what it leaves alone, and that it learns to follow."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from autopoly import predict
from autopoly.config import NetworkConfig
from autopoly.geometry.contours import resample
from autopoly.geometry.corrections import threaded
from autopoly.jobs.source import locate
from autopoly.network.correction import SPREADS, CorrectionPass, marks
from autopoly.network.siamanno import SiamAnno, box_contour
from autopoly.training import ranks
from autopoly.training.cache import CacheConfig, Source
from autopoly.training.corrections import LOOKS, CorrectionConfig, fit, measure
from autopoly.training.samples import Samples, cached

SMALL = NetworkConfig(crop_side=64, width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32, correction_width=16)


@pytest.fixture
def network() -> SiamAnno:
    torch.manual_seed(0)
    return SiamAnno(SMALL).eval()


def test_a_mark_lies_where_the_correction_is() -> None:
    contour = torch.rand(2, 32, 2)
    fixed = torch.zeros(2, 32, dtype=torch.bool)
    fixed[0, 5] = fixed[0, 9] = fixed[1, 31] = True
    contour[0, 5], contour[0, 9], contour[1, 31] = torch.tensor([[0.25, 0.5], [0.8, 0.1], [0.6, 0.9]])
    drawn = marks(contour, fixed, 40)
    assert drawn.shape == (2, len(SPREADS), 40, 40)
    centres = (torch.arange(40) + 0.5) / 40
    for crop, places in ((0, [(0.25, 0.5), (0.8, 0.1)]), (1, [(0.6, 0.9)])):
        squared = torch.stack([(centres[None] - x) ** 2 + (centres[:, None] - y) ** 2 for x, y in places]).amin(0)
        for channel, spread in enumerate(SPREADS):
            torch.testing.assert_close(drawn[crop, channel], torch.exp(-squared / (2 * spread**2)))
    assert marks(contour, torch.zeros_like(fixed), 40).max() == 0


def test_crops_without_corrections_stay_as_they_are_to_the_last_bit(network: SiamAnno) -> None:
    assert network.correction is not None
    for parameter in network.correction.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    crops, initial = torch.randint(0, 255, (3, 3, 64, 64), dtype=torch.uint8), box_contour(64, 1.4, 32, 3)
    fixed = torch.zeros(3, 32, dtype=torch.bool)
    fixed[1, 4] = True
    with torch.inference_mode():
        plain, some = network(crops, initial), network(crops, initial, fixed)
    for crop in (0, 2):
        torch.testing.assert_close(some.mask_logits[crop], plain.mask_logits[crop], rtol=0, atol=0)
        torch.testing.assert_close(some.contours[-1][crop], plain.contours[-1][crop], rtol=0, atol=0)
    assert (some.mask_logits[1] != plain.mask_logits[1]).any()


def test_an_untrained_pass_changes_nothing(network: SiamAnno) -> None:
    crops, initial = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8), box_contour(64, 1.4, 32)
    with torch.inference_mode():
        plain, some = network(crops, initial), network(crops, initial, torch.ones(1, 32, dtype=torch.bool))
    torch.testing.assert_close(some.mask_logits, plain.mask_logits, rtol=0, atol=0)


@pytest.fixture(scope="module")
def samples(ellipses: Path, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    dataset = locate(ellipses, None, None, None).open()
    return cached([Source("ellipses", dataset)], tmp_path_factory.mktemp("cache"), CacheConfig.of(64), share=0.3)


def test_it_learns_and_nothing_else_does(samples: Samples, network: SiamAnno) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    told: list[tuple[int, float, float]] = []
    config = CorrectionConfig(steps=25, width=16, batch=8, rate=3e-3)
    fit(network, samples, config, ((0.0, 64),), 0, 0, "cpu", lambda *numbers: told.append(numbers))
    assert [step for step, *_ in told] == list(range(1, 26))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("correction.") for name in changed)
    found = measure(network, samples, "cpu")
    assert found.shape == (len(LOOKS),)
    assert found[-1] > found[0] + 0.05  # of a network that knows nothing, hence draws anything
    assert isinstance(network.correction, CorrectionPass) and not any(one.requires_grad for one in network.correction.parameters())


def test_one_of_several_processes_learns_it_from_whole_batches(
    samples: Samples, network: SiamAnno, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, float, float]] = []
    config = CorrectionConfig(steps=1, width=16, batch=8)
    for world in (1, 2, 3):  # eight samples have no third
        monkeypatch.setattr(ranks, "world", lambda world=world: world)
        fit(copy.deepcopy(network), samples, config, ((0.0, 64),), 0, 0, "cpu", lambda *numbers: told.append(numbers))
    assert told[1] == told[2] == told[0]


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_it_learns_in_the_numbers_that_are_asked_for(precision: str, expected: torch.dtype, samples: Samples, network: SiamAnno) -> None:
    assert network.correction is not None
    seen: set[torch.dtype] = set()
    network.correction.enter.register_forward_hook(lambda module, given, found: seen.add(found.dtype))
    config = CorrectionConfig(steps=1, width=16, batch=2, precision=precision)
    fit(network, samples, config, ((0.0, 64),), 0, 0, "cpu", lambda *numbers: None)
    measure(network, samples, "cpu", precision)
    assert seen == {expected}


def circle(count: int, radius: float = 40.0) -> np.ndarray:
    angle = np.arange(count) * 2 * np.pi / count
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1) * radius + 100


def test_a_contour_is_laid_through_its_fixed_vertices() -> None:
    places, held = circle(64, 41), np.zeros(64, bool)
    held[[10, 30, 31]] = True
    turned = np.roll(circle(300), 77, axis=0)  # the outline begins elsewhere, and is finer
    laid = threaded(turned, circle(64), places, held)
    np.testing.assert_array_equal(laid[held], places[held])
    np.testing.assert_allclose(laid, circle(64), atol=1.2)  # each vertex where its neighbours say
    one = threaded(turned, circle(64), places, np.arange(64) == 50)
    np.testing.assert_allclose(one, circle(64), atol=1.2)


def test_fixed_vertices_in_another_order_are_kept_all_the_same() -> None:
    places, held = circle(64), np.zeros(64, bool)
    held[[5, 20, 40]] = True
    places[5], places[20] = circle(64)[20], circle(64)[5]
    places[40] = circle(64)[40]
    laid = threaded(circle(64), circle(64), places, held)
    np.testing.assert_array_equal(laid[held], places[held])
    assert np.isfinite(laid).all()


def test_refining_follows_the_corrected_mask(network: SiamAnno) -> None:
    annotator = predict.Annotator(network, "cpu")
    photo = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    box = np.array([30.0, 30, 110, 90])
    start = annotator.refine(photo, box, resample(np.array([[30.0, 30], [110, 30], [110, 90], [30, 90]]), 32), np.zeros(32, bool))
    held = np.arange(32) % 9 == 4
    moved = start + np.where(held[:, None], 3.0, 0.0)
    refined = annotator.refine(photo, box, moved, held)
    assert refined.shape == (32, 2)
    np.testing.assert_array_equal(refined[held], moved[held])
