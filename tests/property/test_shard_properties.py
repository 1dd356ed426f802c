from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from autopoly.execute.shards import RECORDS_MOST, boxes_per_shard, plan

counts_of_records = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 9000)), max_size=300)


@given(counts_of_records)
def test_shards_cover_every_record_once_in_order(counts):
    shards = plan(counts)
    assert [record for shard in shards for record in range(shard.start, shard.stop)] == list(range(len(counts)))
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert [shard.boxes for shard in shards] == [sum(counts[shard.start : shard.stop]) for shard in shards]


@given(counts_of_records)
def test_only_a_single_record_overfills_a_shard(counts):
    wanted = boxes_per_shard(sum(counts))
    assert 64 <= wanted <= 4096
    for shard in plan(counts):
        assert shard.boxes <= wanted or shard.stop - shard.start == 1
        assert shard.stop - shard.start <= RECORDS_MOST


@given(counts_of_records)
def test_two_neighbours_never_fit_into_one_shard(counts):
    wanted = boxes_per_shard(sum(counts))
    shards = plan(counts)
    for left, right in pairwise(shards):
        assert left.boxes + counts[right.start] > wanted or left.stop - left.start == RECORDS_MOST
