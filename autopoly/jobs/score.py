"""Score predictions against truth, streaming over images: masks of one image at a time, numbers of all.

The result is a dict of JSON values. Fractions are in [0, 1], to six decimals; null where there is nothing to average. Of one prediction:

- ``schema`` (1), ``prediction``, ``truth``, ``convention`` (what the numbers mean: rasteriser, resolution, boundary element, averaging,
  pairing, population);
- ``n`` truths measured, ``images``, ``missing`` (truths without a usable prediction: IoU 0), ``missing_reasons`` {reason: count},
  ``missing_ids`` [{image_id, id, reason}] (the first 1000), ``extra`` (predictions of no truth), ``extra_images``, ``crowd`` regions,
  ``unjudged`` {reason: count};
- ``miou`` (mean of category means), ``miou_instances``, ``map`` (ranked by the model's own quality), ``map_constant`` (score 1),
  ``pass_rate``, ``map_by_id``, ``map_constant_by_id``, ``f_1px``, ``f_2px``, ``ci95`` {name: [low, high]};
- ``vertices_mean`` (per ring), ``vertices_per_component`` (per polygon with its holes), ``vertices_per_instance``;
- ``quality_spearman``, ``quality_calibration`` [{low, high, n, quality, iou}], ``quality_calibration_error``;
- ``per_category`` [{category_id, name, n, miou, f_1px, f_2px}], ``categories_without_instances`` [name], ``by_size`` {small, medium,
  large: {n, miou, miou_instances, f_1px, f_2px, pass_rate}}, ``notes`` [line];
- ``all`` (the same means over every instance) where ``convention.min_side`` > 0 chose some.

Of several: ``schema``, ``convention``, ``truth``, ``predictions`` (a list of the above) and ``deltas`` (each against the first):
``prediction``, ``against``, {name: {delta, ci95}}, ``changed_by``, ``better``, ``worse``, ``worst`` [{image_id, id, category_id,
iou_before, iou_after}].
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopoly.errors import DataError
from autopoly.jobs.conversion import run_folder
from autopoly.jobs.conversion.options import ConvertOptions
from autopoly.jobs.conversion.preparation import Setup
from autopoly.jobs.scoring.measuring import ImageResult, ScoreOptions, measure
from autopoly.jobs.scoring.objects import size_of
from autopoly.jobs.scoring.pairing import ImageFinder
from autopoly.jobs.scoring.scoreboard import SCHEMA, Table, delta, numbers
from autopoly.jobs.source import choose, locate
from autopoly.storage import place
from autopoly.types import Dataset, Header, Id, Record, mask_source_of

__all__ = ["Chosen", "ScoreOptions", "measure_dataset", "open_annotations", "score", "score_datasets", "score_run", "score_tables"]


def score(
    predictions: Sequence[Path], truth: Path, options: ScoreOptions | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Score prediction files or run folders against a truth file; see the module for the keys.

    ``progress`` is told the instances done, and how many there are.
    """
    return score_tables(predictions, truth, options or ScoreOptions(), progress)[0]


def score_tables(
    predictions: Sequence[Path], truth: Path, options: ScoreOptions, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], list[Table]]:
    """Do the same and give the per-instance tables too, one per prediction; row n of each is the same truth."""
    if not predictions:
        raise DataError("score needs at least one prediction and the truth: autopoly score PREDICTION... TRUTH")
    predictions, truth = [place(path) for path in predictions], place(truth)
    true = open_annotations(truth)
    tables = []
    every = int(true.counts.sum())
    for number, path in enumerate(predictions):
        step = None if progress is None else partial(_advance, progress, number * every, len(predictions) * every)
        table = measure_dataset(open_annotations(path), true, options, step, str(truth))
        tables.append(table.named(str(path), str(truth), _truth_boxes(path)))
    results = [numbers(table, options) for table in tables]
    if len(results) == 1:
        return results[0], tables
    deltas = [delta(tables[0], table, results[0], result, options) for table, result in zip(tables[1:], results[1:], strict=True)]
    common = {"schema": SCHEMA, "truth": str(truth), "convention": results[0]["convention"]}
    return {**common, "predictions": results, "deltas": deltas}, tables


def score_datasets(
    prediction: Dataset, truth: Dataset, options: ScoreOptions | None = None, truth_boxes: bool = False, names: tuple[str, str] = ("", "")
) -> tuple[dict[str, Any], Table]:
    """Score one open dataset against another: the numbers, and the per-instance table."""
    options = options or ScoreOptions()
    table = measure_dataset(prediction, truth, options).named(*names, truth_boxes)
    return numbers(table, options), table


def score_run(made: Dataset, setup: Setup, options: ConvertOptions) -> tuple[dict[str, Any], Table]:
    """Score what a conversion ``made`` against the masks of its source, over what it converted: the numbers and the per-instance table.

    Raise :class:`DataError` without a mask that can be measured against. A run per component is scored per instance, and per component
    under the key ``per_component``.
    """
    truth = Chosen(setup.dataset, setup.categories, options.limit)
    names = (made.files[0].name, setup.source.path.name)
    options_of = ScoreOptions()
    table = measure_dataset(made, truth, options_of, name=names[1]).named(*names, options.components_from_truth)
    result = numbers(table, options_of)
    if options.mode == "per-component":
        result["per_component"], _ = score_datasets(made, truth, ScoreOptions(per="component"), options.components_from_truth, names)
    return result, table


class Chosen:
    """The part of a dataset that a run converts: some categories, the first images."""

    def __init__(self, dataset: Dataset, categories: frozenset[Id] | None, limit: int | None) -> None:
        self._dataset, self._categories = dataset, categories
        self.header: Header = dataset.header
        self.image_root: str = dataset.image_root
        self.files = dataset.files
        self.counts: NDArray[np.int64] = dataset.counts[:limit]

    def record(self, index: int, picture: bool = True) -> Record:
        """Give record ``index`` with the chosen instances."""
        return choose(self._dataset.record(index, picture), self._categories)


def measure_dataset(
    prediction: Dataset, truth: Dataset, options: ScoreOptions, progress: Callable[[int, int], None] | None = None, name: str = "TRUTH"
) -> Table:
    """Measure every image of ``truth``, which errors call ``name``.

    Raise :class:`DataError` where no truth has a mask, or none is as large as asked.
    """
    finder = ImageFinder(prediction)
    results: list[ImageResult] = []
    unjudged: Counter[str] = Counter()
    crowd = kept = done = 0
    total = int(truth.counts.sum())
    for number in range(len(truth.counts)):
        image = truth.record(number, picture=False)
        found = finder.find(image)
        predicted = found.instances if found is not None else ()
        absent = "no_annotation" if found is not None else "no_image"
        size = size_of([image.size, found.size if found is not None else None], (*image.instances, *predicted))
        crowd += sum(one.crowd for one in image.instances)
        kept += sum(mask_source_of(one) == "kept" for one in predicted)
        if size is None:
            unjudged["image_size_unknown"] += sum(not one.crowd for one in image.instances)
            continue
        if found is not None and found.size is not None and tuple(found.size) != tuple(size):
            predicted, absent = (), "image_size_differs"
        result = measure(number, image, predicted, size, options.match, options.per, absent)
        unjudged.update(reason for _, reason in result.unjudged)
        results.append(result)
        done += len(image.instances)
        if progress is not None:
            progress(done, total)
    table = Table.of(results, truth.header.categories, crowd, kept, finder.unused(), dict(sorted(unjudged.items())))
    table = replace(table, renamed=finder.renamed)
    if not table.rows:
        why = ", ".join(f"{count} {reason}" for reason, count in table.unjudged.items())
        line = f"{name}: no instance has a mask to score against{f' ({why})' if why else ''}"
        raise DataError(f"{line}; give as TRUTH, the last path, a file with segmentations of its pictures")
    if not (np.array([row.side for row in table.rows]) >= options.min_side).any():
        raise DataError(f"{name}: no box has a shorter side of {options.min_side:g} px or more; lower --min-side")
    return table


def open_annotations(path: Path, images: Path | None = None) -> Dataset:
    """Open a file in any known format, or the annotations of a run folder, with its pictures in ``images`` (None: beside it).

    Raise :class:`DataError` where there is nothing to read.
    """
    path = place(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if (path / "run.json").exists():
        written = [path / name for name in run_folder.ANNOTATIONS.values() if (path / name).exists()]
        if not written:
            raise DataError(f"{path}: a run folder without annotations; finish the run first (give its convert command again)")
        path = written[0]
    return locate(path, None, images, None).open()


def _advance(progress: Callable[[int, int], None], before: int, every: int, done: int, _: int) -> None:
    progress(before + done, every)


def _truth_boxes(path: Path) -> bool:
    """Say whether a run folder was made with boxes taken from the truth."""
    try:
        return bool(json.loads((path / "run.json").read_text()).get("truth_boxes", False))
    except (OSError, ValueError, AttributeError):
        return False
