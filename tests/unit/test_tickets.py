import pytest

from autopoly.errors import RunError
from autopoly.execute.shards import Shard
from autopoly.execute.tickets import UNEXPLAINED_MOST, Ticket

SHARD = Shard(0, 0, 100, 100)


def play(deadly, windows, together=frozenset()):
    """Run a ticket against a worker that dies of ``deadly`` records (or of the set ``together``); give the ticket and the calls made."""
    ticket, calls = Ticket(SHARD), 0
    while calls < 1000:
        calls += 1
        alone = ticket.records()
        if alone is not None:
            dead = alone[0] in deadly
            in_hand = alone
        else:
            left = [[record for record in window if record not in ticket.poison] for window in windows]
            hit = [window for window in left if deadly & set(window) or (together and together <= set(window))]
            dead, in_hand = bool(hit), hit[0] if hit else []
        if dead:
            ticket.died(in_hand, "worker_died")
        elif ticket.survived():
            return ticket, calls
    raise AssertionError("never ends")


def test_a_healthy_shard_takes_one_call():
    ticket, calls = play(set(), [[0, 1], [2, 3]])
    assert (calls, ticket.poison) == (1, {})


def test_only_the_deadly_records_are_left_out():
    ticket, calls = play({5, 6, 21}, [list(range(k, k + 8)) for k in range(0, 100, 8)])
    assert sorted(ticket.poison) == [5, 6, 21]
    assert calls <= 1 + 8 + 2 + 1 + 8 + 1 + 1
    assert {poison.code for poison in ticket.poison.values()} == {"worker_died"}


def test_every_record_deadly_still_ends():
    ticket, _ = play(set(range(16)), [list(range(k, k + 8)) for k in range(0, 16, 8)])
    assert sorted(ticket.poison) == list(range(16))


def test_an_innocent_record_whose_worker_is_ended_from_outside_is_not_left_out():
    ticket = Ticket(SHARD)
    ticket.died([3, 4], "worker_died")
    ticket.died([3], "worker_died")
    assert ticket.records() == [3]
    assert not ticket.survived()
    assert ticket.records() == [4]
    assert not ticket.survived()
    assert ticket.records() is None and ticket.survived() and ticket.poison == {}


def test_records_deadly_only_together_are_left_out_after_a_few_tries():
    ticket, calls = play(set(), [[0, 1, 2], [3, 4]], together=frozenset({3, 4}))
    assert sorted(ticket.poison) == [3, 4]
    assert calls <= (UNEXPLAINED_MOST + 1) * 3 + 1


def test_a_worker_that_dies_before_any_record_stops_the_run():
    ticket = Ticket(SHARD)
    for _ in range(UNEXPLAINED_MOST):
        ticket.died([], "worker_died")
    with pytest.raises(RunError, match="before it read a picture"):
        ticket.died([], "worker_died")


def test_a_hanging_record_says_so():
    ticket = Ticket(SHARD)
    ticket.died([7], "worker_timeout")
    ticket.died([7], "worker_timeout")
    assert ticket.poison[7].code == "worker_timeout"
    assert "in time" in ticket.poison[7].message
