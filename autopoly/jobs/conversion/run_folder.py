"""The run folder: what is in it, whether a run may start, go on or is finished, and how results get there at the very end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autopoly.errors import RunError
from autopoly.execute import parts
from autopoly.formats import parquet
from autopoly.storage import ObjectPath

PARTS = "parts"
PICTURES = "images"
RUN = "run.json"
FAILURES = parquet.FAILURES
ANNOTATIONS = {"coco": "annotations.json", "parquet": parquet.RESULT}
SCORE, REPORT = "score.json", "report.html"
OURS = (RUN, FAILURES, *ANNOTATIONS.values(), REPORT, SCORE)
SCHEMA = "autopoly.run/1"
HOLDS = {
    "inputs": dict,
    "counts": dict,
    "failures": dict,
    "outputs": list,
    "notes": list,
    "seconds": float | int,
    "boxes_per_second": float | int,
}
"""What is read of a run.json again, and its types."""


@dataclass(frozen=True, slots=True)
class State:
    """How a folder stands to the run that is asked for. ``run`` is a finished run's run.json, ``retry`` whether to run failed rows only.

    ``pictures`` says that images/ is there and an earlier run's.
    """

    name: Literal["new", "unfinished", "finished"]
    retry: bool
    run: Mapping[str, Any] | None = None
    pictures: bool = False


def examine(out: Path, source: Path, inputs: Mapping[str, Any], retry: bool, overwrite: bool) -> State:
    """Find out whether the run is new, unfinished or finished; raise RunError, with the reason, where it must not go on.

    ``overwrite`` goes on with an unfinished run of the same inputs, but leaves an unfinished retry: what it improves may be damaged.
    """
    with parts.writing(out):
        if out.exists() and not out.is_dir():
            raise RunError(f"{out}: is a file; OUT must be a folder")
    _keep_source_safe(out, source)
    run, started, unreadable = read_run(out), None, False
    try:
        started = parts.read_plan(out / PARTS)
    except RunError:
        if not overwrite:
            raise
        unreadable = True
    if started is not None and started["inputs"] == inputs and not (overwrite and started.get("retry")):
        return State("unfinished", bool(started.get("retry")), run)
    ours = (run is not None and PICTURES in run["outputs"]) or bool(started is not None and started["inputs"].get("write_images"))
    if inputs.get("write_images") and not ours and (out / PICTURES).exists():
        raise RunError(
            f"{out}: has {PICTURES}, but not from a run of autopoly, and --write-images would write there; choose another folder"
        )
    absent = [name for name in run["outputs"] if not (out / name).exists()] if run is not None else []
    if overwrite and started is None and run is not None and unreported(run) and run["inputs"] == inputs and not absent:
        return State("finished", False, run)
    if overwrite and (started is not None or run is not None or unreadable):
        return State("new", False, run, ours)
    for before, word in ((started and started["inputs"], "an unfinished"), (run and run["inputs"], "a finished")):
        if before and before != inputs:
            reasons = "; ".join(parts.differences(before, inputs))
            if before | {"device": inputs["device"]} == inputs:
                reasons += " (--accept-device-change goes on all the same, and records it)"
            raise RunError(f"{out}: holds {word} run with other input or options: {reasons}; use another folder or --overwrite")
    if run is not None:
        if absent:
            raise RunError(f"{out}: {RUN} says finished, but {', '.join(absent)} is missing; use --overwrite to run again")
        return State("new", True, run) if retry and run["failures"] else State("finished", False, run)
    if retry:
        raise RunError(f"{out}: --retry-failures needs a finished run; run without it first")
    foreign = [name for name in (*OURS, PARTS) if (out / name).exists() and not (name == PARTS and parts.abandoned(out / PARTS))]
    if foreign:
        raise RunError(f"{out}: has {', '.join(foreign)}, but not from a run of autopoly; choose another folder")
    return State("new", False)


def read_run(out: Path) -> dict[str, Any] | None:
    """Give the run.json of a finished run, None where there is none; raise RunError for one that is not ours."""
    try:
        run = json.loads((out / RUN).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{out / RUN}: cannot be read ({error}); choose another folder") from error
    if not isinstance(run, dict) or run.get("schema") != SCHEMA or not all(isinstance(run.get(name), kind) for name, kind in HOLDS.items()):
        raise RunError(f"{out / RUN}: not from a conversion by this version of autopoly; choose another folder")
    return run


def unreported(run: Mapping[str, Any]) -> bool:
    """Say whether a finished run was cut off before it had its score and its report."""
    return REPORT not in run["outputs"]


def begin(out: Path, inputs: Mapping[str, Any], state: State) -> None:
    """Start a new run: clear what an abandoned one left in parts/, commit the plan. Earlier results stay until the new ones are whole."""
    folder = out / PARTS
    parts.remove(folder)
    # A worker that outlived its killed driver may have put a part there in the meantime: its name says to which run it belongs.
    folder.mkdir(parents=True, exist_ok=True)
    if state.pictures:
        shutil.rmtree(out / PICTURES, ignore_errors=True)
    if state.retry:
        # The rows to run again must not change under a run that is killed while it puts its new results in place.
        parts.commit(folder / FAILURES, (out / FAILURES).read_bytes())
    parts.write_plan(folder, {"inputs": dict(inputs), "retry": state.retry})


def inputs_before(out: Path) -> dict[str, Any] | None:
    """Give what the run that a folder holds, unfinished or finished, depends on; None where it holds none."""
    before = parts.read_plan(out / PARTS) or read_run(out)
    return None if before is None else before["inputs"]


def note_device(out: Path, device: str) -> None:
    """Write down in the plan that a run goes on with another kind of device than it was begun with."""
    plan = parts.read_plan(out / PARTS)
    if plan is not None and device not in (known := plan.get("devices", [plan["inputs"]["device"]])):
        parts.write_plan(out / PARTS, plan | {"devices": [*known, device]})


def devices(out: Path, device: str, before: Mapping[str, Any] | None) -> list[str]:
    """List the kinds of device a run had part in, in order; ``before`` is the finished run that a retry improves."""
    plan = parts.read_plan(out / PARTS) or {}
    return list(dict.fromkeys([*(before or {}).get("devices", ()), *plan.get("devices", ()), device]))


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Give an empty folder in which results are put together: inside parts/, or a temporary one of this machine for an object store."""
    if isinstance(out, ObjectPath):
        with tempfile.TemporaryDirectory(prefix="autopoly-") as scratch:
            yield Path(scratch)
        return
    folder = out / PARTS / "result"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder


def publish(out: Path, staged: Path, run: Mapping[str, Any]) -> None:
    """Put the results in the place of an earlier run's, run.json last, then remove parts/.

    Cut off in between, the folder has no run.json and still its plan: it is unfinished, and the next start does this again.
    """
    (out / RUN).unlink(missing_ok=True)
    add(out, staged, run)


def add(out: Path, staged: Path, run: Mapping[str, Any]) -> None:
    """Put more results beside those of a run, then the run.json that names them all.

    Cut off in between, the folder still has the run.json before: it lacks them, and the next start makes them again.
    """
    names = sorted(os.listdir(staged))
    for name in names if not isinstance(out, ObjectPath) else ():
        with (staged / name).open("rb") as stream:
            os.fsync(stream.fileno())
    for name in OURS:
        if name not in run["outputs"]:
            (out / name).unlink(missing_ok=True)
    if isinstance(out, ObjectPath):
        for name in names:
            (out / name).upload(staged / name)
    else:
        for name in names:
            os.replace(staged / name, out / name)
        parts.sync_folder(out)
    parts.commit(out / RUN, json.dumps(run, indent=2, ensure_ascii=False).encode() + b"\n", scratch=out / PARTS)
    parts.remove(out / PARTS)


def tidy(out: Path) -> None:
    """Remove what a run killed in its last moments left behind. For the holder of the lock alone."""
    if parts.read_plan(out / PARTS) is None and (out / RUN).exists() and parts.abandoned(out / PARTS):
        parts.remove(out / PARTS)


def _keep_source_safe(out: Path, source: Path) -> None:
    inside = out.resolve()
    taken = [inside / name for name in (*OURS, PARTS)]
    if inside == source.resolve() or source.resolve() in taken:
        raise RunError(f"{out}: results would overwrite the source {source}; choose another folder for OUT")


def outputs(staged: Path, extra: Sequence[str]) -> list[str]:
    """Name everything a run leaves in its folder, run.json included."""
    return sorted({*os.listdir(staged), *extra, RUN})
