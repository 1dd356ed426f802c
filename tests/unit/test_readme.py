"""The README says what is so: its commands parse, its Python runs on real names, its tables match the code."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import autopoly
from autopoly.cli import app
from autopoly.execute import tickets
from autopoly.formats import FORMATS
from autopoly.formats.parquet_write import TYPES
from autopoly.jobs.conversion.run_folder import ANNOTATIONS

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text()
COMMANDS = re.findall(r"^autopoly (.*)$", TEXT, re.MULTILINE)


def test_the_readme_shows_every_command():
    assert {line.split()[0] for line in COMMANDS} == set(get_command(app).commands)


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_parse(line):
    name, *arguments = shlex.split(line, comments=True)
    get_command(app).commands[name].make_context(name, arguments)


def test_its_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text()
    targets = set(re.findall(r"^(?:`| *)?make ([a-z-]+)", TEXT, re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)`", TEXT))
    assert {"demo", "test"} <= targets
    assert [name for name in sorted(targets) if f"\n{name}:" not in makefile] == []


def test_its_python_uses_what_there_is():
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    compile(snippet, "README.md", "exec")
    from autopoly.predict import Annotator

    assert autopoly.load.__module__ == "autopoly.predict"
    used = set(re.findall(r"annotator\.(\w+)\(", TEXT))
    assert used == {"polygons", "refine"}
    assert all(callable(getattr(Annotator, name)) for name in used)


def test_its_tables_match_the_formats():
    section = TEXT.split("Columns of `annotations.parquet`")[1].split("\n## ")[0]
    columns = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `")))
    assert columns == list(TYPES)
    formats = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \|", TEXT.split("## Formats")[1].split("Columns of")[0], re.MULTILINE)
    assert [name for name, _ in formats] == list(FORMATS)
    assert {name for name, written in formats if written == "yes"} == set(ANNOTATIONS)


def test_it_names_every_code_of_a_failure():
    named = set(re.findall(r"`(\w+)`", "".join(line.split(" | ")[0] for line in TEXT.split("| code | |")[1].split("\n\n")[0].splitlines())))
    training = {"crowd", "mask_unusable", "no_mask", "predicted_mask", "too_small"}  # why an instance is not learned from
    source = "".join(path.read_text() for path in (README.parent / "autopoly").rglob("*.py"))
    raised = set(re.findall(r'Problem\(\s*"(\w+)"', source)) - training
    assert named == raised | set(tickets._WORDS)


def test_its_versions_are_those_of_the_lock():
    lock = (README.parent / "requirements.lock").read_text()
    pins = re.findall(r"\b(?:torch|torchvision)==[\d.]+", TEXT)
    assert pins and all(f"\n{pin}\n" in lock for pin in pins)


def test_the_lock_runs_on_any_machine():
    lines = [line for line in (README.parent / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 50
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+( ; sys_platform == \"linux\")?", line), line
        assert ("linux" in line) == line.startswith(("nvidia-", "cuda-", "triton==")), line
