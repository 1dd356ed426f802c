"""Run shards in this process: the reference that every other way of running must equal."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from autopoly.errors import AutopolyError, RunError
from autopoly.execute.shards import MakeWorker, Outcome, Shard, Worker

LANES = 2
"""Shards at work at once: pictures of one are read, and outlines of it traced and written, while the network is busy with the other."""


def cpus() -> int:
    """Count the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(make_worker: MakeWorker, shards: Sequence[Shard]) -> Iterator[Outcome]:
    """Yield each shard's outcome once its part is durable, in order. The death of this process is not survived: run again to go on.

    An AutopolyError of the worker stops the run as it is; any other exception stops it as one RunError that names the shard.
    No shards: the worker is not even made.
    """
    if not shards:
        return
    worker: Worker = make_worker(threads=cpus())
    at_work: deque[tuple[Shard, Future[Mapping[str, int]]]] = deque()
    with ThreadPoolExecutor(LANES) as lanes:
        try:
            for shard in shards:
                at_work.append((shard, lanes.submit(worker.process, shard)))
                if len(at_work) == LANES:
                    yield _outcome(*at_work.popleft())
            while at_work:
                yield _outcome(*at_work.popleft())
        finally:
            # Does nothing at the end; after an error or an interruption nobody waits for the other shard.
            worker.stop()


def _outcome(shard: Shard, call: Future[Mapping[str, int]]) -> Outcome:
    try:
        return Outcome(shard, call.result())
    except AutopolyError:
        raise
    except Exception as error:
        raise RunError(bug_line(shard, error)) from error


def bug_line(shard: Shard, error: BaseException) -> str:
    """Put an unexpected exception into one line that says where, so that a bug can be reported; a lack of memory is none."""
    text = " ".join(str(error).split())[:300]
    where = f"shard {shard.number} (records {shard.start} to {shard.stop - 1})"
    if isinstance(error, MemoryError):
        return (
            f"{where}: this machine is out of memory ({text or 'no details'}); end other programs or use fewer --workers; "
            "finished shards are kept, and the same command goes on from there"
        )
    return (
        f"{where}: unexpected {type(error).__name__}: {text}; "
        "please report this bug; finished shards are kept, and --workers 0 runs where a debugger can see"
    )
