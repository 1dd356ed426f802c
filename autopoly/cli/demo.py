"""``autopoly demo``: real pictures, boxes, polygons and an overlay sheet, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autopoly.cli.convert import Device, clock


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where everything is written.")] = Path("demo-out"),
    checkpoint: Annotated[
        str | None, typer.Option(metavar="C", help="A name in checkpoints/ or a folder; the shipped one where not given.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.AUTO,
) -> None:
    """Convert boxes on a few real photos to polygons and draw them: no data, no network needed."""
    from rich.console import Console
    from rich.table import Table

    from autopoly.cli.progress import shown
    from autopoly.jobs import demo as job

    with shown(quiet=False) as progress:
        made = job.demo(folder, checkpoint, device.value, progress)
    table = Table("picture", "object", "box, px", "polygons", "vertices", "quality")
    for row in made.rows:
        size = " x ".join(f"{side:.0f}" for side in row.box_size)
        quality = "" if row.quality is None else f"{row.quality:.2f}"
        table.add_row(row.picture, row.category, size, str(row.parts), "has holes" if row.vertices is None else str(row.vertices), quality)
    Console().print(table)
    typer.echo(f"{len(made.rows)} boxes in {clock(made.seconds)}")
    for what, path in made.places.items():
        typer.echo(f"{what}: {path}")
    if made.exit_code:
        raise typer.Exit(made.exit_code)
