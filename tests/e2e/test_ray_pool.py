"""Real Ray, real deaths: workers that are killed, hang, or raise."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from autopoly.errors import CheckpointError, DataError, RunError
from autopoly.execute import local, parts
from autopoly.execute.shards import plan

ray_pool = pytest.importorskip("autopoly.execute.ray_pool")
pytestmark = pytest.mark.slow
MARK = "a" * 32
COUNTS = [16] * 24


class Moody:
    """Write the record numbers of a shard into its part; die, hang or raise at records that say so."""

    def __init__(self, threads, folder, moods, together=()):
        self.folder, self.moods, self.together, self.threads = Path(folder), moods, set(together), threads
        self.at_work = set()

    def process(self, shard, records=None, poison=()):
        self.at_work.add(shard.number)
        beside = len(self.at_work) - 1
        left_out = {one.record for one in poison}
        time.sleep(0.2)  # long enough for the other worker to take a shard as well
        todo = [record for record in records or range(shard.start, shard.stop) if record not in left_out]
        for at in range(0, len(todo), 2):
            pair = todo[at : at + 2]
            parts.note_in_hand(parts.in_hand_path(self.folder, shard.number, MARK), pair)
            for record in pair:
                mood = self.moods.get(record)
                if mood == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                elif mood == "hang":
                    time.sleep(600)
                elif mood is not None:
                    raise mood
        if records is None:
            parts.commit(parts.part_path(self.folder, shard.number, MARK), repr(todo).encode())
        self.at_work.remove(shard.number)
        return {"records": len(todo), "pid": os.getpid(), "threads": int(os.environ["OMP_NUM_THREADS"]), "beside": beside}

    def stop(self):
        pass


def broken(threads):
    raise CheckpointError("no weights here")


def dying(threads):
    os.kill(os.getpid(), signal.SIGKILL)


def no_note(shard):
    return Path("no-note")


@pytest.fixture(autouse=True)
def by_value(ray_session):
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def run(folder, moods, workers=2, **waits):
    shards = plan(COUNTS)
    make = partial(Moody, folder=str(folder), moods=moods)
    options = ray_pool.PoolOptions(workers=workers, **waits)
    return shards, ray_pool.run(make, shards, options, lambda s: parts.in_hand_path(folder, s.number, MARK), COUNTS.__getitem__)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_two_workers_on_two_processors_give_what_this_process_gives(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    (tmp_path / "local").mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shards, outcomes = run(tmp_path / "ray", {})
    outcomes = list(outcomes)
    assert sorted(outcome.shard.number for outcome in outcomes) == [shard.number for shard in shards]
    assert len({outcome.counts["pid"] for outcome in outcomes} | {os.getpid()}) == 3
    assert {outcome.counts["threads"] for outcome in outcomes} == {1}
    assert {outcome.counts["beside"] for outcome in outcomes} == {0}
    assert len(list(local.run(partial(Moody, folder=str(tmp_path / "local"), moods={}), shards))) == len(shards)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_a_record_that_kills_and_one_that_hangs_are_left_out_and_nothing_else(tmp_path):
    shards, outcomes = run(tmp_path, {5: "die", 14: "hang"}, shard_s=3.0, box_s=0.0)
    poison = {one.record: one.code for outcome in outcomes for one in outcome.poison}
    assert poison == {5: "worker_died", 14: "worker_timeout"}
    assert parts.missing(shards, tmp_path, MARK) == []
    kept = sorted(record for text in contents(tmp_path).values() for record in eval(text))
    assert kept == [record for record in range(24) if record not in poison]


def test_a_worker_with_threads_to_spare_has_two_shards_at_work(tmp_path):
    _, outcomes = run(tmp_path, {}, workers=1)
    told = [outcome.counts for outcome in outcomes]
    assert {counts["threads"] for counts in told} == {2} and {counts["beside"] for counts in told} == {0, 1}


def test_what_kills_or_hangs_is_found_beside_another_shard_as_well(tmp_path):
    shards, outcomes = run(tmp_path, {5: "die", 14: "hang", 22: "die"}, workers=1, shard_s=3.0, box_s=0.0)
    poison = {one.record: one.code for outcome in outcomes for one in outcome.poison}
    assert poison == {5: "worker_died", 14: "worker_timeout", 22: "worker_died"}
    assert parts.missing(shards, tmp_path, MARK) == []


@pytest.mark.parametrize(
    ("mood", "kind", "text"), [(DataError("bad box"), DataError, "^bad box$"), (KeyError("x"), RunError, "unexpected KeyError: 'x'")]
)
def test_an_error_stops_at_once_in_one_line(tmp_path, mood, kind, text):
    _, outcomes = run(tmp_path, {0: mood})
    with pytest.raises(kind, match=text) as caught:
        list(outcomes)
    assert "\n" not in str(caught.value)


def test_a_worker_that_cannot_start_stops_the_run(tmp_path):
    options = ray_pool.PoolOptions(workers=2)
    with pytest.raises(CheckpointError, match="no weights here"):
        list(ray_pool.run(broken, plan(COUNTS), options, no_note, COUNTS.__getitem__))
    with pytest.raises(RunError, match="died 3 times while it loaded"):
        list(ray_pool.run(dying, plan(COUNTS), options, no_note, COUNTS.__getitem__))


def test_more_workers_than_processors_still_run(tmp_path):
    shards, outcomes = run(tmp_path, {}, workers=5)
    assert len(list(outcomes)) == len(shards)


def test_no_shards_do_not_start_ray(tmp_path):
    assert list(ray_pool.run(broken, [], ray_pool.PoolOptions(workers=2), no_note, COUNTS.__getitem__)) == []


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [
        ([2.0], 2, 1.0),
        ([2.0], 3, 0.6666),
        ([3.0, 3.0], 3, 1.5),
        ([8.0], 1, 8.0),
        ([0.0], 2, 0.0),
        ([], 1, 0.0),
        ([16.0, 4.0], 4, 4.0),
        ([16.0, 6.0], 4, 5.3333),
    ],
)
def test_shares_fit_on_the_nodes(nodes, workers, share):
    assert ray_pool.cpu_share(nodes, workers) == pytest.approx(share)
    assert share == 0.0 or sum(int(cpus / share + 1e-9) for cpus in nodes) >= workers
