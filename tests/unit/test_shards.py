import pytest

from autopoly.execute.shards import RECORDS_MOST, Shard, boxes_per_shard, plan


@pytest.mark.parametrize(("total", "wanted"), [(0, 64), (600, 64), (512 * 64, 64), (512 * 100, 100), (10_000_000, 4096)])
def test_boxes_per_shard_follows_the_size_of_the_dataset(total, wanted):
    assert boxes_per_shard(total) == wanted


def test_six_hundred_boxes_make_about_ten_shards():
    assert len(plan([6] * 100)) == 10


def test_no_records_make_no_shards():
    assert plan([]) == []


def test_a_record_is_never_split():
    assert plan([1, 1000, 1]) == [Shard(0, 0, 1, 1), Shard(1, 1, 2, 1000), Shard(2, 2, 3, 1)]


def test_empty_pictures_do_not_pile_up():
    assert [shard.stop - shard.start for shard in plan([0] * (RECORDS_MOST + 5))] == [RECORDS_MOST, 5]
