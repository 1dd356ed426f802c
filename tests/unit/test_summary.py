"""Means, intervals and the reliability of the quality estimate, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autopoly.metrics.iou import category_means, iou
from autopoly.metrics.ranking import Ranking
from autopoly.metrics.summary import (
    Measured,
    calibration,
    calibration_error,
    delta_intervals,
    intervals,
    means,
    ranked_resamples,
    ranking_intervals,
    spearman,
)


def rows(iou_: list[float], category: list[int], image: list[int] | None = None, categories: int = 3) -> Measured:
    values = np.array(iou_, np.float64)
    images = np.array(image if image is not None else range(len(iou_)), np.int64)
    return Measured(values, values / 2, values / 4, np.array(category, np.int64), categories, images)


def test_miou_counts_each_category_once_and_leaves_out_the_empty() -> None:
    found = means(rows([1.0, 0.5, 0.0, 0.8], [0, 0, 0, 2]))
    assert found == pytest.approx(
        {"miou": 0.65, "miou_instances": 0.575, "f_1px": 0.325, "f_2px": 0.1625, "pass_rate": (10 + 1 + 0 + 7) / 40}
    )
    assert np.array_equal(category_means(np.array([1.0, 0.5]), np.array([0, 0]), 2), [0.75, np.nan], equal_nan=True)


def test_no_instance_gives_nan_and_no_interval() -> None:
    nothing = rows([], [])
    assert all(math.isnan(value) for value in means(nothing).values())
    assert intervals(nothing) == {} == delta_intervals(nothing, nothing)


def test_intervals_hold_the_mean_have_the_width_of_theory_and_repeat() -> None:
    random = np.random.default_rng(0)
    sample = rows(random.uniform(0, 1, 400).tolist(), [0] * 400)
    low, high = intervals(sample)["miou_instances"]
    assert low < means(sample)["miou_instances"] < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(1 / 12 / 400), rel=0.12)
    assert intervals(sample) == intervals(sample) != intervals(sample, seed=1)


def test_intervals_draw_images_not_instances() -> None:
    """Ten copies of an instance in its image are no more evidence than one."""
    random = np.random.default_rng(1)
    values = random.uniform(0, 1, 50)
    once, tenfold = rows(values.tolist(), [0] * 50), rows(np.repeat(values, 10).tolist(), [0] * 500, np.repeat(np.arange(50), 10).tolist())
    assert intervals(tenfold)["miou"] == pytest.approx(intervals(once)["miou"])


def test_paired_deltas_are_sharper_than_the_numbers_themselves() -> None:
    random = np.random.default_rng(2)
    first = random.uniform(0.2, 0.8, 200)
    a, b = rows(first.tolist(), [0] * 200), rows((first + 0.01).tolist(), [0] * 200)
    low, high = delta_intervals(a, b)["miou"]
    assert (low, high) == pytest.approx((0.01, 0.01))
    assert delta_intervals(a, a)["miou"] == (0.0, 0.0)


def ranking_of(right: list[bool], image: list[int], truths: list[int], ignored: bool = False) -> Ranking:
    matched, scores = np.array([right], bool), np.linspace(1, 0.5, len(right))
    return Ranking(scores, matched, np.full_like(matched, ignored), np.array(image, np.int64), np.array(truths, np.int64))


def test_precision_of_a_ranking_by_hand() -> None:
    """Right, wrong, right of three truths: precision 1 up to a recall of 1/3, then 2/3 up to 2/3, then nothing."""
    found = ranking_of([True, False, True], [0, 0, 1], [2, 1])
    assert found.precision() == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert found.precision(np.array([0.0, 3.0])) == pytest.approx(1.0)
    assert found.precision(np.array([1.0, 0.0])) == pytest.approx(51 / 101)
    assert ranking_of([], [], [2]).precision() == 0.0
    assert math.isnan(ranking_of([True], [0], [0]).precision())


def test_intervals_of_a_ranking_skip_resamples_without_truth_and_repeat() -> None:
    random = np.random.default_rng(0)
    some = ranking_of((random.random(300) < 0.7).tolist(), np.repeat(np.arange(100), 3).tolist(), [3] * 100)
    found = ranking_intervals({"map": some, "nothing": ranking_of([True], [0], [0])})
    assert set(found) == {"map"}
    assert found["map"][0] < some.precision() < found["map"][1]
    assert found == ranking_intervals({"map": some}) != ranking_intervals({"map": some}, seed=1)
    # One image in three has a truth: most draws of three have one, some none.
    assert ranking_intervals({"map": ranking_of([True], [0], [1, 0, 0])})["map"] == pytest.approx((1.0, 1.0))
    assert ranking_intervals({"map": ranking_of([True], [0], [1] + [0] * 99)}, resamples=1, seed=1) == {}
    assert ranking_intervals({"map": some}, resamples=0) == {} == ranking_intervals({})


def test_large_rankings_are_drawn_less_often() -> None:
    assert [ranked_resamples(1000, n) for n in (0, 10, 100_000, 200_000, 10_000_000)] == [300, 300, 300, 150, 100]
    assert ranked_resamples(50, 10) == 50


def test_rank_correlation() -> None:
    x = np.array([0.1, 0.4, 0.2, 0.9])
    assert spearman(x, x**3) == pytest.approx(1.0)
    assert spearman(x, -x) == pytest.approx(-1.0)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(math.sqrt(3) / 2)  # ties at their mean rank
    assert math.isnan(spearman(x, np.ones(4)))
    assert math.isnan(spearman(x[:1], x[:1]))


def test_calibration_bins_and_error() -> None:
    curve = calibration(np.array([0.05, 0.95, 0.91, 1.0]), np.array([0.15, 0.85, 0.75, 0.9]))
    assert [(row["low"], row["n"]) for row in curve] == [(0.0, 1), (0.9, 3)]
    assert curve[1]["iou"] == pytest.approx(2.5 / 3)
    assert calibration_error(curve) == pytest.approx((0.1 + 3 * (2.86 - 2.5) / 3) / 4)
    assert calibration(np.zeros(0), np.zeros(0)) == []


def test_iou_of_empty_windows_and_shifted_squares() -> None:
    a, b = np.zeros((2, 20, 20), np.uint8)
    assert iou(a, b) == 0.0 == iou(a[:0], b[:0])
    a[5:15, 5:15] = 1
    for shift in range(6):
        b[:] = np.roll(a, shift, 1)
        assert iou(a, b) == pytest.approx((10 - shift) / (10 + shift))
