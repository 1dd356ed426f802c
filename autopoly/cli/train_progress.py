"""How a training shows how far it is: a bar on a terminal, a plain line every few seconds elsewhere; validations stay as lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from autopoly.cli.convert import clock
from autopoly.cli.progress import EVERY
from autopoly.jobs.train import line_of

if TYPE_CHECKING:
    from autopoly.training.loop import Report

Tell = Callable[["Report"], None]
Say = Callable[[str], None]
BRIEF = {"vertex": "vertex", "mask": "mask", "iou_contour": "IoU"}


@contextmanager
def shown() -> Iterator[tuple[Tell, Say]]:
    """Give a training what it calls with a report and with a line. All goes to stderr, and of torchrun's processes one speaks."""
    if os.environ.get("RANK", "0") != "0":
        yield (lambda report: None), (lambda line: None)
    elif sys.stderr.isatty():
        yield from _bar()
    else:
        say = _line
        yield plain(say), say


def plain(write: Say) -> Tell:
    """Give a callback that writes a line every few seconds, at each validation and at the end."""
    last = -EVERY

    def tell(report: Report) -> None:
        nonlocal last
        now = time.monotonic()
        if report.validated or now - last >= EVERY:
            last = now
            write(line_of(report))

    return tell


def _line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _bar() -> Iterator[tuple[Tell, Say]]:
    columns = (TextColumn("step {task.fields[step]:,}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=1.0, step=0, told="")

        def tell(report: Report) -> None:
            if report.validated:
                bar.console.print(line_of(report), markup=False, highlight=False, soft_wrap=True)
                bar.update(task, completed=report.progress, step=report.step)
                return
            left = "" if report.left is None else f"  {clock(report.left)} left"
            numbers = "  ".join(f"{label} {report.numbers[name]:.3f}" for name, label in BRIEF.items() if name in report.numbers)
            told = f"{report.speed:.0f} samples/s{left}  {numbers}"
            bar.update(task, completed=report.progress, step=report.step, told=told)

        yield tell, lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
