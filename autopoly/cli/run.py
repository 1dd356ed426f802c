"""``autopoly run``: read a recipe, run its tables, print the published row beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from autopoly.jobs.pipeline import Result

LABELS = {"miou": "mIoU, by category", "map": "mAP", "f_1px": "F 1 px", "f_2px": "F 2 px"}
OWN = {"miou_instances": "mIoU, by instance", "map_constant": "mAP, constant score"}


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A .toml file, or a shipped recipe such as paper/kitti.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the recipe's data is; AUTOPOLY_DATA or the current folder where not given.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change an option; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where everything goes.  [default: runs/ and the recipe's name]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check recipe, data and checkpoint, say what would run, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result alone.")] = False,
) -> None:
    """Run a recipe: train, convert and score as it says, and print published numbers beside the result.

    The same command again goes on where it was cut off.
    """
    from autopoly import recipes
    from autopoly.cli.convert import clock, summary_lines
    from autopoly.cli.progress import shown
    from autopoly.cli.score import notes_of
    from autopoly.jobs import pipeline
    from autopoly.jobs.recipe_data import data_folder
    from autopoly.storage import place

    read = recipes.load(recipes.find(recipe), settings or ())
    folder = place(out or Path("runs") / read.name)
    if dry_run:
        for line in pipeline.check(read, data_folder(data), folder):
            typer.echo(line)
        typer.echo(f"results: would go to {folder}")
        return
    with shown(quiet) as progress:
        listeners = pipeline.Listeners((lambda _: None) if quiet else (lambda line: typer.echo(line, err=True)), progress)
        result = pipeline.run(read, data_folder(data), folder, listeners)
    if result.checkpoint is not None:
        typer.echo(f"checkpoint: {result.checkpoint}")
    for line in () if result.summary is None else summary_lines(result.summary):
        typer.echo(line)
    if result.ours:
        from rich.console import Console

        Console().print(table_of(result))
    for line in () if result.score is None else notes_of(result.score):
        typer.echo(f"note: {line}")
    typer.echo(f"{folder}: {pipeline.RECIPE} has every option, {pipeline.RESULT} every number; {clock(result.seconds)}")
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def table_of(result: Result) -> Table:
    """Lay out the published rows, a column each, then ours, a column per way of scoring; percent."""
    from rich.markup import escape
    from rich.table import Table

    expect, ours = result.recipe.expect, result.ours
    table = Table("%", *(escape(f"paper, Table {one.table}: {one.row}") for one in expect), *(f"ours, {name}" for name in ours))
    blank = [""] * len(expect)
    for name in ("n", "missing"):
        table.add_row({"n": "instances"}.get(name, name), *blank, *(f"{one[name]:,}" for one in ours.values()))
    for key, label in LABELS.items():
        table.add_row(label, *(_cell(getattr(one, key)) for one in expect), *(_cell(one[key]) for one in ours.values()))
    for key, label in OWN.items():
        table.add_row(label, *blank, *(_cell(one[key]) for one in ours.values()))
    names = dict.fromkeys(name.lower() for one in (row.per_category for row in expect) for name in one)
    for name in names:
        published = [_cell({key.lower(): value for key, value in one.per_category.items()}.get(name)) for one in expect]
        found = [_cell({key.lower(): value for key, value in one["per_category"].items()}.get(name)) for one in ours.values()]
        table.add_row(escape(f"IoU, {name}"), *published, *found)
    return table


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
