"""``autopoly train``: parse and call the job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopoly.cli.convert import Device, clock
from autopoly.errors import RecipeError


def train(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe with a [train] table, instead of --train.")] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--train", metavar="SRC[=WEIGHT]", help="What to learn from, and how often it is drawn; repeatable.")
    ] = None,
    val: Annotated[list[Path] | None, typer.Option(metavar="SRC", help="What to validate on; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the checkpoint and the log go.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="How many times every instance is seen.")] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="How long to train, instead of --epochs.")] = None,
    backbone: Annotated[str | None, typer.Option(metavar="B", help="A timm or torchvision model; the shipped one by default.")] = None,
    init: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="Start from these weights.")] = None,
    device: Annotated[Device, typer.Option(help="Where the network learns.")] = Device.AUTO,
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="Processes that prepare batches.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Everything random follows from it.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR.")] = False,
) -> None:
    """Train the network on instances with masks."""
    if (recipe is None) == (not sources):
        raise RecipeError("train: give a RECIPE or --train SRC with --out DIR, one of them")
    if sources and out is None:
        raise RecipeError("train: --out DIR is missing; say where the checkpoint goes")
    if epochs is not None and minutes is not None:
        raise RecipeError("train: --epochs and --minutes exclude each other; choose one")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise RecipeError(f"--minutes {minutes}: expected more than 0")
    from autopoly.jobs import train as job

    options = job.TrainOptions(
        recipe=recipe,
        train=tuple(weighted(text) for text in sources or ()),
        val=tuple(val or ()),
        out=out,
        epochs=epochs,
        minutes=minutes,
        backbone=backbone,
        init=init,
        device=device.value,
        workers=workers,
        seed=seed,
        resume=resume,
    )
    summary = job.train(options)
    typer.echo(f"{summary.folder}: {summary.steps:,} steps in {clock(summary.seconds)}")


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
