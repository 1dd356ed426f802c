"""The HTML report: one file that opens from disk, needs no network, and stays small whatever the size of the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopoly.jobs.conversion.options import ConvertOptions
from autopoly.jobs.conversion.preparation import Setup
from autopoly.jobs.score import open_annotations
from autopoly.jobs.scoring.scoreboard import Table
from autopoly.report import failed, page, published, subjects, survey
from autopoly.report.page import Content, Tile
from autopoly.types import Dataset, Header

__all__ = ["report_files", "report_run"]

UNMEASURED = 40
"""Polygons without a truth that are shown beside measured ones."""
DEPENDS = (
    "mode",
    "overlaps",
    "tolerance",
    "min_quality",
    "existing",
    "categories",
    "limit",
    "device",
    "format",
    "checkpoint",
    "source",
    "version",
)
"""What the result of a conversion depends on, of its inputs, as far as it says nothing about the machine."""


def report_run(
    result: Dataset, failed_rows: Path, setup: Setup, options: ConvertOptions, scored: tuple[dict[str, Any], Table] | None
) -> bytes:
    """Give the report of a conversion with its ``result`` and the file of its failures, as HTML.

    With ``scored`` (the numbers and the table of its score) it shows IoU, the lowest first, else the estimated quality. The same result
    gives the same bytes, however often the run was interrupted.
    """
    dataset, inputs = setup.dataset, setup.inputs
    failures = failed.of_run(failed_rows)
    numbers, table = scored or (None, None)
    estimated = survey.of_result(result, {row.predicted_at for row in table.rows} if table else ())
    measured = survey.of_table(table, 0.0) if table else None
    picks = estimated.picks.chosen()
    if measured is not None:
        picks = measured.picks.chosen() + [one._replace(group="no truth") for one in picks[:UNMEASURED]]
    places = subjects.Places(dataset, result, dataset if table else None, _names(dataset.header))
    columns = [("this run", numbers)] if numbers else []
    if numbers and "per_component" in numbers:
        columns.append(("per component", numbers["per_component"]))
    content = Content(
        title=title_of(options.source),
        tiles=_tiles(estimated, measured is None),
        survey=measured or estimated,
        columns=columns,
        published=published.find(str(options.source)) if numbers else [],
        failures=failures,
        subjects=subjects.chosen(picks, estimated.without, places, {(one.image, one.name): one.code for one in failures.listed}),
        names=places.names,
        computed=[(key.replace("_", " "), _said(inputs[key])) for key in DEPENDS if inputs.get(key) not in (None, [], "")],
    )
    return page.render(content)


def report_files(path: Path, result: Mapping[str, Any], table: Table, prediction: Path, truth: Path, images: Path | None) -> None:
    """Write the report of a score to ``path``: the numbers of every prediction, charts and pictures of the first.

    ``result`` and ``table`` (the first's) are those of ``score_tables``, made from the files or folders ``prediction`` and ``truth``.
    ``images`` is where the pictures are, None for beside the truth. Raise DataError for what cannot be read.
    """
    true = open_annotations(truth, images)
    every = result.get("predictions", [result])
    first = every[0]
    failures = failed.of_score(first["missing_reasons"], first["missing_ids"])
    measured = survey.of_table(table, first["convention"]["min_side"])
    places = subjects.Places(true, open_annotations(prediction), true, _names(true.header))
    columns: list[tuple[str, Mapping[str, Any]]] = []
    for one in every:
        columns.append((title_of(Path(one["prediction"])), one))
        if "all" in one:
            columns.append(("all instances", one["all"]))
    changes = [
        f"{title_of(Path(one['prediction']))} against {title_of(Path(one['against']))}: {one['better']:,} instances better, "
        f"{one['worse']:,} worse by more than {one['changed_by']:g} IoU"
        for one in result.get("deltas", [])
    ]
    content = Content(
        title=f"{columns[0][0]} against {title_of(Path(first['truth']))}",
        tiles=[Tile("truths measured", f"{first['n']:,}", f"in {first['images']:,} images")],
        survey=measured,
        columns=columns,
        published=published.find(first["truth"], first["prediction"]),
        failures=failures,
        subjects=subjects.chosen(
            measured.picks.chosen(), measured.without, places, {(one.image, one.name): one.code for one in failures.listed}
        ),
        names=places.names,
        computed=[],
        notes=changes,
    )
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(page.render(content))
    partial.replace(path)


def title_of(path: Path) -> str:
    """Name a dataset by its file or folder, with the folder above where the name alone says nothing.

    >>> title_of(Path("/data/street/annotations.json")), title_of(Path("/data/street/"))
    ('street/annotations.json', 'street')
    """
    general = path.stem.lower() in ("annotations", "instances", "labels", "data", "train", "val", "test", "result")
    return "/".join(path.parts[-2:]).lstrip("/") if general and len(path.parts) > 1 else path.name or str(path)


def _tiles(estimated: survey.Survey, alone: bool) -> list[Tile]:
    """Say what was made; the mean estimate only where it stands ``alone``, without a measured IoU."""
    counts = estimated.counts
    tiles = [
        Tile("boxes", f"{counts['boxes']:,}", f"in {counts['images']:,} images"),
        Tile("polygons", f"{counts['predicted']:,}", f"and {counts['kept']:,} kept from the source" if counts["kept"] else "predicted"),
        Tile("without a polygon", f"{counts['none']:,}", _reasons(counts["none"], counts["below"])),
    ]
    if counts["crowd"]:
        tiles.append(Tile("regions", f"{counts['crowd']:,}", "crowd or don't-care: carried along"))
    if alone and estimated.mean is not None:
        tiles.append(Tile("mean estimated IoU", f"{100 * estimated.mean:.1f} %", "the network's own estimate"))
    return tiles


def _reasons(none: int, below: int) -> str:
    if below:
        return f"{below:,} below --min-quality" + (", the others with a reason below" if below < none else "")
    return "each with a reason below" if none else "every box got one"


def _names(header: Header) -> dict[str, str]:
    names: dict[str, str] = {}
    for one in header.categories:
        names.setdefault(str(one.category_id), one.name)
    return names


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
