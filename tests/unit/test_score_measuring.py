"""What counts as a pair, as missing, as a region, and which numbers follow: small scenes whose values are known by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from autopoly.errors import DataError
from autopoly.geometry import raster
from autopoly.jobs.score import measure_dataset, score_datasets
from autopoly.jobs.scoring.measuring import ScoreOptions, measure
from autopoly.jobs.scoring.objects import components, target
from autopoly.jobs.scoring.scoreboard import delta
from autopoly.types import Category, Header, Id, Instance, Polygon, Record, Rle

SIZE = (100, 120)
NO_MASK: tuple[Polygon, ...] = ()


@dataclass
class InMemory:
    """A dataset of given records."""

    records: Sequence[Record]
    header: Header = field(default_factory=lambda: Header("memory", (Category(1, "cat"), Category(2, "dog"), Category(3, "unicorn"))))
    image_root: str = ""
    files: Sequence[Path] = ()

    @property
    def counts(self) -> np.ndarray:
        return np.array([len(record.instances) for record in self.records], np.int64)

    def record(self, index: int, picture: bool = True) -> Record:
        return self.records[index]


def square(x: float, y: float, side: float) -> Polygon:
    return Polygon(np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]]))


def ring(x: float, y: float, side: float, hole: float) -> Polygon:
    return Polygon(square(x, y, side).exterior, (square(x + (side - hole) / 2, y + (side - hole) / 2, hole).exterior,))


def one(name: Id, *polygons: Polygon, category: Id = 1, mask: Any = "polygons", **more: Any) -> Instance:
    corners = np.concatenate([p.exterior for p in polygons]) if polygons else np.full((1, 2), np.nan)
    box = more.pop("box", np.concatenate([corners.min(0), corners.max(0)]))
    return Instance(0, name, category, np.asarray(box, float), polygons if mask == "polygons" else mask, **more)


def image(*instances: Instance, name: Id = 7, size: tuple[int, int] | None = SIZE, file: str = "") -> Record:
    return Record(0, name, file or f"{name}.png", size, instances)


def scored(prediction: Sequence[Record], truth: Sequence[Record], **options: Any) -> dict[str, Any]:
    return score_datasets(InMemory(prediction), InMemory(truth), ScoreOptions(resamples=20, **options))[0]


TRUTH = [
    image(one(0, square(10, 10, 20)), one(1, square(50, 50, 40), category=2), one("two", ring(5, 60, 30, 10)), name=0),
    image(one(5, square(0, 0, 10), square(30, 30, 12)), name="b"),
]


@pytest.mark.parametrize("match", ["id", "iou"])
@pytest.mark.parametrize("per", ["instance", "component"])
def test_truth_against_itself_is_one_everywhere(match: str, per: str) -> None:
    found = scored(TRUTH, TRUTH, match=match, per=per)
    ones = ("miou", "miou_instances", "map_constant", "map_constant_by_id", "pass_rate", "f_1px", "f_2px")
    assert {name: found[name] for name in ones} == dict.fromkeys(ones, 1.0)
    assert (found["n"], found["missing"], found["extra"], found["map"]) == (5 if per == "component" else 4, 0, 0, None)
    assert found["ci95"]["miou"] == found["ci95"]["map_constant"] == [1.0, 1.0]
    assert "map" not in found["ci95"]  # the truth has no score to rank by
    assert found["categories_without_instances"] == ["unicorn"]
    assert [(row["name"], row["miou"]) for row in found["per_category"]] == [("cat", 1.0), ("dog", 1.0)]


def test_run_length_masks_and_polygons_of_one_shape_agree_with_holes_and_parts() -> None:
    as_rle = [
        image(
            *(one(i.instance_id, mask=raster.to_rle(i.mask, SIZE), box=i.box, category=i.category_id) for i in record.instances),
            name=record.image_id,
        )
        for record in TRUTH
    ]
    for prediction, truth in ((as_rle, TRUTH), (TRUTH, as_rle)):
        assert scored(prediction, truth)["miou"] == scored(prediction, truth)["f_1px"] == 1.0
    assert scored(as_rle, TRUTH)["vertices_mean"] is None
    assert scored(TRUTH, TRUTH)["vertices_mean"] == 4.0
    # Polygons: 4, 4, 8 (with its hole), 4, 4 of four instances.
    assert (scored(TRUTH, TRUTH)["vertices_per_component"], scored(TRUTH, TRUTH)["vertices_per_instance"]) == (24 / 5, 24 / 4)


def test_miou_is_the_mean_of_category_means_and_shifted_squares_follow_the_formula() -> None:
    truth = [image(one(1, square(10, 10, 20)), one(2, square(60, 10, 20)), one(3, square(10, 60, 20), category=2))]
    moved = [image(one(1, square(15, 10, 20)), one(2, square(60, 10, 20)), one(3, square(20, 60, 20), category=2))]
    found = scored(moved, truth)
    assert found["miou"] == pytest.approx(((0.6 + 1) / 2 + 1 / 3) / 2, abs=1e-6)
    assert found["miou_instances"] == pytest.approx((0.6 + 1 + 1 / 3) / 3, abs=1e-6)
    assert found["pass_rate"] == pytest.approx((3 + 10 + 0) / 30, abs=1e-6)
    assert found["by_size"]["small"]["n"] == 3
    assert found["by_size"]["large"] == {"n": 0, "miou": None, "miou_instances": None, "f_1px": None, "f_2px": None, "pass_rate": None}


def test_every_kind_of_missing_counts_as_zero_and_is_named() -> None:
    truth = [
        image(*(one(n, square(10 + 20 * n, 10, 15)) for n in range(4)), name=1),
        image(one(9, square(0, 0, 10)), name=2),
        image(one(10, square(0, 0, 10)), name=3),
    ]
    other_size = Rle((50, 60), raster.encode(np.ones((50, 60), bool)).counts)
    prediction = [
        image(one(0, square(10, 10, 15)), one(1, mask=NO_MASK), one(2, mask=other_size), name=1),
        image(one(10, square(0, 0, 10)), name=3, size=(200, 240)),
    ]
    found = scored(prediction, truth)
    assert (found["n"], found["missing"]) == (6, 5)
    assert {row["id"]: row["reason"] for row in found["missing_ids"]} == {
        1: "no_mask",
        2: "mask_unusable",
        3: "no_annotation",
        9: "no_image",
        10: "image_size_differs",
    }
    assert found["missing_reasons"]["no_mask"] == 1
    assert found["miou"] == found["f_1px"] == pytest.approx(1 / 6, abs=1e-6)
    assert found["map_constant"] == pytest.approx(17 / 101, abs=1e-6)  # recall ends at 1/6: precision 1 at 0.00 to 0.16


def test_ids_pair_as_text_in_the_order_of_repeats_and_within_their_image() -> None:
    truth = [image(one(1, square(0, 0, 10)), one(1, square(50, 50, 20)), name=1), image(one(1, square(20, 20, 30)), name=2)]
    prediction = [image(one("1", square(20, 20, 30)), name="2"), image(one("1", square(0, 0, 10)), one("1", square(50, 50, 20)), name="1")]
    assert scored(prediction, truth)["miou"] == 1.0
    third = [*prediction, image(one(4, square(0, 0, 9)), name=99)]
    assert (scored(third, truth)["miou"], scored(third, truth)["extra_images"]) == (1.0, 1)


def test_images_of_another_tool_pair_by_file_name_and_instances_by_overlap() -> None:
    truth = [image(one(1, square(0, 0, 20)), one(2, square(15, 0, 20)), name=1, file="x/1.jpg")]
    prediction = [image(one("k", square(14, 0, 20)), one("l", square(1, 0, 20)), one("m", square(3, 0, 20)), name="im", file="x/1.jpg")]
    assert scored(prediction, truth)["missing"] == 2
    assert "--match iou" in scored(prediction, truth)["notes"][-1]
    found = scored(prediction, truth, match="iou")
    assert (found["missing"], found["extra"]) == (0, 1)
    assert found["miou"] == pytest.approx(19 / 21, abs=1e-6)


def test_an_image_with_the_id_of_another_is_found_by_its_name() -> None:
    """Another tool numbered the images anew and kept their names."""
    truth = [image(one(1, square(10, 10, 20)), name=1, file="a.png"), image(one(2, square(60, 60, 20)), name=2, file="b.png")]
    swapped = [image(one(1, square(60, 60, 20)), name=1, file="to/b.png"), image(one(2, square(10, 10, 20)), name=2, file="to/a.png")]
    renamed = [replace(record, file_name=record.file_name[3:]) for record in swapped]
    found = scored(renamed, truth, match="iou")
    assert (found["miou_instances"], found["notes"]) == (1.0, [])
    # In other folders neither name is that of the truth: the ids decide, and that is said.
    found = scored(swapped, truth, match="iou")
    assert found["miou_instances"] == 0.0
    assert any(note.startswith("2 images have the id of a picture with another file name") for note in found["notes"])
    # The same names in other folders are no other pictures.
    moved = [replace(record, file_name=f"to/{record.file_name}") for record in truth]
    assert (scored(moved, truth)["miou_instances"], scored(moved, truth)["notes"]) == (1.0, [])


def test_crowd_regions_and_unjudged_truths_are_neither_measured_nor_held_against_a_prediction() -> None:
    crowd, bare = one(2, square(50, 50, 40), crowd=True), one(3, square(60, 5, 20), mask=None)
    dontcare = one(4, square(0, 60, 30), mask=None, crowd=True)
    truth = [image(one(1, square(10, 10, 20)), crowd, bare, dontcare)]
    right = one(1, square(10, 10, 20), quality=0.5)
    inside = [one(11, square(55, 55, 10), quality=0.9), one(12, square(2, 62, 10), quality=0.9), one(3, square(61, 5, 20), quality=0.9)]
    carried = [one(2, square(50, 50, 40), crowd=True), one(4, mask=NO_MASK)]
    found = scored([image(right, *inside, *carried)], truth)
    assert (found["n"], found["crowd"], found["unjudged"], found["map"]) == (1, 2, {"truth_without_mask": 1}, 1.0)
    wrong = one(13, square(100, 0, 10), quality=0.9)
    assert scored([image(right, *inside, wrong)], truth)["map"] == 0.5


def test_the_score_decides_map_and_never_map_constant() -> None:
    truth = [image(one(1, square(10, 10, 20)), one(2, square(60, 60, 20)))]

    def predicted(good: float | None, bad: float | None, key: str) -> dict[str, Any]:
        return scored([image(one(1, square(0, 60, 20), **{key: bad}), one(2, square(60, 60, 20), **{key: good}))], truth)

    sure, unsure = predicted(0.9, 0.1, "quality"), predicted(0.1, 0.9, "quality")
    assert sure["map"] == pytest.approx(51 / 101, abs=1e-6)
    assert unsure["map"] == pytest.approx(51 / 101 / 2, abs=1e-6)
    assert sure["map_constant"] == unsure["map_constant"]
    assert sure["convention"]["map_score"] == "quality"
    assert predicted(0.9, 0.1, "score")["convention"]["map_score"] == "score"
    assert predicted(None, None, "score")["map"] is None
    assert sure["quality_spearman"] == 1.0
    assert sure["quality_calibration"] == [
        {"low": 0.1, "high": 0.2, "n": 1, "quality": 0.1, "iou": 0.0},
        {"low": 0.9, "high": 1.0, "n": 1, "quality": 0.9, "iou": 1.0},
    ]


def test_swapped_neighbours_count_by_overlap_and_not_by_identity() -> None:
    truth = [image(one(1, square(10, 10, 20)), one(2, square(12, 10, 20)))]
    swapped = [image(one(1, square(12, 10, 20)), one(2, square(10, 10, 20)))]
    found = scored(swapped, truth)
    assert found["map_constant"] == 1.0
    assert found["map_constant_by_id"] < 0.8
    assert found["miou"] == pytest.approx(18 / 22, abs=1e-6)


@pytest.mark.parametrize("kept", [(1, 2, 4, 5), (0, 3), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("apart", [False, True])
def test_instances_without_ids_find_their_truth_when_some_are_left_out_or_grouped(kept: tuple[int, ...], apart: bool) -> None:
    """Named by their place in their file, which is another in a result of some categories, or of a truth not grouped by images."""
    pictures = [[square(10, 10, 20), square(40, 10, 20), square(70, 10, 20)]] * 2
    places = [0, 2, 4, 1, 3, 5] if apart else range(6)
    shapes = [(n // 3, shape) for n, shape in enumerate(pictures[0] + pictures[1])]
    truth = [
        image(*(one(f"#{places[n]}", s, category=1 + (n % 3 > 0)) for n, (at, s) in enumerate(shapes) if at == name), name=name)
        for name in (0, 1)
    ]
    made: list[list[Instance]] = [[], []]
    for ordinal, n in enumerate(kept):
        box = truth[n // 3].instances[n % 3].box * (1 + 1e-15)
        made[n // 3].append(one(f"#{ordinal}", square(14 + 30 * (n % 3), 10, 20), category=1 + (n % 3 > 0), box=box))
    found = scored([image(*instances, name=name) for name, instances in enumerate(made)], truth)
    assert (found["n"], found["missing"], found["extra"]) == (6, 6 - len(kept), 0)
    assert found["miou_instances"] == pytest.approx(len(kept) / 6 * 16 / 24, abs=1e-6)


def test_instances_of_one_box_without_ids_belong_together_in_their_order() -> None:
    whole, half = square(10, 10, 20), square(10, 10, 10)
    box = (10, 10, 30, 30)
    truth = [image(one("#4", whole, category=2), one("#7", whole), one("#9", half, box=box))]
    found = scored([image(one("#0", whole), one("#1", half, box=box))], truth)
    assert (found["missing_ids"], found["extra"]) == ([{"image_id": 7, "id": "#4", "reason": "no_annotation"}], 0)
    assert found["per_category"][0]["miou"] == 1.0


def test_the_population_is_chosen_by_the_true_box_and_all_are_printed_beside() -> None:
    truth = [image(one(1, square(10, 10, 40)), one(2, square(60, 60, 10), box=(60, 60, 110, 70)))]
    prediction = [image(one(1, square(10, 10, 40)), one(2, square(100, 0, 10), box=(60, 60, 110, 70)))]
    found = scored(prediction, truth, min_side=32)
    assert (found["n"], found["miou"], found["map_constant"]) == (1, 1.0, 1.0)
    assert (found["all"]["n"], found["all"]["miou"]) == (2, 0.5)
    assert found["all"]["map_constant"] < 0.6
    assert "all" not in scored(prediction, truth)
    with pytest.raises(DataError, match="--min-side"):
        scored(prediction, truth, min_side=500)


def test_components_are_scored_one_by_one_or_merged() -> None:
    truth = [image(one(1, square(0, 0, 10), square(40, 40, 30)), one(2, square(80, 0, 10), square(100, 0, 10)))]
    prediction = [image(one(1, square(40, 40, 30)), one(2, square(80, 0, 10), square(100, 2, 10), square(0, 90, 5)))]
    merged, parts = scored(prediction, truth), scored(prediction, truth, per="component")
    assert (merged["n"], merged["missing"]) == (2, 0)
    assert (parts["n"], parts["missing"], parts["extra"]) == (4, 1, 1)
    assert parts["missing_reasons"] == {"no_part": 1}
    assert merged["miou"] == pytest.approx((900 / 1000 + 180 / (220 + 25)) / 2, abs=1e-6)
    assert parts["miou"] == pytest.approx((1 + 0 + 1 + 80 / 120) / 4, abs=1e-6)
    assert parts["convention"]["per"] == "component"


def test_many_components_are_cut_one_by_one_in_time_that_grows_with_their_pixels() -> None:
    mask = np.random.default_rng(0).random((300, 280)) < 0.25
    mask[:, :40] = True  # runs over the full height go on in the next column
    begun = time.process_time()
    found = components(target(one(1, mask=raster.encode(mask), box=(0, 0, 280, 300)), (300, 280)))
    assert time.process_time() - begun < 2
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    assert len(found) == labels.max() > 3000
    assert [part.runs.area for part in found] == sorted(np.bincount(labels.ravel())[1:], reverse=True)
    whole = np.zeros((300, 280), int)
    for part in found:
        drawn = raster.decode(part.rle)
        assert len(np.unique(labels[drawn])) == 1
        whole += drawn
    assert (whole == mask).all()


def test_deltas_are_paired_and_name_what_got_worse() -> None:
    truth = [image(one(1, square(10, 10, 20)), one(2, square(60, 60, 20)), name=n) for n in range(5)]
    first = InMemory([image(one(1, square(10, 10, 20)), one(2, square(65, 60, 20)), name=n) for n in range(5)])
    second = InMemory([image(one(1, square(15, 10, 20)), one(2, square(60, 60, 20)), name=n) for n in range(5)])
    options = ScoreOptions(resamples=50)
    (a, before), (b, after) = (score_datasets(which, InMemory(truth), options) for which in (first, second))
    found = delta(before, after, a, b, options)
    assert found["miou"] == {"delta": 0.0, "ci95": [0.0, 0.0]}
    assert (found["better"], found["worse"]) == (5, 5)
    assert found["worst"][0] == {"image_id": 0, "id": 1, "category_id": 1, "iou_before": 1.0, "iou_after": 0.6}


def test_the_size_comes_from_whoever_knows_it() -> None:
    truth, prediction = [image(one(1, square(0, 0, 20)), size=None)], [image(one(1, square(0, 0, 20)))]
    assert scored(prediction, truth)["miou"] == 1.0
    rle = [image(one(1, mask=raster.to_rle((square(0, 0, 20),), SIZE), box=(0, 0, 20, 20)), size=None)]
    assert scored(rle, truth)["miou"] == 1.0
    known = image(one(2, square(0, 0, 9)), name=8)
    found = scored([*truth, known], [*truth, known])
    assert (found["n"], found["unjudged"]) == (1, {"image_size_unknown": 1})


def test_nothing_to_score_against_is_one_line() -> None:
    boxes = [image(one(1, square(0, 0, 10), mask=None))]
    with pytest.raises(DataError, match="TRUTH"):
        measure_dataset(InMemory(boxes), InMemory(boxes), ScoreOptions())
    empty = measure(0, image(), (), SIZE, "id", "instance")
    assert (empty.rows, empty.extra) == ([], 0)


def test_empty_predictions_of_everything_still_give_numbers() -> None:
    found = scored([], TRUTH)
    assert (found["missing"], found["miou"], found["map_constant"], found["f_2px"]) == (4, 0.0, 0.0, 0.0)
    assert found["map"] is None


def test_a_mask_that_was_predicted_is_no_truth() -> None:
    truth = [
        image(
            one(1, square(10, 10, 20)), one(2, square(50, 10, 20), mask_source="predicted"), one(3, square(80, 10, 20), mask_source="kept")
        )
    ]
    found = scored([image(one(1, square(10, 10, 20)), one(2, square(50, 10, 20)), one(3, square(80, 10, 20)))], truth)
    assert (found["n"], found["unjudged"], found["missing"]) == (2, {"truth_is_predicted": 1}, 0)
