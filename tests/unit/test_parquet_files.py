"""Folders of Parquet files: of several writers, beside a run's own, and more of them than a process may have open."""

import os
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autopoly.errors import DataError
from autopoly.formats import parquet, parquet_table

BOX = [1.0, 2.0, 30.0, 40.0]


def saved(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def rows(number, **more):
    return {"image_id": [number], "file_name": [f"{number}.png"], "bbox": [BOX], "label": ["cat"]} | more


def names(path):
    data = parquet.read(path, bbox_format="xyxy")
    records = [data.record(index) for index in range(len(data.counts))]
    assert [one.instances[0].box.tolist() for one in records] == [BOX] * len(records)
    return [one.file_name for one in records]


def test_writers_that_nest_lists_in_their_own_ways(tmp_path):
    saved(tmp_path / "a.parquet", rows(0))
    saved(tmp_path / "b.parquet", rows(1), use_compliant_nested_type=False)
    saved(tmp_path / "c.parquet", rows(2, image_id=pa.array([2], pa.int32()), bbox=pa.array([BOX], pa.large_list(pa.float32()))))
    saved(tmp_path / "d.parquet", dict(reversed(rows(3, label=[None]).items())))
    assert names(tmp_path) == ["0.png", "1.png", "2.png", "3.png"]


def test_types_that_mean_something_else_are_one_line(tmp_path):
    saved(tmp_path / "a.parquet", rows(0))
    saved(tmp_path / "b.parquet", rows(1, bbox=[[BOX]], label=[["cat"]]))
    with pytest.raises(DataError, match=r"b\.parquet: its columns are of other types than those of a\.parquet"):
        parquet.read(tmp_path)


def test_all_files_of_a_folder_are_read_but_the_failures_of_a_run(tmp_path):
    saved(tmp_path / "annotations.parquet", rows(0))
    saved(tmp_path / "annotations-2.parquet", rows(1))
    saved(tmp_path / "failures.parquet", {"code": ["x"]})
    assert names(tmp_path) == ["1.png", "0.png"]
    assert [file.name for file in parquet.read(tmp_path).files] == ["annotations-2.parquet", "annotations.parquet"]


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.duration("ns"), pa.time64("ns")])
def test_times_finer_than_pythons_do_no_harm(tmp_path, kind):
    time = pa.array([1_700_000_123_456_789], pa.int64()).cast(kind)
    listed = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([time], ["at"]))
    path = saved(tmp_path / "a.parquet", rows(0, taken=time, seen=listed))
    data = parquet.read(path, bbox_format="xyxy")
    extra = data.record(0).instances[0].extra
    assert extra["taken"].microsecond == 123456 if hasattr(extra["taken"], "microsecond") else extra["taken"].microseconds == 123456
    assert extra["seen"] == [{"at": extra["taken"]}]
    parquet.write(data.header, iter([data.record(0)]), tmp_path / "out.parquet")


def test_more_files_than_may_be_open(tmp_path):
    for number in range(60):
        saved(tmp_path / f"{number:03d}.parquet", rows(number))
    before, (soft, hard) = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + parquet_table.OPEN + 12, hard))
        assert len(names(tmp_path)) == 60
        data = parquet.read(tmp_path)
        assert len(os.listdir("/proc/self/fd")) - before <= parquet_table.OPEN + 2
        assert [data.record(index).image_id for index in (59, 0, 30)] == [59, 0, 30]
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(DataError, match=r"parquet: cannot be read \(Too many open files\).*ulimit"):
            parquet.read(tmp_path / "000.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
