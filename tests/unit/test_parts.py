import os
import signal
import subprocess
import sys
import time

import pytest

from autopoly.errors import RunError
from autopoly.execute import parts
from autopoly.execute.shards import Shard

MARK = "0123456789abcdef0123456789abcdef"


def test_a_part_is_there_whole_and_leaves_no_rubbish(tmp_path):
    path = parts.part_path(tmp_path, 12, MARK)
    parts.commit(path, b"first")
    parts.commit(path, b"second")
    assert path.name == "00012-0123456789ab.parquet"
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == [path.name]


def test_a_part_that_cannot_be_written_is_one_line_and_no_rubbish(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        parts.commit(tmp_path / "x", b"a folder is in the way")
    assert os.listdir(tmp_path) == ["x"]


def test_only_parts_of_this_plan_count(tmp_path):
    shards = [Shard(0, 0, 1, 1), Shard(1, 1, 2, 1)]
    parts.commit(parts.part_path(tmp_path, 0, MARK), b"")
    parts.commit(parts.part_path(tmp_path, 1, "f" * 32), b"of another run")
    assert parts.missing(shards, tmp_path, MARK) == shards[1:]
    assert parts.missing(shards, tmp_path / "absent", MARK) == shards


def test_fingerprint_depends_on_values_and_not_on_their_order():
    assert parts.fingerprint({"a": 1, "b": [2]}) == parts.fingerprint({"b": [2], "a": 1})
    assert parts.fingerprint({"a": 1}) != parts.fingerprint({"a": "1"})


def test_notes_of_records_in_hand_come_back(tmp_path):
    path = parts.in_hand_path(tmp_path, 3, MARK)
    assert parts.read_in_hand(path) == []
    parts.note_in_hand(path, [4, 5])
    parts.note_in_hand(path, [6])
    assert parts.read_in_hand(path) == [6]


def test_a_plan_comes_back_and_a_damaged_one_is_refused(tmp_path):
    assert parts.read_plan(tmp_path) is None
    plan = {"inputs": {"tolerance": 0.5}, "retry": False}
    parts.write_plan(tmp_path / "parts", plan)
    assert parts.read_plan(tmp_path / "parts") == plan
    (tmp_path / "parts" / parts.PLAN).write_text("{")
    with pytest.raises(RunError, match="--overwrite"):
        parts.read_plan(tmp_path / "parts")


def test_differences_are_said_in_words():
    assert parts.differences({"a": 1, "b": 2}, {"b": 3, "a": 1}) == ["b was 2, now 3"]
    assert parts.differences({"a": 1}, {"a": 1}) == []


def test_a_held_folder_is_refused_and_free_again_afterwards(tmp_path):
    with parts.lock(tmp_path / "run"), pytest.raises(RunError, match=f"process {os.getpid()}"), parts.lock(tmp_path / "run"):
        raise AssertionError("two drivers in one folder")
    with parts.lock(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path / "run") == []


def test_the_lock_of_a_killed_driver_does_not_stand_in_the_way(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from autopoly.execute import parts\n"
        "with parts.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match="is running in this folder"), parts.lock(tmp_path):
        raise AssertionError("two drivers in one folder")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    started = time.monotonic()
    with parts.lock(tmp_path):
        assert time.monotonic() - started < 1
