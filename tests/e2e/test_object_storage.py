"""Pictures, annotations and results in an object store: a real S3 server, the same bytes as from disk, failures counted, nothing leaked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import inscribed
import pyarrow.parquet as pq
import pytest

pytest.importorskip("moto")
import object_store

from autopoly import cli, recipes, storage
from autopoly.errors import AutopolyError, DataError, RunError, StorageError
from autopoly.jobs import pipeline
from autopoly.jobs.convert import ConvertOptions, convert
from autopoly.jobs.score import open_annotations

ROOT = Path(__file__).parents[2]
BUCKET = "autopoly"
DRIVE = """
import json, sys, inscribed
from pathlib import Path
from autopoly.jobs.convert import ConvertOptions, convert
source, out, network = sys.argv[1:]
asked = ConvertOptions(source=Path(source), out=Path(out), workers=0, device="cpu", score=False)
convert(asked, network=inscribed.network(**json.loads(network)))
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with object_store.server(tmp_path_factory.mktemp("server") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return inscribed.make_dataset(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture(scope="module")
def store(endpoint, made):
    store = object_store.client(endpoint)
    store.create_bucket(Bucket=BUCKET)
    object_store.upload(store, BUCKET, made.parent, "data")
    return store


@pytest.fixture
def use(monkeypatch):
    """Point this process at a server; connections of another test are forgotten."""

    def point(address, **credentials):
        for name, value in object_store.environment(address, **credentials).items():
            monkeypatch.setenv(name, value)
        storage._filesystem.cache_clear()

    yield point
    storage._filesystem.cache_clear()


@pytest.fixture
def reached(use, store, endpoint):
    use(endpoint)
    return store


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    run(made, out)
    return files(out)


def run(source, out, network=None, **options):
    asked = {"workers": 0, "device": "cpu", "score": False, "to": ("coco", "parquet"), **options}
    return convert(ConvertOptions(source=Path(source), out=Path(out), **asked), network=network or inscribed.network())


def files(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "run.json"}


def stored(store, prefix):
    return {name: data for name, data in object_store.contents(store, BUCKET, prefix).items() if name != "run.json"}


def test_annotations_and_pictures_from_a_store_give_the_bytes_of_a_run_from_disk(reached, whole, tmp_path):
    run(f"s3://{BUCKET}/data/annotations.json", tmp_path / "out")
    assert files(tmp_path / "out") == whole
    # The folder, its pictures found beside the annotations; fewer of them, for the server is slow.
    few = run(f"s3://{BUCKET}/data", tmp_path / "few", limit=4)
    assert few.counts["predicted"] == 15
    assert few.failures == {}


def test_parquet_from_a_store_is_read_in_place(reached, made, whole, tmp_path):
    reached.put_object(Bucket=BUCKET, Key="boxes/boxes.parquet", Body=whole["annotations.parquet"])
    summary = run(f"s3://{BUCKET}/boxes/boxes.parquet", tmp_path / "out", images=Path(f"s3://{BUCKET}/data/images"))
    assert summary.counts["predicted"] == 170
    after = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    before = {one["id"]: one["segmentation"] for one in json.loads(whole["annotations.json"])["annotations"]}
    assert {one["id"]: one["segmentation"] for one in after} == before


def test_results_in_a_store_are_those_on_disk_and_no_parts_stay(reached, made, whole):
    summary = run(made, f"s3://{BUCKET}/results/one")
    assert stored(reached, "results/one") == whole
    assert any("no locks" in note for note in summary.notes)
    assert str(summary.folder) == f"s3://{BUCKET}/results/one"
    assert run(made, f"s3://{BUCKET}/results/one").already
    with pytest.raises(AutopolyError, match=r"tolerance was 0.5, now 2.0.*--overwrite"):
        run(made, f"s3://{BUCKET}/results/one", tolerance=2.0)
    run(made, f"s3://{BUCKET}/results/one", tolerance=2.0, overwrite=True, to=("coco",))
    assert sorted(stored(reached, "results/one")) == ["annotations.json", "failures.parquet", "report.html"]
    assert int(open_annotations(Path(f"s3://{BUCKET}/results/one")).counts.sum()) == 170


def test_a_killed_run_goes_on_in_the_store_and_loses_nothing(reached, made, whole):
    out = f"s3://{BUCKET}/results/killed"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    command = [sys.executable, "-c", DRIVE.replace("score=False", 'score=False, to=("coco", "parquet")'), str(made), out, '{"pause": 0.5}']
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, **pipes) as driver:
        try:
            limit = time.monotonic() + 120
            while not any(name.endswith(".parquet") for name in object_store.names(reached, BUCKET, "results/killed/parts")):
                assert driver.poll() is None, "the driver ended before it could be killed"
                assert time.monotonic() < limit
                time.sleep(0.05)
        finally:
            driver.send_signal(signal.SIGKILL)
    left = object_store.contents(reached, BUCKET, "results/killed")
    assert "parts/plan.json" in left and "annotations.json" not in left
    with pytest.raises(AutopolyError, match="unfinished run with other input"):
        run(made, out, tolerance=2.0)
    boxes = []
    asked = ConvertOptions(source=made, out=Path(out), workers=0, device="cpu", score=False, to=("coco", "parquet"))
    convert(asked, boxes.append, inscribed.network())
    assert boxes[0].boxes_before > 0, "nothing of the killed run was used"
    assert stored(reached, "results/killed") == whole


def test_pictures_that_cannot_be_read_are_counted_and_tried_again(reached, made, whole, tmp_path):
    shutil.copytree(made.parent, tmp_path / "data")
    object_store.upload(reached, BUCKET, made.parent / "images", "broken")
    reached.delete_object(Bucket=BUCKET, Key="broken/0001.png")
    reached.put_object(Bucket=BUCKET, Key="broken/0002.png", Body=(made.parent / "images/0002.png").read_bytes()[:900])
    summary = run(tmp_path / "data/annotations.json", tmp_path / "out", images=Path(f"s3://{BUCKET}/broken"))
    assert summary.failures == {"image_missing": 5, "image_truncated_or_corrupt": 5}
    object_store.upload(reached, BUCKET, made.parent / "images", "broken")
    run(tmp_path / "data/annotations.json", tmp_path / "out", images=Path(f"s3://{BUCKET}/broken"), retry_failures=True)
    assert {name: data for name, data in files(tmp_path / "out").items() if name != "report.html"} == {
        name: data for name, data in whole.items() if name != "report.html"
    }


def test_a_store_that_stumbles_is_asked_again_and_one_that_stays_down_for_a_picture_is_counted(
    store, use, endpoint, made, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "ATTEMPTS", 3)  # the pauses between them grow
    asked = Counter()

    def refuse(method, path):
        asked[path] += 1
        return (path.endswith("/0003.png") and asked[path] <= 2) or path.endswith("/0004.png")

    with object_store.gate(endpoint, refuse) as address:
        use(address)
        summary = run(made, tmp_path / "out", images=Path(f"s3://{BUCKET}/data/images"), limit=6)
    assert summary.failures == {"image_unreachable": 5}
    tries = next(count for path, count in asked.items() if path.endswith("/0004.png"))
    # Once by the worker, and up to three times by the report, which would show the picture.
    assert storage.ATTEMPTS <= tries <= 4 * storage.ATTEMPTS
    rows = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert {row["file"] for row in rows} == {"0004.png"}
    assert all("\n" not in row["message"] and f"s3://{BUCKET}/data/images/0004.png" in row["message"] for row in rows)
    before = {one["id"]: one for one in json.loads(whole["annotations.json"])["annotations"]}
    after = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    assert all(one == before[one["id"]] or (one["segmentation"] == [] and one["image_id"] == 104) for one in after)


@pytest.mark.parametrize(
    ("source", "out", "text"),
    [
        ("s3://autopoly/none.json", None, "no such file or folder"),
        ("s3://no-such-bucket/annotations.json", None, "no such file or folder"),
        (None, "s3://no-such-bucket/out", "there is no such bucket"),
        ("s3://autopoly/data/images/0001.png", None, "no known source"),
        ("s3://KEY:PASSWORD@autopoly/data", None, "must not hold credentials"),
        ("s3://autopoly/data/annotations.json?X-Amz-Signature=PASSWORD", None, "must not hold credentials"),
        ("s3://", None, "names no bucket"),
    ],
)
def test_addresses_that_lead_nowhere_are_one_line(reached, made, tmp_path, source, out, text):
    with pytest.raises(AutopolyError, match=text) as caught:
        run(source or made, out or tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert "PASSWORD" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_score_reads_runs_and_pictures_in_a_store(reached, made, tmp_path, monkeypatch):
    out = f"s3://{BUCKET}/results/scored"
    run(made, out, mode="per-component", components_from_truth=True, limit=4)
    # A folder of this machine that is called like the address.
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "report.html"
    asked = ["score", out, str(made), "--json", "score.json", "--html", str(report), "--images", f"s3://{BUCKET}/data/images", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["autopoly", *asked])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = json.loads((tmp_path / "score.json").read_text())
    assert (found["prediction"], found["convention"]["truth_boxes"]) == (out, True)
    assert "data:image" in report.read_text()


def test_a_recipe_leaves_everything_in_a_store(reached, made, tmp_path, monkeypatch, untrained):
    monkeypatch.chdir(tmp_path)
    convert_table = f'[convert]\nsource = "{made}"\ncheckpoint = "{untrained}"\nlimit = 2\nworkers = 0\ndevice = "cpu"\nscore = false\n'
    Path("recipe.toml").write_text(convert_table)
    out = f"s3://{BUCKET}/results/recipe"
    pipeline.run(recipes.load(Path("recipe.toml"), ()), tmp_path, Path(out), pipeline.Listeners(print))
    assert {"annotations.json", "run.json", "recipe.toml", "result.json"} <= set(object_store.names(reached, BUCKET, "results/recipe"))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]
    Path("recipe.toml").write_text(f"[data]\ndemo = true\n{convert_table}")
    with pytest.raises(RunError, match="choose a folder of a file system"):
        pipeline.run(recipes.load(Path("recipe.toml"), ()), tmp_path, Path(out), pipeline.Listeners(print))


def test_formats_of_folders_are_not_read_from_a_store(reached, tmp_path):
    with pytest.raises(DataError, match="kitti is read from file systems only"):
        run(f"s3://{BUCKET}/data", tmp_path / "out", from_format="kitti")


def command_line(arguments, environment):
    done = subprocess.run(
        [sys.executable, "-m", "autopoly", "convert", *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_store_nobody_answers_at_is_one_line_and_exit_code_2(tmp_path):
    environment = os.environ | object_store.environment("http://127.0.0.1:9")
    code, _, error = command_line(["s3://bucket/annotations.json", str(tmp_path / "out")], environment)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "cannot be reached" in error


@pytest.mark.slow
def test_wrong_credentials_are_one_line_and_right_ones_are_written_nowhere(tmp_path, made, untrained):
    with object_store.server(tmp_path / "log") as endpoint:
        store = object_store.client(endpoint)
        store.create_bucket(Bucket=BUCKET)
        object_store.upload(store, BUCKET, made.parent, "data")
        import boto3

        users = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        users.create_user(UserName="one")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        users.put_user_policy(UserName="one", PolicyName="all", PolicyDocument=json.dumps(policy))
        given = users.create_access_key(UserName="one")["AccessKey"]
        object_store.demand_credentials(endpoint)
        arguments = [f"s3://{BUCKET}/data/annotations.json", f"s3://{BUCKET}/out", "--workers", "0", "--device", "cpu", "--limit", "3"]
        arguments += ["--checkpoint", str(untrained), "--no-score"]
        wrong = os.environ | object_store.environment(endpoint, given["AccessKeyId"], "not the secret")
        code, _, error = command_line(arguments, wrong)
        assert (code, len(error.splitlines())) == (2, 1)
        assert "access was denied" in error
        right = os.environ | object_store.environment(endpoint, given["AccessKeyId"], given["SecretAccessKey"])
        code, said, error = command_line(arguments, right)
        assert code == 0, error
        mine = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
        )
        written = object_store.contents(mine, BUCKET, "out")
    assert {"run.json", "report.html", "annotations.json"} <= set(written)
    everything = b"".join(written.values()) + said.encode() + error.encode()
    for secret in (given["AccessKeyId"], given["SecretAccessKey"], endpoint, "X-Amz-"):
        assert secret.encode() not in everything


def test_a_path_that_lost_a_slash_is_still_an_address():
    path = storage.place(Path("s3://bucket/a/b.json"))
    assert str(path) == "s3://bucket/a/b.json"
    assert str(path.parent / "c") == "s3://bucket/a/c"
    assert str(Path("/base") / path) == "s3://bucket/a/b.json"
    assert str(storage.place("gs://bucket")) == "gs://bucket"
    assert storage.place("/a/b") == Path("/a/b")
    with pytest.raises(StorageError, match="needs a file of this machine"):
        os.fspath(path)
