"""A Ray cluster of several nodes (on this machine): where workers are placed, weights that travel, nodes that die, devices that change."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import inscribed
import pytest

from autopoly.errors import CheckpointError, RunError
from autopoly.execute import parts
from autopoly.execute.shards import plan as cut
from autopoly.jobs.conversion import placement, work
from autopoly.jobs.convert import ConvertOptions, convert, plan

ray_pool = pytest.importorskip("autopoly.execute.ray_pool")
ROOT = Path(__file__).parents[2]
MARK = "c" * 32
GPU_NODE, PLAIN_NODE = {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 0.0}


class Locator:
    """Note on which node a shard was run and what the worker was given."""

    def __init__(self, threads, folder):
        import ray

        self.folder, self.threads = folder, threads
        self.node = ray.get_runtime_context().get_node_id()
        self.gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]

    def process(self, shard, records=None, poison=()):
        time.sleep(0.3)
        told = {"node": self.node, "gpus": self.gpus, "threads": self.threads, "pid": os.getpid()}
        parts.commit(parts.part_path(self.folder, shard.number, MARK), json.dumps(told).encode())
        return {"records": shard.stop - shard.start}


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster of two nodes, one of which says that it has a GPU (none is needed: Ray counts what it is told)."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    made = Cluster()
    try:
        join(made, num_cpus=2, num_gpus=1, include_dashboard=False)
        join(made, num_cpus=2, num_gpus=0)
        with ray_pool.session(made.address):
            ray.cloudpickle.register_pickle_by_value(inscribed)
            ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
            yield made
    finally:
        made.shutdown()


def join(cluster, **offers):
    """Add a node; Ray gives it half a minute to start, which a busy machine may need longer for."""
    for last in (False, False, True):
        try:
            node = cluster.add_node(object_store_memory=80 << 20, **offers)
            break
        except Exception as error:
            if last or "timed out during startup" not in str(error):
                raise
    cluster.wait_for_nodes(timeout=120)
    return node


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return inscribed.make_dataset(tmp_path_factory.mktemp("made"), images=80)


def run(made, out, network=None, progress=None, **options):
    asked = ConvertOptions(source=made, out=out, score=False, **options)
    return convert(asked, progress, network or inscribed.network())


def files(out, but=("run.json",)):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name not in but}


def located(cluster, folder, workers, gpu):
    options = ray_pool.PoolOptions(workers, cluster.address, gpu=gpu)
    shards = cut([32] * 24)
    assert len(
        list(ray_pool.run(partial(Locator, folder=folder), shards, options, lambda shard: folder / "no-note", lambda record: 1))
    ) == len(shards)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.parquet"))]


@pytest.mark.parametrize(
    ("machines", "workers", "gpu", "share"),
    [
        ([GPU_NODE, PLAIN_NODE], 1, True, (2.0, 1.0)),
        ([GPU_NODE, PLAIN_NODE], 2, True, (1.0, 0.5)),
        ([GPU_NODE, PLAIN_NODE], 4, False, (1.0, 0.0)),
        # The machine with four GPUs has processors for all, but places for four: the fifth worker must fit on the small one.
        ([{"CPU": 2.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 4.0}], 5, True, (2.0, 1.0)),
        ([{"CPU": 0.0, "GPU": 1.0}, PLAIN_NODE], 1, True, (0.0, 1.0)),
    ],
)
def test_every_worker_has_a_place_at_once(machines, workers, gpu, share):
    assert ray_pool.shares(machines, workers, gpu) == pytest.approx(share)


def test_a_cluster_without_a_gpu_says_so():
    with pytest.raises(RunError, match="Ray sees none"):
        ray_pool.shares([PLAIN_NODE], 1, True)
    with pytest.raises(RunError, match="no machine of the Ray cluster offers a GPU"):
        placement.device_kind("cuda", [PLAIN_NODE])


def test_workers_and_device_follow_the_cluster_not_this_machine():
    mixed = [GPU_NODE, {"CPU": 16.0, "GPU": 0.0}, {"CPU": 8.0, "GPU": 4.0}]
    assert placement.device_kind("auto", mixed) == "cuda"
    assert placement.device_kind("cpu", mixed) == "cpu"
    assert placement.device_kind("auto", [PLAIN_NODE]) == "cpu"
    assert placement.workers("auto", "cuda", 10**6, 500, mixed) == 1 + 4, "one per GPU where there are two processors for each"
    assert placement.workers("auto", "cuda", 10**6, 500, [{"CPU": 64.0, "GPU": 2.0}, {"CPU": 6.0, "GPU": 1.0}, PLAIN_NODE]) == 8 + 3
    assert placement.workers("auto", "cpu", 10**6, 500, mixed) == 2 + 8 + 4
    assert placement.workers("auto", "cpu", 10, 3, mixed) == 3
    assert placement.workers(7, "cuda", 10**6, 500, mixed) == 7


def test_weights_arrive_whole_or_not_at_all(untrained):
    sent = work.carried(work.siamanno(str(untrained)))
    assert set(sent.load.files) == {"config.json", "weights.safetensors"}
    assert sent.load("", "cpu", 0.5, 1).polygons is not None
    broken = work.Carried({**sent.load.files, "config.json": sent.load.files["config.json"] + b" "}, sent.fingerprint)
    with pytest.raises(CheckpointError, match="hash changed on the way"):
        broken("", "cpu", 0.5, 1)
    other = inscribed.network()
    assert work.carried(other) is other


def test_nobody_at_the_address_is_one_line(made, tmp_path):
    command = [sys.executable, "-m", "autopoly", "convert", str(made), str(tmp_path / "out"), "--address", "127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("autopoly:")] == done.stderr.splitlines()[-1:]
    assert "nobody answers at 127.0.0.1:9" in done.stderr


@pytest.mark.slow
def test_workers_for_a_gpu_go_to_the_node_that_has_one(cluster, tmp_path):
    import ray

    offered = {node["NodeID"]: node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]}
    (tmp_path / "gpu").mkdir()
    (tmp_path / "cpu").mkdir()
    on_gpu = located(cluster, tmp_path / "gpu", 1, gpu=True)
    assert {offered[one["node"]] for one in on_gpu} == {1.0}
    assert {tuple(one["gpus"]) for one in on_gpu} == {("0",)}
    on_any = located(cluster, tmp_path / "cpu", 4, gpu=False)
    assert {one["node"] for one in on_any} == set(offered)
    assert {one["threads"] for one in on_any} == {1}


@pytest.mark.slow
def test_a_checkpoint_that_only_the_driver_has_is_used_on_every_node(cluster, untrained, tmp_path):
    import cv2
    from skimage import data

    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), data.chelsea()[..., ::-1])
    boxes = [{"id": k, "image_id": 1, "category_id": 1, "bbox": [10 + k % 80, 20, 120, 130]} for k in range(70)]
    images = [{"id": 1, "file_name": "a.png", "width": 451, "height": 300}, {"id": 2, "file_name": "a.png", "width": 451, "height": 300}]
    boxes += [{**one, "id": 100 + one["id"], "image_id": 2} for one in boxes]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}))
    shutil.copytree(untrained, tmp_path / "private")
    asked = {"source": tmp_path / "a.json", "device": "cpu", "score": False, "checkpoint": str(tmp_path / "private")}
    convert(ConvertOptions(out=tmp_path / "local", workers=1, **asked))
    job = work.siamanno(str(tmp_path / "private"))
    sent = work.carried(job)
    shutil.rmtree(tmp_path / "private")
    # What the job does for --address; here the folder is gone before the first worker starts.
    summary = convert(ConvertOptions(out=tmp_path / "out", address=cluster.address, **asked), network=sent)
    assert summary.counts["boxes"] == 140
    assert files(tmp_path / "out", ("run.json", "report.html")) == files(tmp_path / "local", ("run.json", "report.html"))


@pytest.mark.slow
def test_a_node_that_dies_costs_nothing(cluster, made, tmp_path):
    run(made, tmp_path / "local", workers=0, device="cpu")
    doomed = join(cluster, num_cpus=4, num_gpus=0)
    assert plan(ConvertOptions(source=made, out=tmp_path / "out", address=cluster.address, device="cpu"), inscribed.network()).workers == 6
    killed = threading.Event()

    def lose(_):
        if not killed.is_set():
            killed.set()
            cluster.remove_node(doomed, allow_graceful=False)

    summary = run(made, tmp_path / "out", inscribed.network(pause=0.5), lose, address=cluster.address, device="cpu")
    assert killed.is_set()
    assert summary.failures == {}
    assert files(tmp_path / "out") == files(tmp_path / "local")


@pytest.mark.slow
def test_going_on_with_another_device_must_be_asked_for_and_is_recorded(cluster, made, tmp_path):
    run(made, tmp_path / "local", workers=0, device="cpu")
    out = tmp_path / "out"

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, out, inscribed.network(pause=0.3), stop, address=cluster.address, device="auto", workers=1)
    begun = parts.read_plan(out / "parts")
    assert begun["inputs"]["device"] == "cuda"
    assert list((out / "parts").glob("*.parquet"))
    with pytest.raises(RunError, match=r"device was \"cuda\", now \"cpu\".*--accept-device-change"):
        run(made, out, workers=0, device="cpu")
    with pytest.raises(RunError, match="tolerance was"):
        run(made, out, workers=0, device="cpu", tolerance=3.0, accept_device_change=True)
    steps = []
    summary = run(made, out, progress=steps.append, workers=0, device="cpu", accept_device_change=True)
    assert steps[0].boxes_before > 0
    assert any("begun on cuda, going on with cpu" in note for note in summary.notes)
    told = json.loads((out / "run.json").read_text())
    assert (told["device"], told["devices"], told["inputs"]["device"]) == ("cpu", ["cuda", "cpu"], "cuda")
    assert files(out, ("run.json", "report.html")) == files(tmp_path / "local", ("run.json", "report.html"))
    assert run(made, out, workers=0, device="cpu", accept_device_change=True).already
