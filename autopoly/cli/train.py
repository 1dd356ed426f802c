"""``autopoly train``: parse and call the job."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopoly.cli.convert import Device
from autopoly.config import Precision
from autopoly.errors import RecipeError

if TYPE_CHECKING:
    from autopoly.jobs.train_options import TrainOptions

DATA, LEARNING, MEASURING = "Data", "Learning", "Measuring"


def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the checkpoint, the state to resume from and the log go.")],
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A recipe that trains; options change it.")] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="SRC[=WEIGHT]",
            help="What to learn from, in any format, and how often it is drawn; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    val: Annotated[
        list[Path] | None, typer.Option(metavar="SRC", help="Held out whole and validated on; repeatable.", rich_help_panel=DATA)
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of each --train source's images held out too.  [default: 0.04]", rich_help_panel=DATA),
    ] = None,
    shapes: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of what is learned from that is drawn: shapes with exact edges and the photos' textures.  [default: 0]",
            rich_help_panel=DATA,
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the recipe's data is.", rich_help_panel=DATA)] = None,
    epochs: Annotated[
        float | None,
        typer.Option(metavar="N", help="How many times as many samples are drawn as there are.  [default: 4]", rich_help_panel=LEARNING),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="How long to train, instead of --epochs.", rich_help_panel=LEARNING)
    ] = None,
    edge_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="After it: steps of the pass that moves outlines of large objects onto edges; 800 are enough.  [default: 0]",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    correction_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="After it: steps of the pass that follows a user's corrections; 1500 are enough.  [default: 0]",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Samples of a step, over all processes.  [default: 32]", rich_help_panel=LEARNING)
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Peak learning rate.  [default: 0.001]", rich_help_panel=LEARNING)] = None,
    warmup: Annotated[
        int | None, typer.Option(metavar="STEPS", help="Steps to the peak rate.  [default: 200]", rich_help_panel=LEARNING)
    ] = None,
    clip: Annotated[
        float | None, typer.Option(metavar="NORM", help="Largest gradient norm.  [default: 5]", rich_help_panel=LEARNING)
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Memory of the averaged weights, per step.  [default: 0.999]", rich_help_panel=LEARNING),
    ] = None,
    sides: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SHARE=]PX",
            help="Crop side, and from which share of the training on; repeatable.  [default: 160, 0.72=224; with --init the checkpoint's]",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Numbers of the network; fp16 on CUDA alone.  [default: auto]", rich_help_panel=LEARNING, show_default=False),
    ] = None,
    validations: Annotated[
        int | None, typer.Option(metavar="N", help="How often held-out images are measured.  [default: 10]", rich_help_panel=MEASURING)
    ] = None,
    validation_samples: Annotated[
        int | None, typer.Option(metavar="N", help="Most held-out instances measured.  [default: 512]", rich_help_panel=MEASURING)
    ] = None,
    backbone: Annotated[str | None, typer.Option(metavar="B", help="A timm or torchvision model; the shipped one by default.")] = None,
    init: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="Start from these weights, not from ImageNet's.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where the network learns.  [default: auto]")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that prepare batches.  [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Everything random follows from it.  [default: 0]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in DIR.")] = False,
) -> None:
    """Train the network on instances with masks.

    Several GPUs or machines: torchrun --nproc-per-node N -m autopoly train ..., with DIR on storage that all of them share.
    """
    given: dict[str, Any] = {
        "train": None if not sources else tuple(weighted(text) for text in sources),
        "val": None if not val else tuple(val),
        "held_out": held_out,
        "shapes": shapes,
        "epochs": epochs,
        "minutes": minutes,
        "edge_steps": edge_steps,
        "correction_steps": correction_steps,
        "batch": batch,
        "rate": rate,
        "warmup": warmup,
        "clip": clip,
        "ema": ema,
        "sides": None if not sides else tuple(side_from(text) for text in sides),
        "precision": precision,
        "validations": validations,
        "validation_samples": validation_samples,
        "backbone": backbone,
        "init": init,
        "device": None if device is None else device.value,
        "workers": workers,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    options = _options(recipe, data, given, out, resume)
    options.check()  # before torch is loaded
    from autopoly.cli.train_progress import shown
    from autopoly.jobs import train as job

    with shown() as (tell, say):
        folder = job.run(options, tell, say)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes, the one that speaks
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


def side_from(text: str) -> tuple[float, int]:
    """Take [SHARE=]PX apart; without a share the side counts from the start.

    >>> side_from("160"), side_from("0.72=224")
    ((0.0, 160), (0.72, 224))
    """
    share, _, side = text.rpartition("=")
    try:
        return float(share or 0), int(side)
    except ValueError as error:
        raise RecipeError(f"--sides {text}: expected a crop side in px, or SHARE=PX, such as 160 or 0.72=224") from error


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
