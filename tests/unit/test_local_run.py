import pytest

from autopoly.errors import CheckpointError, DataError, RunError
from autopoly.execute.local import cpus, run
from autopoly.execute.shards import Shard

SHARDS = [Shard(0, 0, 3, 3), Shard(1, 3, 5, 2)]


class Adder:
    def __init__(self, threads, failure=None):
        self.threads, self.failure = threads, failure

    def stop(self):
        self.stopped = True

    def process(self, shard, records=None, poison=()):
        if self.failure and shard.number == 1:
            raise self.failure
        return {"boxes": shard.boxes, "threads": self.threads}


def test_outcomes_come_in_order_with_all_threads():
    outcomes = list(run(Adder, SHARDS))
    assert [outcome.shard for outcome in outcomes] == SHARDS
    assert outcomes[1].counts == {"boxes": 2, "threads": cpus()}


def test_no_shards_do_not_even_make_a_worker():
    def never(threads):
        raise AssertionError(threads)

    assert list(run(never, [])) == []


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (DataError("bad box"), DataError, "^bad box$"),
        (KeyError("x"), RunError, r"shard 1 \(records 3 to 4\): unexpected KeyError: 'x'"),
        (MemoryError(), RunError, r"shard 1 \(records 3 to 4\): this machine is out of memory .*the same command goes on"),
    ],
)
def test_an_error_stops_at_once_in_one_line(failure, kind, text):
    outcomes = run(lambda threads: Adder(threads, failure), SHARDS)
    assert next(outcomes).shard == SHARDS[0]
    with pytest.raises(kind, match=text) as caught:
        next(outcomes)
    assert "\n" not in str(caught.value)


def test_a_worker_that_cannot_be_made_stops_the_run():
    def broken(threads):
        raise CheckpointError("no weights")

    with pytest.raises(CheckpointError, match="no weights"):
        list(run(broken, SHARDS))
