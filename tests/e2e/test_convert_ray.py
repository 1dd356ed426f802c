"""The conversion on real Ray: the same bytes for any number of workers, after any death; nothing left running."""

import json
import signal

import inscribed
import pyarrow.parquet as pq
import pytest
from drivers import files, launch, start, survivors

from autopoly.jobs.convert import ConvertOptions, convert


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


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_byte(ray_session, made, whole, tmp_path, workers):
    summary = run(made, tmp_path / "out", workers)
    assert summary.exit_code == 0
    assert files(tmp_path / "out") == whole


def corner(made, number):
    import cv2

    return cv2.imread(str(made.parent / f"images/{number:04d}.png"))[0, 0, ::-1].tolist()


def assert_only_these_are_lost(out, whole, guilty):
    rows = pq.read_table(out / "failures.parquet").to_pylist()
    assert {(row["image_id"], row["code"]) for row in rows} == {(str(100 + number), "worker_died") for number in guilty}
    before = {one["id"]: one for one in json.loads(whole)["annotations"]}
    for one in json.loads((out / "annotations.json").read_text())["annotations"]:
        assert one == before[one["id"]] or (one["segmentation"] == [] and one["image_id"] - 100 in guilty)


@pytest.mark.slow
def test_a_picture_that_kills_its_worker_costs_that_picture_alone(ray_session, made, whole, tmp_path):
    pixel = corner(made, 9)
    guilty = [number for number in range(120) if corner(made, number) == pixel and number % 7]
    summary = run(made, tmp_path / "out", 2, inscribed.network(deadly=pixel))
    assert summary.failures == {"worker_died": 5 * len(guilty)}
    assert_only_these_are_lost(tmp_path / "out", whole["annotations.json"], guilty)


@pytest.mark.slow
def test_a_small_run_that_died_in_process_goes_on_under_ray(ray_session, tmp_path):
    made = inscribed.make_dataset(tmp_path / "data")
    run(made, tmp_path / "whole", 0)
    pixel = corner(made, 9)
    guilty = [number for number in range(40) if corner(made, number) == pixel and number % 7]
    driver, _ = launch(made, tmp_path / "out", 0, {"deadly": pixel})
    assert driver.wait(timeout=60) == -signal.SIGKILL
    summary = run(made, tmp_path / "out", "auto", inscribed.network(deadly=pixel))
    assert any("earlier start died" in note for note in summary.notes)
    assert_only_these_are_lost(tmp_path / "out", (tmp_path / "whole/annotations.json").read_bytes(), guilty)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
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
    # Ray's two agents, when they were still starting, notice the death of their node only after a minute; they hold no work.
    assert survivors(mark, but=("Agent",)) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_asked_to_stop_leaves_no_process_behind(made, tmp_path, how):
    driver, mark = start(made, tmp_path / "out", 2, 0.3)
    driver.send_signal(how)
    assert driver.wait(timeout=30) != 0
    assert survivors(mark) == []
    assert not (tmp_path / "out/annotations.json").exists()
    assert list((tmp_path / "out/parts").glob("*.parquet"))
