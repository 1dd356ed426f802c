"""``autopoly convert``: parse, say the plan, call the job with a progress display, print the summary."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from autopoly.jobs.conversion.options import ConvertOptions, Plan, Summary


class Mode(StrEnum):
    """What one run of the network is about."""

    PER_INSTANCE = "per-instance"
    AUTO_COMPONENTS = "auto-components"
    PER_COMPONENT = "per-component"


class Existing(StrEnum):
    """What happens to instances that have a mask already."""

    PREDICT = "predict"
    KEEP = "keep"


class BoxFormat(StrEnum):
    """How a Parquet source writes its boxes."""

    XYWH = "xywh"
    XYXY = "xyxy"


class Device(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="COCO .json or folder, KITTI folder, Parquet file or folder; also s3://, gs://.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The run folder: results, failures, report; also s3://, gs://.", show_default=False)
    ],
    from_format: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help="coco, kitti, parquet, cityscapes ...; detected where not given, and said."),
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the pictures are, if not beside the annotations.")] = None,
    to: Annotated[list[str] | None, typer.Option(metavar="FORMAT", help="coco or parquet, repeatable.  [default: coco]")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="C", help="A name in checkpoints/ or a folder; the shipped one where not given.")
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="N|auto", help="0: in this process, without Ray; N: Ray workers; auto: by GPUs, else by processors.")
    ] = "auto",
    address: Annotated[str | None, typer.Option(metavar="A", help="An existing Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.AUTO,
    mode: Annotated[
        Mode,
        typer.Option(help="Outline each instance; then its parts once more, each with a box of its own; or per box of component_boxes."),
    ] = Mode.PER_INSTANCE,
    components_from_truth: Annotated[
        bool, typer.Option("--components-from-truth", help="Take the component boxes from the source's masks, as the paper does.")
    ] = False,
    overlaps: Annotated[
        bool, typer.Option("--overlaps", help="Leave a pixel that two outlines claim to both; else the surer one has it.")
    ] = False,
    existing: Annotated[Existing, typer.Option(help="Predict instances that have a mask anew, or keep theirs.")] = Existing.PREDICT,
    categories: Annotated[
        list[str] | None, typer.Option("--categories", metavar="C", help="Only this category, by name or id; repeatable.")
    ] = None,
    bbox_format: Annotated[BoxFormat | None, typer.Option(help="Boxes of a Parquet source; detected where not given, and said.")] = None,
    retry_failures: Annotated[bool, typer.Option("--retry-failures", help="Run only the failed rows of a finished run again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the plan and stop.")] = False,
    write_images: Annotated[bool, typer.Option("--write-images", help="Write pictures that came as bytes beside the result.")] = False,
    score: Annotated[
        bool | None, typer.Option("--score/--no-score", help="Score against the source's own masks; done where it has any.")
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="PX", help="How far simplification may move the outline; 0 keeps all.")] = 0.5,
    min_quality: Annotated[float, typer.Option(metavar="Q", help="Below this estimated quality keep the box without a polygon.")] = 0.0,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N images.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that OUT holds.")] = False,
    accept_device_change: Annotated[
        bool, typer.Option("--accept-device-change", help="Go on with a run that was begun on another kind of device; recorded.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End at the first bad item.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the summary alone.")] = False,
) -> None:
    """Convert detection boxes to polygons.

    The same command again finishes a run that was cut off, and does nothing on a finished one.
    """
    from autopoly.jobs.conversion.options import ConvertOptions

    options = ConvertOptions(
        source=source,
        out=out,
        from_format=from_format,
        images=images,
        to=tuple(to or ("coco",)),
        checkpoint=checkpoint,
        workers=_workers(workers),
        address=address,
        device=device.value,
        mode=mode.value,
        components_from_truth=components_from_truth,
        overlaps=overlaps,
        existing=existing.value,
        categories=tuple(categories or ()),
        bbox_format=bbox_format.value if bbox_format else None,
        retry_failures=retry_failures,
        write_images=write_images,
        score=score,
        tolerance=tolerance,
        min_quality=min_quality,
        limit=limit,
        overwrite=overwrite,
        accept_device_change=accept_device_change,
        strict=strict,
    )
    summary = run(options, quiet, dry_run)
    if summary is not None and summary.exit_code:
        raise typer.Exit(summary.exit_code)


def run(options: ConvertOptions, quiet: bool, dry_run: bool = False) -> Summary | None:
    """Say the plan, convert with a progress display, print the summary and give it; None for a dry run."""
    from autopoly.cli.progress import shown
    from autopoly.jobs import convert as job

    setup = job.set_up(options, None)
    if dry_run or not quiet:
        plan = job.plan(options, setup=setup)
        for line in plan_lines(plan):
            typer.echo(line, err=not dry_run)
        if dry_run:
            return None
    with shown(quiet) as progress:
        summary = job.convert(options, progress, setup=setup)
    for line in summary_lines(summary):
        typer.echo(line)
    return summary


def plan_lines(plan: Plan) -> list[str]:
    """Say what a run is going to do, and roughly how long it takes."""
    place = f"{_count(plan.workers, 'Ray worker')} on {plan.device}" if plan.workers else f"this process, on {plan.device}"
    lines = [f"source: {plan.format}, {_count(plan.images, 'image')}, {plan.boxes:,} boxes"]
    if plan.state != "finished":
        cut = f"{plan.shards_left:,} of {plan.shards:,} shards to run" if plan.shards_left != plan.shards else _count(plan.shards, "shard")
        begun = "going on with an unfinished run: " if plan.state == "unfinished" else ""
        lines.append(f"plan: {begun}{cut} in {place}; roughly {clock(plan.seconds)}, {_size(plan.bytes)} of results")
    return lines + [f"note: {note}" for note in plan.notes]


def summary_lines(summary: Summary) -> list[str]:
    """Say what came out, what failed and why, and where everything is."""
    counts = summary.counts
    made = ", ".join(f"{counts[key]:,} {key.replace('_', ' ')}" for key in counts if counts[key])
    done = "finished before, nothing to do" if summary.already else f"{clock(summary.seconds)}, {summary.boxes_per_second:,.1f} boxes/s"
    lines = [f"{summary.folder}: {made or 'nothing to convert'} ({done})"]
    if summary.failures:
        reasons = ", ".join(f"{count:,} {code}" for code, count in sorted(summary.failures.items(), key=lambda item: (-item[1], item[0])))
        lines.append(f"failures: {reasons}; rows in {summary.folder / 'failures.parquet'}, again with --retry-failures")
    lines.extend(f"note: {note}" for note in summary.notes)
    lines.append(f"results: {', '.join(summary.outputs)}")
    return lines


def clock(seconds: float) -> str:
    """Write a duration for a person.

    >>> clock(0.42), clock(75), clock(7300)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _workers(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint="--workers") from None
