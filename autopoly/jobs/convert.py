"""Convert boxes to polygons: plan, run the shards, merge, put the results into the run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autopoly import formats
from autopoly.errors import DataError, redacted
from autopoly.execute import local, parts
from autopoly.execute.shards import Outcome, Shard
from autopoly.jobs.conversion import merge, part_rows, placement, run_folder
from autopoly.jobs.conversion.options import ConvertOptions, Plan, Progress, Summary, as_json
from autopoly.jobs.conversion.preparation import Setup, absent_pictures, isolated, notes_of, set_up, shards_to_run, version
from autopoly.jobs.conversion.work import Network, Work, carried
from autopoly.jobs.conversion.worker import make_worker
from autopoly.jobs.score import score_run
from autopoly.jobs.source import Source
from autopoly.report import report_run
from autopoly.storage import place
from autopoly.types import Dataset

__all__ = ["ConvertOptions", "Plan", "Progress", "Summary", "convert", "plan", "set_up"]

PACKAGES = ("numpy", "torch", "opencv-python-headless", "pyarrow", "shapely", "pycocotools", "ray")
UNSCORED = "not scored"
Callback = Callable[[Progress], None]


def plan(options: ConvertOptions, network: Network | None = None, setup: Setup | None = None) -> Plan:
    """Say what a conversion would do, without writing anything; raise AutopolyError where it could not be done.

    ``setup`` is what :func:`set_up` gave for these options, None to do it here: the source is read and hashed once for plan and run.
    """
    setup = setup or set_up(options, network)
    state = run_folder.examine(options.out, options.source, setup.inputs, options.retry_failures, options.overwrite)
    todo = shards_to_run(options.out, setup, state)
    if state.name == "unfinished":
        setup = isolated(setup, options)
    boxes = sum(shard.boxes for shard in todo)
    return Plan(
        state=state.name,
        format=setup.source.format,
        images=setup.shards[-1].stop if setup.shards else 0,
        boxes=setup.boxes,
        shards=len(setup.shards),
        shards_left=len(todo),
        workers=setup.workers,
        device=setup.device,
        seconds=placement.seconds(boxes, setup.device, setup.workers, setup.nodes) if todo else 0.0,
        bytes=setup.boxes * placement.BYTES_PER_BOX * len(options.to),
        notes=(*setup.notes, *absent_pictures(setup)),
    )


def convert(
    options: ConvertOptions, progress: Callback | None = None, network: Network | None = None, setup: Setup | None = None
) -> Summary:
    """Convert a dataset into a run folder: begin, go on where an earlier start was cut off, or say that all is done.

    ``network`` is what turns boxes into polygons; None takes the network of the paper with ``options.checkpoint``. ``progress`` is called
    after each shard. ``setup`` is as for :func:`plan`. Raise AutopolyError, in one line, for what makes the run impossible; failures of
    single boxes are counted instead.
    """
    setup = setup or set_up(options, network)
    # Look before locking: a refusal must not leave a lock file or a new folder behind.
    run_folder.examine(options.out, options.source, setup.inputs, options.retry_failures, options.overwrite)
    try:
        with parts.lock(options.out):
            try:
                return _convert(options, setup, progress)
            finally:
                run_folder.tidy(options.out)
    finally:
        # Where nothing was started the folder is empty.
        with contextlib.suppress(OSError):
            options.out.rmdir()


def _convert(options: ConvertOptions, setup: Setup, progress: Callback | None) -> Summary:
    started = time.monotonic()
    state = run_folder.examine(options.out, options.source, setup.inputs, options.retry_failures, options.overwrite)
    if state.name == "finished" and state.run is not None:
        unreported = run_folder.unreported(state.run)
        run = _report(options, setup, state.run) if unreported else state.run
        _check_score(options, run)
        return _summary(options.out, run, already=not unreported)
    if state.name == "new":
        with parts.writing(options.out):
            run_folder.begin(options.out, setup.inputs, state)
    run_folder.note_device(options.out, setup.device)
    setup = isolated(setup, options)
    todo = shards_to_run(options.out, setup, state)
    # Closed here, so that no worker outlives an interruption, whoever still holds its traceback.
    counts = Counter(failures=_failures_before(options.out / run_folder.PARTS, setup))
    with contextlib.closing(_track(_outcomes(options, setup, todo, state.retry), setup, todo, counts, started)) as steps:
        for done in steps:
            if progress is not None:
                progress(done)
    with parts.writing(options.out), run_folder.staging(options.out) as staged:
        run = _finish(options, setup, state, staged, counts["answered"], started)
    run = _report(options, setup, run)
    _check_score(options, run)
    return _summary(options.out, run)


def _check_score(options: ConvertOptions, run: Mapping[str, Any]) -> None:
    """Raise DataError where a finished run lacks the score that was asked for."""
    if options.score and run_folder.SCORE not in run["outputs"]:
        why = next((note for note in run["notes"] if note.startswith(UNSCORED)), "it was made without --score")
        raise DataError(
            f"{options.out}: finished, its polygons are there, but there is no score: {why}; autopoly score makes one where it can"
        )


def _outcomes(options: ConvertOptions, setup: Setup, todo: list[Shard], retry: bool) -> Iterator[Outcome]:
    folder = (options.out / run_folder.PARTS).resolve()
    network = carried(setup.network) if options.address else setup.network
    work = Work(
        source=setup.source,
        folder=folder,
        mark=setup.mark,
        load=network.load,
        checkpoint=network.checkpoint,
        device=setup.device,
        tolerance=options.tolerance,
        per_component=options.mode == "per-component",
        auto_components=options.mode == "auto-components",
        components_from_truth=options.components_from_truth,
        overlaps=options.overlaps,
        keep_existing=options.existing == "keep",
        categories=setup.categories,
        min_quality=options.min_quality,
        strict=options.strict,
        retry=folder / run_folder.FAILURES if retry else None,
        pictures=(options.out / run_folder.PICTURES).resolve() if options.write_images else None,
    )
    make = partial(make_worker, work=work)
    if setup.workers == 0:
        return local.run(make, todo)
    from autopoly.execute import ray_pool

    pool = ray_pool.PoolOptions(setup.workers, options.address, gpu=setup.device == "cuda", shard_s=options.shard_timeout)
    counts = setup.dataset.counts
    return ray_pool.run(make, todo, pool, lambda shard: parts.in_hand_path(folder, shard.number, setup.mark), lambda at: int(counts[at]))


def _failures_before(folder: Path, setup: Setup) -> int:
    """Count the failures in the parts of an earlier start."""
    left = {shard.number for shard in parts.missing(setup.shards, folder, setup.mark)}
    done = [parts.part_path(folder, shard.number, setup.mark) for shard in setup.shards if shard.number not in left]
    return sum(row.code is not None for path in done for row in part_rows.decode(path, setup.mark, polygons=False))


def _track(outcomes: Iterator[Outcome], setup: Setup, todo: list[Shard], counts: Counter[str], started: float) -> Generator[Progress]:
    """Say after each shard how far the run is; add to ``counts`` what workers counted."""
    total = setup.boxes
    boxes = before = total - sum(shard.boxes for shard in todo)
    for outcome in outcomes:
        boxes += outcome.shard.boxes
        counts.update(outcome.counts)
        yield Progress(boxes, total, before, counts["failures"], time.monotonic() - started)


def _finish(options: ConvertOptions, setup: Setup, state: run_folder.State, staged: Path, answered: int, started: float) -> dict[str, Any]:
    # Parquet first: COCO holds an object with holes as run lengths alone.
    before = _result(options.out, setup, ("parquet", "coco")) if state.retry else None
    whole = merge.Parts(setup.dataset, setup.shards, options.out / run_folder.PARTS, setup.mark, setup.categories, before)
    tally = merge.Tally()
    for index, name in enumerate(options.to):
        stream = merge.records(whole, tally if index == 0 else None)
        formats.WRITERS[name](setup.dataset.header, stream, staged / run_folder.ANNOTATIONS[name])
    failed = part_rows.write_failures(merge.failures(whole), staged / run_folder.FAILURES)
    seconds = time.monotonic() - started
    extra = [run_folder.PICTURES] if options.write_images and (options.out / run_folder.PICTURES).is_dir() else []
    run = {
        "schema": run_folder.SCHEMA,
        "version": version(),
        "versions": {"python": platform.python_version(), **{name: _installed(name) for name in PACKAGES}},
        "options": as_json(options),
        "inputs": setup.inputs,
        "fingerprint": setup.mark,
        "checkpoint": {"name": options.checkpoint and redacted(options.checkpoint), "hash": setup.network.fingerprint},
        "device": setup.device,
        "devices": run_folder.devices(options.out, setup.device, state.run if state.retry else None),
        "workers": setup.workers,
        "truth_boxes": options.components_from_truth,
        "truths": tally.counts[merge.TRUTHS],
        "counts": {key: tally.counts[key] for key in merge.KEYS},
        "failures": failed,
        "seconds": round(seconds, 3),
        "boxes_per_second": round(answered / seconds, 3) if seconds > 0 else 0.0,
        "notes": list(dict.fromkeys((*setup.notes, *notes_of(options, setup.dataset, bool(setup.shards)), *_maskless(options, tally)))),
        "outputs": run_folder.outputs(staged, extra),
    }
    run_folder.publish(options.out, staged, run)
    return run


def _report(options: ConvertOptions, setup: Setup, run: Mapping[str, Any]) -> dict[str, Any]:
    """Score the polygons of a run, which are in their place, and write its report; give its run.json with both.

    Memory may end here, since a score holds a row for each truth: the same command then goes on with this alone.
    """
    started, out, unscored = time.monotonic(), options.out, list[str]()
    with parts.writing(out), run_folder.staging(out) as staged:
        made, scored = _result(out, setup, options.to), None
        if options.score or (options.score is None and run["truths"]):
            try:
                if not run["truths"]:
                    raise DataError(f"{setup.source.path}: --score needs masks in the source, and it has none; leave --score out")
                scored = score_run(made, setup, options)
            except DataError as error:
                unscored.append(f"{UNSCORED}: {error}")
            except MemoryError:
                unscored.append(f"{UNSCORED}: this machine has too little memory for {run['truths']:,} truths")
        if scored is not None:
            (staged / run_folder.SCORE).write_text(json.dumps(scored[0], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (staged / run_folder.REPORT).write_bytes(report_run(made, out / run_folder.FAILURES, setup, options, scored))
        seconds = run["seconds"] + time.monotonic() - started
        run = {
            **run,
            "seconds": round(seconds, 3),
            "boxes_per_second": round(run["boxes_per_second"] * run["seconds"] / seconds, 3) if seconds > 0 else 0.0,
            "notes": [*run["notes"], *unscored],
            "outputs": run_folder.outputs(staged, run["outputs"]),
        }
        run_folder.add(out, staged, run)
    return run


def _maskless(options: ConvertOptions, tally: merge.Tally) -> list[str]:
    """Say how many boxes had no mask to take their components from."""
    count = tally.counts[merge.MASKLESS] if options.components_from_truth else 0
    line = f"{count:,} of {tally.counts['boxes']:,} boxes have no mask in the source: --components-from-truth took each as one component"
    return [line] if count else []


def _result(out: Path, setup: Setup, names: Sequence[str]) -> Dataset:
    """Open the result of a run, in the first of these formats that it has."""
    for name in names:
        file = run_folder.ANNOTATIONS[name]
        if (out / file).exists():
            return Source(out / file, name, place(setup.dataset.image_root)).open()
    raise DataError(f"{out}: has no annotations; run again with --overwrite")


def _summary(out: Path, run: Mapping[str, Any], already: bool = False) -> Summary:
    chosen = {field.name: run[field.name] for field in dataclasses.fields(Summary) if field.name in run}
    return Summary(**{**chosen, "folder": out, "outputs": tuple(run["outputs"]), "notes": tuple(run["notes"]), "already": already})


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
