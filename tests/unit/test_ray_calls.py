"""What the driver asks of Ray, without Ray: how long a call may take, who is ended, whose notes go. The real thing: e2e/test_ray_pool."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError

from autopoly.execute import parts, ray_pool
from autopoly.execute.shards import plan
from autopoly.execute.tickets import Ticket

COUNTS = [30, 2] * 12


class Actor:
    def __init__(self):
        self.start = self.process = SimpleNamespace(remote=lambda *_: object())

    def remote(self):
        return Actor()

    def options(self, **_):
        return self


@pytest.fixture
def pool(monkeypatch, tmp_path):
    """Give a pool of one worker with two lanes, and the list of the actors it ended."""
    ended = []
    fake = SimpleNamespace(remote=lambda **_: lambda _: Actor(), put=lambda one: one, kill=ended.append)
    monkeypatch.setattr(ray_pool, "ray", fake)
    monkeypatch.setattr(ray_pool, "nodes", lambda: [{"CPU": 2.0}])
    made = ray_pool._Pool(None, plan(COUNTS), ray_pool.PoolOptions(1), lambda shard: tmp_path / f"{shard.number}", COUNTS.__getitem__)
    return made, ended


def started(pool):
    """Let the worker have started and fill its lanes; give its calls."""
    (call,) = pool._busy.values()
    pool._busy.clear()
    pool._give_work(call.actor)
    return list(pool._busy.values())


def test_a_record_alone_may_take_as_long_as_its_own_boxes(pool):
    made, _ = pool
    shard = plan(COUNTS)[0]
    ticket = Ticket(shard)
    assert made._patience(ticket) == 300 + 2 * shard.boxes
    ticket.died([shard.start + 1], "worker_died")
    assert made._patience(ticket) == 300 + 2 * 2


def test_a_worker_that_is_replaced_is_ended_even_where_it_may_still_live(pool):
    made, ended = pool
    first, second = started(made)
    made._busy = {"second": second}
    made._replace(first, "worker_died", ActorUnavailableError("the node cannot be reached", None))
    assert ended == [first.actor]


def test_an_end_on_purpose_leaves_the_notes_of_suspected_shards_alone(pool, tmp_path):
    made, ended = pool
    calls = started(made)
    assert len(calls) == 2
    for call in calls:
        parts.note_in_hand(tmp_path / f"{call.ticket.shard.number}", [call.ticket.shard.start])
    calls[0].ticket.died([calls[0].ticket.shard.start], "worker_died")
    assert made.close() == [calls[1].ticket.shard]
    assert set(ended) == {calls[0].actor}


def test_no_note_stays_of_a_run_that_is_closed(pool, monkeypatch, tmp_path):
    made, _ = pool
    calls = started(made)
    note = tmp_path / f"{calls[0].ticket.shard.number}"
    note.write_text("[0]")
    monkeypatch.setattr(ray_pool, "_Pool", lambda *_: made)
    monkeypatch.setattr(made, "outcomes", lambda: iter(["outcome"]))
    monkeypatch.setattr(ray_pool.ray, "is_initialized", lambda: True, raising=False)
    going = ray_pool.run(None, plan(COUNTS), ray_pool.PoolOptions(1), lambda shard: Path(tmp_path / f"{shard.number}"), COUNTS.__getitem__)
    assert next(going) == "outcome"
    assert note.exists()
    going.close()
    assert not note.exists()
