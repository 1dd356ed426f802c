"""Conversions in processes of their own, to be killed; and what is left of them."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRIVE = """
import json, sys, inscribed
from pathlib import Path
from autopoly.execute import shards
from autopoly.jobs.convert import ConvertOptions, convert
source, out, workers, network, boxes, options = sys.argv[1:]
shards.BOXES_LEAST = int(boxes)
if workers != "0":
    import ray
    ray.cloudpickle.register_pickle_by_value(inscribed)
asked = ConvertOptions(source=Path(source), out=Path(out), workers=int(workers), device="cpu", score=False, **json.loads(options))
convert(asked, network=inscribed.network(**json.loads(network)))
"""


def environment(**more):
    """Give the environment of a child that finds the product and the modules of these tests, with a mark to know it and its children by."""
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return os.environ | {"PYTHONPATH": paths, "AUTOPOLY_TEST_MARK": uuid.uuid4().hex} | more


def launch(made, out, workers, network, boxes=64, surroundings=None, **options):
    """Start a conversion with shards of at least so many boxes; give its process and its mark."""
    surroundings = surroundings or environment()
    command = [sys.executable, "-c", DRIVE, str(made), str(out), str(workers), json.dumps(network), str(boxes), json.dumps(options)]
    with log(out).open("ab") as said:
        driver = subprocess.Popen(command, env=surroundings, stdout=said, stderr=said, start_new_session=True)
    return driver, surroundings["AUTOPOLY_TEST_MARK"]


def log(out):
    """Name the file that has what the drivers of a run folder said."""
    return out.with_name(f"{out.name}.log")


def start(made, out, workers, pause, **more):
    """Launch a driver and wait for its first part."""
    driver, mark = launch(made, out, workers, {"pause": pause}, **more)
    wait_for_parts(driver, out, 1)
    running = [line for _, line in processes(mark)]
    assert any("raylet" in line for line in running) == (workers > 0)
    return driver, mark


def wait_for_parts(driver, out, count, patience=120):
    limit = time.monotonic() + patience
    while len(list((out / "parts").glob("[0-9]*.parquet"))) < count:
        assert driver.poll() is None, f"the driver ended before it could be disturbed: {log(out).read_text()}"
        assert time.monotonic() < limit
        time.sleep(0.02)


def wait_for_process(driver, mark, title, patience=60):
    """Give the id of a process of the driver that shows a title: a worker bears that of its task only while it has one."""
    limit = time.monotonic() + patience
    while not (found := [pid for pid, line in processes(mark) if title in line]):
        assert driver.poll() is None, "the driver ended before it could be disturbed"
        assert time.monotonic() < limit
        time.sleep(0.02)
    return found[0]


def processes(mark):
    """List (id, command) of the living processes that carry a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"AUTOPOLY_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80]
        except OSError:
            continue
        if ours and line:
            found.append((int(folder.name), line))
    return found


def survivors(mark, patience=40.0, but=()):
    """Wait for the processes that carry a mark to end; give the commands of those that did not."""
    limit = time.monotonic() + patience
    while True:
        found = [line for _, line in processes(mark) if not any(name in line for name in but)]
        if not found or time.monotonic() > limit:
            return found
        time.sleep(0.3)


def files(out):
    """Read everything a run leaves except run.json, which tells the time."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.name != "run.json"}


def leftovers(out):
    """Name what a run puts down only for a moment."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.suffix in (".tmp", ".spool", ".partial"))
