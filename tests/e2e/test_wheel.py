"""A wheel carries all it needs: installed alone, it converts from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest
from skimage import data

ROOT = Path(__file__).parents[2]
PARTS = ("autopoly", "checkpoints", "pipelines", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")


def run(*command, cwd, env=None):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel of a copy of the tree that surely has a checkpoint and a recipe to carry; give its path."""
    tree = tmp_path_factory.mktemp("tree")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, tree / name)
    for folder in ("checkpoints", "pipelines"):
        (tree / folder).mkdir(exist_ok=True)
    (tree / "checkpoints" / "marker").mkdir()
    (tree / "checkpoints" / "marker" / "README.md").write_text("a model card")
    (tree / "pipelines" / "marker.toml").write_text("# a recipe")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "dist", cwd=tree)
    (path,) = (tree / "dist").glob("*.whl")
    return path


def test_a_wheel_carries_the_package_its_checkpoints_and_its_recipes(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"autopoly/cli/convert.py", "autopoly/py.typed"} <= names
    assert {"autopoly/_data/checkpoints/marker/README.md", "autopoly/_data/pipelines/marker.toml"} <= names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autopoly").rglob("*") if path.suffix not in ("", ".pyc")}
    assert sources <= names
    assert {name for name in names if not name.startswith(("autopoly/", "autopoly-0.1.0.dist-info/"))} == set()


def test_an_installed_wheel_converts_from_an_empty_folder(wheel, tmp_path, shipped):
    site, elsewhere, photos = tmp_path / "site", tmp_path / "elsewhere", tmp_path / "data" / "images"
    elsewhere.mkdir()
    photos.mkdir(parents=True)
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=elsewhere)
    cv2.imwrite(str(photos / "coffee.png"), data.coffee()[..., ::-1])
    images = [{"id": 1, "file_name": "coffee.png", "height": 400, "width": 600}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [172, 18, 238, 290], "iscrowd": 0}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    (photos.parent / "annotations.json").write_text(json.dumps(document))
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = run("-c", "import autopoly; print(autopoly.__file__)", cwd=elsewhere, env=env)
    assert Path(where.strip()).is_relative_to(site)
    run("-m", "autopoly", "convert", photos.parent, "out", "--device", "cpu", "--quiet", cwd=elsewhere, env=env)
    (one,) = json.loads((elsewhere / "out" / "annotations.json").read_text())["annotations"]
    assert one["mask_source"] == "predicted"
    assert one["segmentation"]
