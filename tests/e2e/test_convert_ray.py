"""The conversion on real Ray: the same bytes for any number of workers, after any death; nothing left running."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import inscribed
import pyarrow.parquet as pq
import pytest

from autopoly.jobs.convert import ConvertOptions, convert
from autopoly.jobs.work import Network

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DRIVE = """
import sys, inscribed
from pathlib import Path
from autopoly.jobs.convert import ConvertOptions, convert
source, out, workers, pause = sys.argv[1:]
if workers != "0":
    import ray
    ray.cloudpickle.register_pickle_by_value(inscribed)
asked = ConvertOptions(source=Path(source), out=Path(out), workers=int(workers), device="cpu", score=False)
convert(asked, network=inscribed.network(float(pause)))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return inscribed.make_dataset(tmp_path_factory.mktemp("made"), images=120)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    run(made, out, 0)
    return files(out)


def run(made, out, workers, network=None, **options):
    asked = ConvertOptions(source=made, out=out, workers=workers, device="cpu", score=False, **options)
    return convert(asked, network=network or inscribed.network())


def files(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "run.json"}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_byte(ray_session, made, whole, tmp_path, workers):
    summary = run(made, tmp_path / "out", workers)
    assert summary.exit_code == 0
    assert files(tmp_path / "out") == whole


class Deadly(inscribed.Inscriber):
    """Dies of one picture, known by its top left pixel."""

    def __init__(self, pixel):
        super().__init__(0.0)
        self.pixel = pixel

    def predict(self, items):
        if any(image[0, 0].tolist() == self.pixel for image, _ in items):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(items)


def deadly(checkpoint, device, tolerance, threads):
    return Deadly(json.loads(checkpoint))


def test_a_picture_that_kills_its_worker_costs_that_picture_alone(ray_session, made, whole, tmp_path):
    import cv2
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    corner = cv2.imread(str(made.parent / "images/0009.png"))[0, 0, ::-1].tolist()
    guilty = [k for k in range(120) if cv2.imread(str(made.parent / f"images/{k:04d}.png"))[0, 0, ::-1].tolist() == corner and k % 7]
    summary = run(made, tmp_path / "out", 2, Network(deadly, "deadly", json.dumps(corner)))
    rows = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert summary.failures == {"worker_died": 5 * len(guilty)}
    assert {row["image_id"] for row in rows} == {str(100 + k) for k in guilty}
    before = {one["id"]: one for one in json.loads(whole["annotations.json"])["annotations"]}
    after = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    for one in after:
        assert one == before[one["id"]] or (one["segmentation"] == [] and one["image_id"] in {100 + k for k in guilty})


def start(made, out, workers, pause):
    mark = uuid.uuid4().hex
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "AUTOPOLY_TEST_MARK": mark}
    command = [sys.executable, "-c", DRIVE, str(made), str(out), str(workers), str(pause)]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 90
    while not list((out / "parts").glob("*.parquet")):
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.02)
    running = survivors(mark, 0)
    assert any("raylet" in line for line in running) == (workers > 0)
    return driver, mark


def survivors(mark, patience=20.0):
    """Wait for the processes that carry a mark in their environment to end; give those that did not."""
    limit = time.monotonic() + patience
    while True:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                alive = f"AUTOPOLY_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            if alive:
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80])
        if not found or time.monotonic() > limit:
            return found
        time.sleep(0.3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_driver_loses_nothing(ray_session, made, whole, tmp_path, workers):
    driver, mark = start(made, tmp_path / "out", workers, 0.2)
    driver.kill()
    driver.wait()
    assert not (tmp_path / "out/annotations.json").exists()
    unfinished = {path.name for path in (tmp_path / "out/parts").glob("*.parquet")}
    assert unfinished
    # At once, while workers of the dead driver may still be running.
    summary = run(made, tmp_path / "out", 2, inscribed.network(0.2))
    assert summary.exit_code == 0
    assert files(tmp_path / "out") == whole
    assert survivors(mark) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_asked_to_stop_leaves_no_process_behind(made, tmp_path, how):
    driver, mark = start(made, tmp_path / "out", 2, 0.3)
    driver.send_signal(how)
    assert driver.wait(timeout=30) != 0
    assert survivors(mark) == []
    assert not (tmp_path / "out/annotations.json").exists()
    assert list((tmp_path / "out/parts").glob("*.parquet"))
