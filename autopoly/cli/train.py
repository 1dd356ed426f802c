"""``autopoly train``: parse and call the job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopoly.cli.convert import Device, clock
from autopoly.errors import RecipeError

if TYPE_CHECKING:
    from autopoly.jobs.train_options import TrainOptions


def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the checkpoint, the state to resume from and the log go.")],
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A recipe that trains; options change it.")] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--train", metavar="SRC[=WEIGHT]", help="What to learn from, and how often it is drawn; repeatable."),
    ] = None,
    val: Annotated[list[Path] | None, typer.Option(metavar="SRC", help="Held out whole and validated on; repeatable.")] = None,
    epochs: Annotated[
        float | None, typer.Option(metavar="N", help="How many times as many samples are drawn as there are.  [default: 4]")
    ] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="How long to train, instead of --epochs.")] = None,
    backbone: Annotated[str | None, typer.Option(metavar="B", help="A timm or torchvision model; the shipped one by default.")] = None,
    init: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="Start from these weights.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where the network learns.  [default: auto]")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that prepare batches.  [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Everything random follows from it.  [default: 0]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in DIR.")] = False,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the recipe's data is.")] = None,
) -> None:
    """Train the network on instances with masks."""
    given: dict[str, Any] = {
        "train": None if not sources else tuple(weighted(text) for text in sources),
        "val": None if not val else tuple(val),
        "epochs": epochs,
        "minutes": minutes,
        "backbone": backbone,
        "init": init,
        "device": None if device is None else device.value,
        "workers": workers,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    options = _options(recipe, data, given, out, resume)
    from autopoly.jobs import train as job

    folder = job.run(options, lambda report: typer.echo(_line(report.step, report.progress, report.seconds, report.numbers)))
    typer.echo(f"{folder}: the trained checkpoint; use it with --checkpoint {folder}")


def _options(recipe: str | None, data: Path | None, given: dict[str, Any], out: Path, resume: bool) -> TrainOptions:
    """Take the options of a recipe, if any, with those given on the command line in their place."""
    from autopoly.jobs.train_options import TrainOptions

    if recipe is None:
        if "train" not in given:
            raise RecipeError("train: name a recipe, or at least one dataset with masks: autopoly train --train SRC --out DIR")
        if data is not None:
            raise RecipeError("--data: only a recipe has paths that count from it; leave it out")
        return TrainOptions(**given, out=out, resume=resume)
    from autopoly import recipes
    from autopoly.jobs import recipe_data

    read = recipes.load(recipes.find(recipe))
    if read.train is None:
        raise RecipeError(f"{recipe}: has no table [train]; run it with autopoly run {recipe}")
    # Paths of the command line count from the current folder, those of the recipe from the data folder.
    if "train" in given:
        given["train"] = tuple((path.absolute(), weight) for path, weight in given["train"])
    if "val" in given:
        given["val"] = tuple(path.absolute() for path in given["val"])
    # Only what is learned from: the recipe's other tables may need data of their own.
    options = replace(read, train=replace(read.train, **given), convert=None, score=None)
    placed = recipe_data.locate(options, recipe_data.data_folder(data))
    assert placed.train is not None
    return replace(placed.train, out=out, resume=resume)


def _line(step: int, progress: float, seconds: float, numbers: dict[str, float]) -> str:
    told = "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())
    return f"step {step:,}  {progress:.1%}  {clock(seconds)}  {told}"


def weighted(text: str) -> tuple[Path, float]:
    """Take SRC=WEIGHT apart; the weight is 1 where none is given. A path may hold equals signs of its own.

    >>> weighted("photos/a.json=0.5")
    (PosixPath('photos/a.json'), 0.5)
    >>> weighted("run=3/a.json")
    (PosixPath('run=3/a.json'), 1.0)
    """
    path, _, tail = text.rpartition("=")
    try:
        weight = float(tail)
    except ValueError:
        return Path(text), 1.0
    if not path:
        return Path(text), 1.0
    if not 0 < weight < float("inf"):
        raise RecipeError(f"--train {text}: the weight must be more than 0")
    return Path(path), weight
