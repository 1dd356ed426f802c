"""``autopoly train``: parse and call the job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopoly.cli.convert import Device, clock
from autopoly.errors import RecipeError


def train(
    sources: Annotated[
        list[str], typer.Option("--train", metavar="SRC[=WEIGHT]", help="What to learn from, and how often it is drawn; repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the checkpoint, the state to resume from and the log go.")],
    val: Annotated[list[Path] | None, typer.Option(metavar="SRC", help="Held out whole and validated on; repeatable.")] = None,
    epochs: Annotated[float, typer.Option(metavar="N", help="How many times as many samples are drawn as there are.")] = 4.0,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="How long to train, instead of --epochs.")] = None,
    backbone: Annotated[str | None, typer.Option(metavar="B", help="A timm or torchvision model; the shipped one by default.")] = None,
    init: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="Start from these weights.")] = None,
    device: Annotated[Device, typer.Option(help="Where the network learns.")] = Device.AUTO,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that prepare batches.")] = 1,
    seed: Annotated[int, typer.Option(metavar="S", help="Everything random follows from it.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in DIR.")] = False,
) -> None:
    """Train the network on instances with masks."""
    from autopoly.jobs import train as job

    options = job.TrainOptions(
        train=tuple(weighted(text) for text in sources),
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
    folder = job.run(options, lambda report: typer.echo(_line(report.step, report.progress, report.seconds, report.numbers)))
    typer.echo(f"{folder}: the trained checkpoint; use it with --checkpoint {folder}")


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
