"""How a conversion shows how far it is: a bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from autopoly.jobs.conversion.options import Progress

EVERY = 5.0
"""Seconds between plain lines."""
Callback = Callable[["Progress"], None]


@contextmanager
def shown(quiet: bool) -> Iterator[Callback | None]:
    """Give a job what it calls with its progress, and clean the display up when it ends; None when quiet. All goes to stderr."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield from _bar()
    else:
        yield plain(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201


def plain(write: Callable[[str], None]) -> Callback:
    """Give a callback that writes a line at once, then every few seconds and at the end."""
    last = -EVERY

    def tell(done: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY or done.boxes >= done.boxes_total:
            last = now
            write(f"{done.boxes:,} of {done.boxes_total:,} boxes, {rate(done):.1f} boxes/s, {_left(done)}, {done.failures:,} failures")

    return tell


def rate(done: Progress) -> float:
    """Give boxes a second since this start; those of an earlier one do not count."""
    return (done.boxes - done.boxes_before) / done.seconds if done.seconds > 0 else 0.0


def _left(done: Progress) -> str:
    speed = rate(done)
    return f"{(done.boxes_total - done.boxes) / speed:.0f} s left" if speed > 0 else "time left unknown"


def _bar() -> Iterator[Callback]:
    columns = (
        TextColumn("boxes"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.1f}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failures]:,} failures"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("boxes", total=None, speed=0.0, failures=0)

        def tell(done: Progress) -> None:
            bar.update(task, completed=done.boxes, total=done.boxes_total, speed=rate(done), failures=done.failures)

        yield tell
