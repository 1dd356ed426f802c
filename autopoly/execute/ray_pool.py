"""Run shards on Ray actors. The only module that knows Ray: dead and hanging workers are replaced, poisonous records found and left out."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopoly.errors import AutopolyError, RunError
from autopoly.execute import parts
from autopoly.execute.local import LANES, bug_line
from autopoly.execute.shards import MakeWorker, Outcome, Poison, Shard, Worker
from autopoly.execute.tickets import Ticket

# Ray reads these when it is imported: no usage report leaves the machine, and it leaves CUDA_VISIBLE_DEVICES of CPU workers alone.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import exceptions as ray_errors

DEATHS_IN_A_ROW = 80
"""Deaths with no call that came back between them, after which a run is given up: each picture in hand is tried twice."""
STARTS_FAILED = 3
KNOCK_S = 10.0
_DEATH = (ray_errors.RayActorError, ray_errors.WorkerCrashedError, ray_errors.OutOfMemoryError, ray_errors.NodeDiedError)


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How many workers, where, and how long to wait. A shard may take ``shard_s`` + ``box_s`` x its boxes."""

    workers: int
    address: str | None = None
    gpu: bool = False
    shard_s: float = 300.0
    box_s: float = 2.0
    start_s: float = 300.0


class _Host:
    """The actor: one process with one worker, which may have several shards at work, each in a thread of its own."""

    def start(self, make_worker: MakeWorker, threads: int) -> None:
        # Numeric libraries read it when they are loaded, which the worker does; Ray's own value knows no fractional shares.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._worker: Worker = make_worker(threads=threads)

    def process(self, shard: Shard, records: Sequence[int] | None, poison: Sequence[Poison]) -> dict[str, int]:
        return dict(self._worker.process(shard, records, poison))


@dataclass(slots=True)
class _Call:
    actor: Any
    ticket: Ticket | None
    """None while the worker starts."""
    deadline: float


@contextlib.contextmanager
def session(address: str | None = None) -> Iterator[None]:
    """Use the Ray session of this process, or start one (or join the cluster at ``address``) and end it on the way out.

    Raise RunError when Ray cannot start or the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    if address:
        _knock(address)
    # "local" says it: RAY_ADDRESS in the environment must not send a private job to a cluster nobody asked for.
    local: dict[str, Any] = (
        {} if address else {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 << 20}
    )
    stop = signal.getsignal(signal.SIGTERM)
    for last in (False, False, True):
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            break
        except Exception as error:
            # Ray gives its own processes half a minute to start, which a busy machine may need longer for.
            if "timed out during startup" in str(error) and not last:
                continue
            where = f"the Ray cluster at {address}" if address else "Ray on this machine"
            text = " ".join(str(error).split())[:200]
            hint = "does it ask for a token? Then set RAY_AUTH_MODE=token" if address else "--workers 0 runs without Ray"
            raise RunError(f"{where} cannot be used ({type(error).__name__}: {text}); {hint}") from error
    # Ray puts its own handler there, which ends the process at once: whoever set one before decides how this process stops.
    if stop not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise RunError at once where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.partition("://")[2 if "://" in address else 0].partition("/")[0].rpartition("@")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except OSError as error:
        # Without what stands before an @: it may be a secret.
        line = f"nobody answers at {host}:{port} ({error.strerror or error}); check --address, and the cluster with `ray status`"
        raise RunError(f"the Ray cluster cannot be used: {line}") from error


def nodes(address: str | None = None) -> list[dict[str, float]]:
    """List what each living machine of a cluster offers, by Ray's names CPU and GPU; raise RunError where the cluster does not answer."""
    with session(address):
        found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [{name: float(node["Resources"].get(name, 0.0)) for name in ("CPU", "GPU")} for node in found if node["Alive"]]


def cpu_share(node_cpus: Sequence[float], workers: int, most: Sequence[int] | None = None) -> float:
    """Give the largest share of processors that lets ``workers`` actors run at once on nodes with so many processors each.

    ``most`` bounds the actors of each node. Rounded down to Ray's unit of 1/10000. No processors: 0, which Ray lets run anywhere.
    """
    bounds = [workers] * len(node_cpus) if most is None else most
    shares = (math.floor(cpus / k * 1e4) / 1e4 for cpus in set(node_cpus) for k in range(1, workers + 1))
    fitting = [
        share
        for share in shares
        if share > 0 and sum(min(int(cpus / share + 1e-9), bound) for cpus, bound in zip(node_cpus, bounds, strict=True)) >= workers
    ]
    return max(fitting, default=0.0)


def shares(machines: Sequence[Mapping[str, float]], workers: int, gpu: bool) -> tuple[float, float]:
    """Give the processors and the GPUs that each of ``workers`` actors asks for, so that all of them find a place at once.

    With ``gpu`` only machines that have one count: a whole GPU each, or a share where there are more workers than GPUs. Raise RunError
    where no machine has one.
    """
    if not gpu:
        return cpu_share([one.get("CPU", 0.0) for one in machines], workers), 0.0
    fitting = [one for one in machines if one.get("GPU", 0.0) > 0]
    if not fitting:
        raise RunError("the device is a GPU, but Ray sees none; use --device cpu or another --address")
    part = min(cpu_share([one["GPU"] for one in fitting], workers), 1.0)
    most = [int(one["GPU"] / part + 1e-9) for one in fitting]
    return cpu_share([one.get("CPU", 0.0) for one in fitting], workers, most), part


def run(
    make_worker: MakeWorker, shards: Sequence[Shard], options: PoolOptions, note: Callable[[Shard], Path], boxes: Callable[[int], int]
) -> Iterator[Outcome]:
    """Yield each shard's outcome once its part is durable, in the order of completion.

    ``note`` names the note of the records a worker had in hand when it died; ``boxes`` counts those of a record. A record that takes its
    worker down or never comes back is found by running those in hand alone, and left out as poison of the outcome. An AutopolyError of a
    worker stops the run as it is; any other exception stops it as one RunError. No shards: Ray is not even started.
    """
    if not shards:
        return
    ended: list[Shard] = []
    with contextlib.ExitStack() as stack:
        # Last, when no worker is left that could write one.
        stack.callback(_forget, ended, note)
        stack.enter_context(session(options.address))
        pool = _Pool(make_worker, shards, options, note, boxes)
        stack.callback(lambda: ended.extend(pool.close()))
        try:
            yield from pool.outcomes()
        except ray_errors.RayError as error:
            text = " ".join(str(error).split())[:200]
            raise RunError(
                f"Ray itself failed ({type(error).__name__}: {text}); finished shards are kept, and the same command goes on from there"
            ) from error


def _forget(shards: Sequence[Shard], note: Callable[[Shard], Path]) -> None:
    for shard in shards:
        note(shard).unlink(missing_ok=True)


class _Pool:
    """The driver's side: seats (one actor each, a call in flight for each of its lanes) and the tickets that wait for one."""

    def __init__(
        self,
        make_worker: MakeWorker,
        shards: Sequence[Shard],
        options: PoolOptions,
        note: Callable[[Shard], Path],
        boxes: Callable[[int], int],
    ) -> None:
        seats = min(options.workers, len(shards))
        share, gpus = shares(nodes(), seats, options.gpu)
        self._threads = max(1, int(share))
        # One thread has nothing to spare for a second shard.
        self._lanes = LANES if options.gpu or self._threads > 1 else 1
        host: Any = ray.remote(num_cpus=share, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Host)
        self._host = host.options(max_concurrency=self._lanes)
        self._make_worker = ray.put(make_worker)
        self._options = options
        self._note, self._boxes = note, boxes
        self._tickets = deque(Ticket(shard) for shard in shards)
        self._busy: dict[Any, _Call] = {}
        self._failed_starts = self._deaths = 0
        for _ in range(seats):
            self._hire()

    def outcomes(self) -> Iterator[Outcome]:
        # A worker that is still starting when the last shard is done is not waited for.
        while self._anyone_at_work() or (self._tickets and self._busy):
            patience = min(call.deadline for call in self._busy.values()) - time.monotonic()
            done, _ = ray.wait(list(self._busy), num_returns=1, timeout=min(max(patience, 0.0), 1.0))
            for ref in done:
                yield from self._come_back(ref, self._busy.pop(ref))
            now = time.monotonic()
            for ref in [ref for ref, call in self._busy.items() if call.deadline < now]:
                self._expire(self._busy.pop(ref))
        if self._tickets:
            raise RunError("no worker could be placed on the Ray cluster; ask for fewer --workers, or wait until it has free processors")

    def close(self) -> list[Shard]:
        """End all workers; give the shards they were at that have seen no death: what they had in hand is not suspected of any."""
        ended = [call.ticket.shard for call in self._busy.values() if call.ticket and not call.ticket.suspected]
        for call in self._busy.values():
            _end(call.actor)
        self._busy.clear()
        return ended

    def _come_back(self, ref: Any, call: _Call) -> Iterator[Outcome]:
        try:
            counts: Mapping[str, int] | None = ray.get(ref)
        except _DEATH as error:
            self._replace(call, "worker_died", error)
            return
        except ray_errors.RayTaskError as error:
            raise _stop(error, call) from error
        ticket = call.ticket
        if ticket is None:
            self._failed_starts = 0
        else:
            self._deaths = 0
        finished = ticket is not None and ticket.survived()
        if ticket is not None and not finished:
            self._tickets.appendleft(ticket)
        self._give_work(call.actor)
        if ticket is not None and finished:
            yield Outcome(ticket.shard, counts or {}, tuple(ticket.poison.values()))

    def _expire(self, call: _Call) -> None:
        if call.ticket is not None:
            self._replace(call, "worker_timeout", None)
            return
        _end(call.actor)
        if self._anyone_at_work():
            # It found no place on a cluster that is busy or has lost a node: those that did carry on, and a place may still come.
            self._hire()

    def _replace(self, call: _Call, code: str, error: BaseException | None) -> None:
        # Also one that Ray only cannot reach may still be at work: two must not be at one shard.
        _end(call.actor)
        text = " ".join(str(error).split())[:200] if error else "it did not come back in time"
        if call.ticket is None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS_FAILED:
                if self._anyone_at_work():
                    return
                raise RunError(f"a worker died {STARTS_FAILED} times while it loaded the checkpoint ({text}); is there enough memory?")
        else:
            call.ticket.died(parts.read_in_hand(self._note(call.ticket.shard)), code)
            self._tickets.appendleft(call.ticket)
            if self._given(call.actor):
                return  # They die with it: the last of them hires.
            self._deaths += 1
            if self._deaths >= DEATHS_IN_A_ROW:
                raise RunError(
                    f"{self._deaths} workers in a row died ({text}); finished shards are kept; see with --workers 0 what happens"
                )
        self._hire()

    def _anyone_at_work(self) -> bool:
        return any(call.ticket for call in self._busy.values())

    def _hire(self) -> None:
        actor = self._host.remote()
        ref = actor.start.remote(self._make_worker, self._threads)
        self._busy[ref] = _Call(actor, None, time.monotonic() + self._options.start_s)

    def _given(self, actor: Any) -> list[Ticket]:
        return [call.ticket for call in self._busy.values() if call.actor is actor and call.ticket]

    def _give_work(self, actor: Any) -> None:
        """Fill the lanes of an actor. A shard that has seen a death has it to itself, so that no other is suspected for its sake."""
        given = self._given(actor)
        while self._tickets:
            alone = any(ticket.suspected for ticket in (self._tickets[0], *given))
            # Those that still start shall find a shard too.
            starting = sum(call.ticket is None for call in self._busy.values())
            if len(given) >= (1 if alone or len(self._tickets) <= starting else self._lanes):
                return
            ticket = self._tickets.popleft()
            ref = actor.process.remote(ticket.shard, ticket.records(), tuple(ticket.poison.values()))
            self._busy[ref] = _Call(actor, ticket, time.monotonic() + self._patience(ticket))
            given.append(ticket)
        if not given:
            _end(actor)

    def _patience(self, ticket: Ticket) -> float:
        """Give the seconds that the next call for a shard may take; its records alone take as long as their own boxes."""
        alone, boxes = ticket.records(), ticket.shard.boxes
        return self._options.shard_s + self._options.box_s * (boxes if alone is None else min(boxes, sum(map(self._boxes, alone))))


def _end(actor: Any) -> None:
    # Of one that is gone already nothing is asked.
    with contextlib.suppress(Exception):
        ray.kill(actor)


def _stop(error: ray_errors.RayTaskError, call: _Call) -> AutopolyError:
    cause = error.cause
    if isinstance(cause, AutopolyError):
        return cause
    if call.ticket is not None:
        return RunError(bug_line(call.ticket.shard, cause))
    text = " ".join(str(cause).split())[:300]
    return RunError(f"a worker could not start ({type(cause).__name__}: {text}); --workers 0 runs where a debugger can see")
