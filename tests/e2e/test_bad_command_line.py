"""What malformed input looks like on the command line: one line on stderr, exit code 2, no traceback; and how many cases there are."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SECRET = "hunter2"


def run(*arguments, **environment):
    command = [sys.executable, "-m", "autopoly", *map(os.fsdecode, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, env=os.environ | environment, check=False)


def refused(done, *words):
    said = done.stderr.decode("utf-8", "strict")
    assert done.returncode == 2, said
    assert said.startswith("autopoly: ")
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    assert len(said) < 2100
    assert SECRET not in said
    for word in words:
        assert word in said


@pytest.fixture
def sound(tmp_path):
    whole = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "\x1b[2J" + "c" * 10_000}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(whole))
    return path


def test_a_file_that_is_nested_too_deep(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    refused(run("convert", tmp_path / "a.json", tmp_path / "out"), "a.json")
    assert not (tmp_path / "out").exists()


def test_an_address_loses_its_login_and_its_signature(tmp_path):
    refused(run("convert", f"https://me:{SECRET}@host/a.json?X-Amz-Signature={SECRET}", tmp_path / "out"), "no such file")


def test_bytes_that_are_no_letters_and_a_name_without_end(tmp_path):
    refused(run("convert", b"\xff\xfe\x1b[31m.json", tmp_path / "out"), "no such file")
    refused(run("convert", "a" * 5000, tmp_path / "out"))


def test_names_of_a_dataset_do_not_steer_the_terminal(sound, tmp_path):
    refused(run("convert", sound, tmp_path / "out", "--categories", "dog"), "no such category")


def test_a_checkpoint_that_is_a_pickle(sound, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/weights.safetensors").write_bytes(b"\x80\x04.")
    whole = json.loads(sound.read_text())
    whole["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    sound.write_text(json.dumps(whole))
    refused(run("convert", sound, tmp_path / "out", "--checkpoint", tmp_path / "model", "--workers", "0", "--quiet"), "is a pickle")


def test_a_recipe_and_a_score_of_garbage(tmp_path):
    (tmp_path / "a.toml").write_text("[" * 100_000)
    refused(run("run", tmp_path / "a.toml"), "not a readable TOML")
    (tmp_path / "a.json").write_bytes(b"\xff" * 1000)
    refused(run("score", tmp_path / "a.json", tmp_path / "a.json"), "a.json")


def test_there_are_more_than_three_hundred_cases():
    count = 0
    sys.path.insert(0, str(TESTS / "property"))
    for path in sorted(TESTS.rglob("test_bad_*.py")):
        if path == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(f"counted_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # Every table is that of a parametrised test, or of the one run that is held against all of it.
        tables = module.CASES
        assert all(tables.values()), path
        count += sum(map(len, tables.values()))
    assert count >= 300, count
