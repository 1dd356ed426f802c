"""``autopoly score``: parse, call the job, print a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ROWS = (
    ("miou", "mIoU, by category"),
    ("miou_instances", "mIoU, by instance"),
    ("map", "mAP, own score"),
    ("map_constant", "mAP, constant score"),
    ("pass_rate", "pass rate"),
    ("map_by_id", "mAP by id, own"),
    ("map_constant_by_id", "mAP by id, constant"),
    ("f_1px", "F 1 px"),
    ("f_2px", "F 2 px"),
)
COUNTS = (
    ("vertices_mean", "vertices / polygon"),
    ("vertices_per_component", "vertices / component"),
    ("vertices_per_instance", "vertices / instance"),
)


class Match(StrEnum):
    """How predictions find their truth."""

    ID = "id"
    IOU = "iou"


class Per(StrEnum):
    """What is scored as one."""

    INSTANCE = "instance"
    COMPONENT = "component"


def score(
    paths: Annotated[list[Path], typer.Argument(metavar="PREDICTION... TRUTH", help="Files or run folders to score, then the truth.")],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every number here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a report with pictures: one file.")] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the pictures of --html are (default: beside the truth).")
    ] = None,
    match: Annotated[Match, typer.Option(help="Pair by annotation id, or by overlap for another tool's file.")] = Match.ID,
    min_side: Annotated[float, typer.Option(min=0, metavar="PX", help="Only instances whose box has a shorter side of PX or more.")] = 0.0,
    per: Annotated[Per, typer.Option(help="Score whole instances, or their connected components.")] = Per.INSTANCE,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Score predictions against truth: mIoU, mAP and boundary F, each with its convention. Missing predictions count as 0."""
    import json

    from rich.console import Console

    from autopoly.errors import DataError
    from autopoly.jobs.score import ScoreOptions, score_tables
    from autopoly.report import report_files
    from autopoly.storage import place

    if len(paths) < 2:
        raise DataError(f"{paths[0]}: score needs a prediction and the truth: autopoly score PREDICTION... TRUTH")
    for file, option in ((json_file, "--json"), (html_file, "--html")):
        if file is not None and not file.resolve().parent.is_dir():
            raise DataError(f"{file}: its folder does not exist; make it, or give {option} another place")
        if file is not None and file.is_dir():
            raise DataError(f"{file}: is a folder; give {option} a file")
    images = images and place(images)
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder of pictures; check --images")
    *predictions, truth = map(place, paths)
    options = ScoreOptions(match=match.value, per=per.value, min_side=min_side)
    console = Console()
    with _progress(quiet) as tell:
        result, tables = score_tables(predictions, truth, options, tell)
    if json_file is not None:
        partial = json_file.with_name(json_file.name + ".partial")
        partial.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(json_file)
    if html_file is not None:
        report_files(html_file, result, tables[0], predictions[0], truth, images)
    _print(console, result)


def notes_of(result: Mapping[str, Any]) -> list[str]:
    """Give what a reader of a score must know beside its numbers, a line each."""
    return [f"{one['prediction']}: {note}" for one in result.get("predictions", [result]) for note in one["notes"]]


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show instances done: a bar on a terminal, a plain line every few seconds elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    from autopoly.cli.progress import EVERY

    if quiet:
        yield None
    elif sys.stderr.isatty():
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("instances", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        said = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said >= EVERY:
                said = time.monotonic()
                typer.echo(f"{done:,} of {total:,} instances", err=True)

        yield tell


def _print(console: Console, result: dict[str, Any]) -> None:
    results = result.get("predictions", [result])
    console.print(_table(results, result.get("deltas", [])))
    convention = result["convention"]
    for line in (
        f"{convention['population']}, per {convention['per']}, paired by {convention['match']}; {convention['mean']}",
        "mAP, own score: ranked by " + ", ".join(sorted({one["convention"]["map_score"] for one in results})) + f"; {convention['map']}",
        f"masks: {convention['rasteriser']}, {convention['resolution']}; boundary: {convention['boundary']}; [..]: {convention['ci95']}",
        *notes_of(result),
        *(f"{one['prediction']}: missing {_missing(one)}" for one in results if one["missing"]),
        *(f"{one['prediction']}: {one['better']} better, {one['worse']} worse than {one['against']}" for one in result.get("deltas", [])),
    ):
        console.print(line, style="dim", markup=False, highlight=False)


def _table(results: list[dict[str, Any]], deltas: list[dict[str, Any]]) -> Table:
    """Lay out a column per prediction (its 95 % interval beside), the same over all instances where some were chosen, then the deltas."""
    from rich.markup import escape
    from rich.table import Table

    columns: list[tuple[str, dict[str, Any]]] = []
    for one in results:
        columns.append((Path(one["prediction"]).name, one))
        if "all" in one:
            columns.append(("all instances", one["all"]))
    table = Table("%", *(escape(name) for name, _ in columns), *(escape(f"{Path(one['prediction']).name} - first") for one in deltas))
    for key, label in (("n", "instances"), ("missing", "missing")):
        table.add_row(label, *(f"{values[key]:,}" for _, values in columns), *([""] * len(deltas)))
    for key, label in ROWS:
        cells = [_cell(values.get(key), values.get("ci95", {}).get(key)) for _, values in columns]
        changes = [_cell(one.get(key, {}).get("delta"), one.get(key, {}).get("ci95"), sign="+") for one in deltas]
        table.add_row(label, *cells, *changes)
    for key, label in COUNTS:
        table.add_row(label, *(f"{values[key]:.1f}" if values.get(key) is not None else "" for _, values in columns), *([""] * len(deltas)))
    ranks = [values.get("quality_spearman") for _, values in columns]
    table.add_row("quality vs IoU, rho", *("" if rank is None else f"{rank:.3f}" for rank in ranks), *([""] * len(deltas)))
    return table


def _cell(value: float | None, interval: list[float] | None = None, sign: str = "") -> str:
    """Write a fraction in percent, with its interval."""
    if value is None:
        return ""
    text = f"{100 * value:{sign}.2f}"
    return f"{text} [{100 * interval[0]:{sign}.1f} {100 * interval[1]:{sign}.1f}]" if interval else text


def _missing(result: dict[str, Any]) -> str:
    """Name the first missing truths and count the rest by reason."""
    named = ", ".join(str(row["id"]) for row in result["missing_ids"][:8])
    reasons = ", ".join(f"{count} {reason}" for reason, count in result["missing_reasons"].items())
    return f"{reasons}: {named}{' ...' if result['missing'] > 8 else ''}"
