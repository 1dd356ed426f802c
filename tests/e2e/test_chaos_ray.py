"""Deaths on real Ray, of everything that can die: the same command again ends with the bytes of a run that nothing disturbed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import inscribed
import numpy as np
import pyarrow.parquet as pq
import pytest
from drivers import environment, files, launch, leftovers, log, start, survivors, wait_for_parts, wait_for_process

from autopoly.execute import shards
from autopoly.jobs.convert import ConvertOptions, convert

pytestmark = pytest.mark.slow
BOXES = 10
"""A dozen shards of two or three pictures."""
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return inscribed.make_dataset(tmp_path_factory.mktemp("made"), images=30)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """Give the files of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BOXES_LEAST", BOXES)
        asked = ConvertOptions(source=made, out=out, to=("coco", "parquet"), workers=0, device="cpu", score=False)
        assert convert(asked, network=inscribed.network()).exit_code == 0
    return files(out)


def begin(made, out, workers, network, **options):
    return launch(made, out, workers, network, BOXES, to=["coco", "parquet"], **options)


def finish(driver, mark, out, patience=300):
    """Wait for a good end; nothing is left running and nothing half written."""
    assert driver.wait(timeout=patience) == 0, log(out).read_text()
    assert survivors(mark) == []
    assert leftovers(out) == []
    assert not (out / "parts").exists()


@pytest.mark.parametrize(("workers", "seed"), [(0, 1), (0, 2), (0, 3), (2, 4), (2, 5)])
def test_a_driver_killed_again_and_again_ends_as_if_nothing_had_been(made, whole, tmp_path, workers, seed):
    rng, out = np.random.default_rng(seed), tmp_path / "out"
    marks = []
    for _ in range(40 if workers == 0 else 4):
        driver, mark = begin(made, out, workers, {"pause": 0.1})
        marks.append(mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(timeout=float(rng.uniform(0.5, 4.0) if workers == 0 else rng.uniform(2.0, 20.0)))
        if driver.poll() is not None:
            break
        driver.kill()
        driver.wait()
    else:
        finish(*begin(made, out, workers, {}), out)
    assert files(out) == whole
    # Ray's two agents, when they were still starting, notice the death of their node only after a minute; they hold no work.
    assert [left for mark in marks if (left := survivors(mark, but=("Agent",)))] == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_costs_nothing(made, whole, tmp_path, how):
    out = tmp_path / "out"
    driver, mark = begin(made, out, 2, {"pause": 0.3})
    for wanted in (1, 3, 5):
        wait_for_parts(driver, out, wanted)
        os.kill(wait_for_process(driver, mark, "_Host.process"), how)
    finish(driver, mark, out)
    assert files(out) == whole


@pytest.fixture
def cluster():
    surroundings, pipes = environment(), {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], env=surroundings, text=True, **pipes) as process:
        lines = (line for line in process.stdout if line.startswith("{"))
        yield json.loads(next(lines))
        process.communicate("\n", timeout=120)
    assert survivors(surroundings["AUTOPOLY_TEST_MARK"]) == []


def test_a_machine_that_goes_away_leaves_its_work_to_the_other(made, whole, tmp_path, cluster):
    out = tmp_path / "out"
    driver, _ = begin(made, out, 2, {"pause": 0.5}, address=cluster["address"])
    wait_for_parts(driver, out, 3)
    os.kill(cluster["raylets"][0], signal.SIGKILL)
    lost = time.monotonic()
    assert driver.wait(timeout=400) == 0, log(out).read_text()
    # The seat of the lost machine finds no place any more; nobody waits for it.
    assert time.monotonic() - lost < 250
    assert files(out) == whole


def test_a_driver_whose_own_raylet_dies_ends_and_can_go_on(made, whole, tmp_path):
    out = tmp_path / "out"
    driver, mark = start(made, out, 2, 4.0, boxes=BOXES, to=["coco", "parquet"])
    os.kill(wait_for_process(driver, mark, "raylet/raylet"), signal.SIGKILL)
    # Ray itself ends a driver that has lost its raylet.
    assert driver.wait(timeout=300) != 0
    assert survivors(mark, but=("Agent",)) == []
    finish(*begin(made, out, 2, {}), out)
    assert files(out) == whole


@pytest.mark.parametrize(("mood", "code"), [("die", "worker_died"), ("hang", "worker_timeout"), ("stop", "worker_timeout")])
def test_a_picture_that_takes_every_worker_down_costs_its_own_boxes_alone(made, whole, tmp_path, mood, code):
    out = tmp_path / "out"
    pixels = [cv2.imread(str(made.parent / f"images/{number:04d}.png"))[0, 0, ::-1].tolist() for number in range(30)]
    deadly = next(number for number in range(8, 30) if number % 7 and pixels.count(pixels[number]) == 1)
    network = {"deadly": pixels[deadly], "mood": mood}
    driver, mark = begin(made, out, 2, network, shard_timeout=5.0)
    assert driver.wait(timeout=500) == 0, log(out).read_text()
    assert survivors(mark) == []
    rows = pq.read_table(out / "failures.parquet").to_pylist()
    assert [(row["image_id"], row["stage"], row["code"]) for row in rows] == [(str(100 + deadly), "run", code)] * 5
    assert all(row["message"] for row in rows)
    before = {one["id"]: one for one in json.loads(whole["annotations.json"])["annotations"]}
    after = json.loads((out / "annotations.json").read_text())["annotations"]
    assert [one["id"] for one in after] == list(before)
    assert all(one == before[one["id"]] for one in after if one["image_id"] != 100 + deadly)
    assert [one["segmentation"] for one in after if one["image_id"] == 100 + deadly] == [[]] * 5


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_stops_when_it_is_asked_to(tmp_path, made, untrained, how, code):
    surroundings, out = environment(), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "autopoly",
        "convert",
        made,
        out,
        "--checkpoint",
        untrained,
        "--device",
        "cpu",
        "--no-score",
        "--quiet",
    ]
    undisturbed = subprocess.run([*command[:5], tmp_path / "whole", *command[6:], "--workers", "0"], env=surroundings, check=False)
    assert undisturbed.returncode in (0, 1)
    with log(out).open("wb") as said:
        driver = subprocess.Popen([*command, "--workers", "2"], env=surroundings, stdout=said, stderr=said, start_new_session=True)
    wait_for_parts(driver, out, 1)
    # Ctrl-C goes to all processes of a terminal; a scheduler asks the one that it started.
    (os.killpg if how == signal.SIGINT else os.kill)(driver.pid, how)
    assert driver.wait(timeout=120) == code
    said = log(out).read_text().split("\n")
    assert said == ["autopoly: interrupted; what was finished is kept, the same command goes on from there", ""]
    assert survivors(surroundings["AUTOPOLY_TEST_MARK"]) == []
    assert leftovers(out) == []
    assert subprocess.run([*command, "--workers", "0"], env=surroundings, check=False).returncode == undisturbed.returncode
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("at", [2, 9, 16])
def test_a_disk_that_is_full_for_the_workers_is_one_line(made, whole, tmp_path, at):
    out = tmp_path / "out"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text("import faults\nfaults.from_environment()\n")
    surroundings = environment()
    surroundings |= {"PYTHONPATH": f"{tmp_path / 'site'}:{surroundings['PYTHONPATH']}", "AUTOPOLY_TEST_FAULT": f"{out / 'parts'}:{at}:full"}
    driver, mark = begin(made, out, 2, {}, surroundings=surroundings | {"AUTOPOLY_TEST_FAULT_IN": "default_worker.py"})
    assert driver.wait(timeout=120) == 1
    assert "RunError" in log(out).read_text()
    assert "cannot be written (No space left on device); make room there" in log(out).read_text()
    assert survivors(mark) == []
    assert leftovers(out) == []
    finish(*begin(made, out, 2, {}), out)
    assert files(out) == whole
