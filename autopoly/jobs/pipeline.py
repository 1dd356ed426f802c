"""Run a recipe: its tables in order, the resolved recipe and one result beside what they leave, published numbers beside ours.

In the folder of the result: what ``[convert]`` leaves (it is a run folder), ``train/`` (what ``[train]`` leaves), ``recipe.toml`` (every
option that was in force) and ``result.json``: ``schema``, ``recipe``, ``autopoly``, ``seconds``, ``score`` (as ``autopoly score --json``,
or null), ``expect`` (the published rows, in percent) and ``ours`` (the same names, in percent, for each way the result was scored).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import autopoly
from autopoly import recipes
from autopoly.errors import DataError, RunError
from autopoly.execute import parts
from autopoly.jobs import convert as conversion
from autopoly.jobs import demo_pictures, recipe_data
from autopoly.jobs.conversion.options import Plan, Progress, Summary
from autopoly.jobs.score import Chosen, open_annotations, score_datasets, score_tables
from autopoly.jobs.source import category_ids, locate
from autopoly.recipes import METRICS, Recipe
from autopoly.storage import ObjectPath, place

SCHEMA = "autopoly.recipe/1"
RECIPE, RESULT, TRAINED = "recipe.toml", "result.json", "train"


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom a recipe tells how far it is: a line of training, boxes converted, instances scored."""

    line: Callable[[str], None]
    convert: Callable[[Progress], None] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a recipe made; ``ours`` maps the way of scoring to values in percent, by metric and, under ``per_category``, by category."""

    folder: Path
    recipe: Recipe
    summary: Summary | None
    checkpoint: Path | None
    score: Mapping[str, Any] | None
    ours: Mapping[str, Mapping[str, Any]]
    seconds: float

    @property
    def exit_code(self) -> int:
        """Give 1 where the conversion has failures, else 0."""
        return 0 if self.summary is None else self.summary.exit_code


def check(recipe: Recipe, data: Path, out: Path) -> list[str]:
    """Do all but the work: find the data, open every source, find the checkpoint; say what would run.

    Raise AutopolyError, with what to download, for what is not there. Nothing is written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ready = _placed(recipe, data, place(out), demo=Path(scratch))
        lines = []
        if ready.train is not None:
            for path in (*(path for path, _ in ready.train.train), *ready.train.val):
                dataset = locate(path, None, None, None).open()
                lines.append(f"train: {path}, {dataset.header.format}, {len(dataset.counts):,} images, {int(dataset.counts.sum()):,} boxes")
            if ready.train.init is not None:
                from autopoly.network import checkpoint

                lines.append(f"train: starts from {checkpoint.resolve(ready.train.init)}")
        if ready.convert is not None and _trained_here(ready):
            source = locate(ready.convert.source, ready.convert.from_format, ready.convert.images, ready.convert.bbox_format)
            dataset = source.open()
            lines.append(f"convert: {source.format}, {len(dataset.counts):,} images, {int(dataset.counts.sum()):,} boxes, once trained")
        elif ready.convert is not None:
            planned = conversion.plan(ready.convert)
            lines.append(f"convert: {_plan_line(planned)}")
            lines += [f"note: {note}" for note in planned.notes]
        if ready.score is not None and ready.score.truth is not None:
            for path in (*ready.score.predictions, ready.score.truth):
                lines.append(f"score: {path}, {int(open_annotations(path).counts.sum()):,} annotations")
        elif ready.score is not None:
            lines.append("score: the result against the masks of its source")
    return lines


def run(recipe: Recipe, data: Path, out: Path, listeners: Listeners) -> Result:
    """Run a recipe into the folder ``out``; what was finished before is not done again.

    Raise AutopolyError where it cannot run, or ``out`` holds the training of another recipe.
    """
    started, out = time.monotonic(), place(out)
    ready = _placed(recipe, data, out, demo=out)
    trained = _train(ready, out, listeners) if ready.train is not None else None
    summary = None
    if ready.convert is not None:
        if trained is not None and _trained_here(ready):
            ready = replace(ready, convert=replace(ready.convert, checkpoint=str(trained)))
        assert ready.convert is not None
        summary = conversion.convert(ready.convert, listeners.convert)
    score = _score(ready, out)
    result = Result(out, ready, summary, trained, score, _ours(score), time.monotonic() - started)
    out.mkdir(parents=True, exist_ok=True)
    parts.commit(out / RECIPE, recipes.dump(ready).encode())
    told = {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "autopoly": autopoly.__version__,
        "seconds": round(result.seconds, 3),
        "expect": [asdict(one) for one in recipe.expect],
        "ours": result.ours,
        "score": score,
    }
    parts.commit(out / RESULT, json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n")
    return result


def _placed(recipe: Recipe, data: Path, out: Path, demo: Path) -> Recipe:
    if isinstance(out, ObjectPath) and (recipe.train is not None or recipe.data.demo):
        raise RunError(f"{out}: a training and the demo write files piece by piece; choose a folder of a file system for --out")
    if recipe.data.demo:
        demo_pictures.write_source(demo / "demo")
        ready = recipe_data.placed(recipe, demo.absolute())
    else:
        ready = recipe_data.locate(recipe, place(data).absolute())
    train = ready.train and replace(ready.train, out=out / TRAINED)
    return replace(ready, train=train, convert=ready.convert and replace(ready.convert, out=out))


def _trained_here(recipe: Recipe) -> bool:
    """Say whether the conversion uses what the recipe trains: when it names no checkpoint of its own."""
    return recipe.train is not None and recipe.convert is not None and recipe.convert.checkpoint is None


def _train(recipe: Recipe, out: Path, listeners: Listeners) -> Path:
    assert recipe.train is not None
    folder, table = recipe.train.out, recipes.dump(replace(recipe, convert=None, score=None, expect=()))
    mark = folder / RECIPE
    if mark.exists() and mark.read_text(encoding="utf-8") != table:
        raise RunError(f"{folder}: holds a training of another recipe or other options; choose another --out")
    if (folder / "checkpoint" / "config.json").exists():
        listeners.line(f"{folder}: trained before, nothing to do")
        return folder / "checkpoint"
    from autopoly.jobs import train as training

    resume = (folder / "state.safetensors").exists()
    if resume and not mark.exists():
        raise RunError(f"{folder}: holds a training that no recipe began; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    parts.commit(mark, table.encode())

    def tell(report: training.Report) -> None:
        listeners.line(training.line_of(report))

    return training.run(replace(recipe.train, resume=resume), tell, listeners.line)


def _score(recipe: Recipe, out: Path) -> dict[str, Any] | None:
    """Score as ``[score]`` says; without it take what the conversion scored, None where there were no masks."""
    table, convert = recipe.score, recipe.convert
    if table is None:
        scored = out / "score.json"
        whole: dict[str, Any] | None = json.loads(scored.read_text()) if convert is not None and scored.exists() else None
        return whole
    if table.truth is not None:
        return score_tables(table.predictions, table.truth, table.options, None)[0]
    assert convert is not None
    source = locate(convert.source, convert.from_format, convert.images, convert.bbox_format).open()
    truth = Chosen(source, category_ids(source.header, convert.categories), convert.limit)
    if not len(truth.counts):
        raise DataError(f"{convert.source}: no images, hence nothing to score")
    return score_datasets(open_annotations(out), truth, table.options, convert.components_from_truth, (str(out), str(convert.source)))[0]


def _ours(score: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Give our values in percent for each way of scoring: by instance, by component, or by prediction where there are several."""
    if score is None:
        return {}
    if "predictions" in score:
        return {one["prediction"]: _percents(one) for one in score["predictions"]}
    made = {f"per {score['convention']['per']}": _percents(score)}
    if "per_component" in score:
        made["per component"] = _percents(score["per_component"])
    return made


def _percents(score: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {name: _percent(score[name]) for name in (*METRICS, "miou_instances", "map_constant")}
    values["per_category"] = {one["name"]: _percent(one["miou"]) for one in score["per_category"]}
    return {"n": score["n"], "missing": score["missing"], **values}


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _plan_line(plan: Plan) -> str:
    return f"{plan.format}, {plan.images:,} images, {plan.boxes:,} boxes, on {plan.device}, roughly {plan.seconds:.0f} s ({plan.state})"
