"""What a training learns from: every format with masks, only true masks, a cache that follows its data, everything left out counted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from autopoly import formats
from autopoly.config import NetworkConfig
from autopoly.errors import RecipeError
from autopoly.jobs import train as job
from autopoly.jobs import train_sources
from autopoly.jobs.held_out import HeldOut
from autopoly.jobs.train_options import TrainOptions
from autopoly.network.siamanno import SiamAnno
from autopoly.training.cache import CacheConfig, Source, said
from autopoly.training.samples import Samples, cached

CACHE = CacheConfig(side=64, mask_side=32, ring=64, smallest_side=4)
SIZE = (60, 80)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Write a COCO folder of twelve pictures, each with a bright square."""
    folder = tmp_path / "squares"
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(12):
        x, y = 10 + number, 15
        picture = np.zeros((*SIZE, 3), np.uint8)
        picture[y : y + 30, x : x + 30] = 200
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]})
        ring = [x, y, x + 30, y, x + 30, y + 30, x, y + 30]
        one = {"id": number + 1, "image_id": number, "category_id": 1, "bbox": [x, y, 30, 30], "segmentation": [ring], "iscrowd": 0}
        annotations.append(one)
    write(folder, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]})
    return folder


def write(folder: Path, data: dict[str, object]) -> None:
    (folder / "annotations.json").write_text(json.dumps(data))


def change(folder: Path, **fields: object) -> None:
    """Change the first annotation."""
    data = json.loads((folder / "annotations.json").read_text())
    data["annotations"][0] |= fields
    write(folder, data)


def options(tmp_path: Path, *paths: Path) -> TrainOptions:
    return TrainOptions(train=tuple((path, 1.0) for path in paths), out=tmp_path / "out")


def build(tmp_path: Path, *paths: Path) -> Samples:
    return cached(train_sources.opened(options(tmp_path, *paths)), tmp_path / "out" / "cache", CACHE, share=0.1)


def as_parquet(folder: Path, path: Path) -> Path:
    dataset = formats.coco.read(folder)
    formats.parquet.write(dataset.header, (dataset.record(at) for at in range(len(dataset.counts))), path)
    return path


def as_kitti(folder: Path, top: Path, labels: bool) -> Path:
    """Write the squares as cars of KITTI, with a picture of labels each."""
    for name in ("image_2", "instance", *(("label_2",) if labels else ())):
        (top / name).mkdir(parents=True)
    for number in range(12):
        picture = cv2.imread(str(folder / "images" / f"{number}.png"))
        cv2.imwrite(str(top / "image_2" / f"{number:06}.png"), picture)
        cv2.imwrite(str(top / "instance" / f"{number:06}.png"), (picture[..., 0] > 100).astype(np.uint16) * (26 * 256 + 1))
        if labels:
            (top / "label_2" / f"{number:06}.txt").write_text("Car 0.0 0 0 10 15 40 45 1 1 1 1 1 1 0\n")
    return top


@pytest.mark.parametrize("kind", ["coco", "parquet", "kitti", "kitti with labels"])
def test_every_format_gives_the_same_samples(kind: str, squares: Path, tmp_path: Path) -> None:
    path = {
        "coco": lambda: squares,
        "parquet": lambda: as_parquet(squares, squares / "squares.parquet").rename(squares / "images" / "squares.parquet"),
        "kitti": lambda: as_kitti(squares, tmp_path / "kitti", labels=False),
        "kitti with labels": lambda: as_kitti(squares, tmp_path / "kitti", labels=True),
    }[kind]()
    samples = build(tmp_path, path)
    assert len(samples.table) == 12
    np.testing.assert_allclose(samples.masks[:].mean(axis=(1, 2)) / 255, 1 / CACHE.scale**2, atol=0.02)
    assert not samples.left_out


def test_sources_of_several_formats_are_drawn_by_weight(squares: Path, tmp_path: Path) -> None:
    kitti = as_kitti(squares, tmp_path / "kitti", labels=False)
    asked = dataclasses.replace(options(tmp_path, squares), train=((squares, 3.0), (kitti, 1.0)))
    samples = cached(train_sources.opened(asked), tmp_path / "cache", CACHE, share=0.0)
    drawn = samples.table["source"][samples.draw(0, 0, 20_000)]
    assert np.mean(drawn == 0) == pytest.approx(0.75, abs=0.02)


def test_what_autopoly_predicted_itself_is_not_learned_from_and_counted(squares: Path, tmp_path: Path) -> None:
    change(squares, mask_source="predicted")
    samples = build(tmp_path, squares)
    assert len(samples.table) == 11
    assert samples.left_out == {"predicted_mask": (1, "annotation 1")}


def test_unreadable_pictures_are_counted_and_named(squares: Path, tmp_path: Path) -> None:
    (squares / "images" / "3.png").write_bytes(b"no picture")
    (squares / "images" / "4.png").unlink()
    change(squares, segmentation=[])
    samples = build(tmp_path, squares)
    assert len(samples.table) == 9
    assert {code: count for code, (count, _) in samples.left_out.items()} == {
        "image_truncated_or_corrupt": 1,
        "image_missing": 1,
        "no_mask": 1,
    }
    assert "1 image_missing (the first: 4.png" in said(samples.left_out)
    again = build(tmp_path, squares)
    assert again.left_out == samples.left_out  # of a cache that is opened too


@pytest.mark.parametrize("kind", ["mask", "mend", "kitti mask", "log", "nothing"])
def test_the_cache_is_built_anew_when_its_data_changed(kind: str, squares: Path, tmp_path: Path) -> None:
    path = as_kitti(squares, tmp_path / "kitti", labels=False) if kind == "kitti mask" else squares
    if kind == "mend":
        whole = (squares / "images" / "3.png").read_bytes()
        (squares / "images" / "3.png").write_bytes(whole[:50])
    before = build(tmp_path, path)
    masks, count, key = np.array(before.masks), len(before.table), before.key
    if kind == "mask":
        change(squares, segmentation=[[10, 15, 40, 15, 40, 45]])  # as many instances as before
    elif kind == "mend":
        (squares / "images" / "3.png").write_bytes(whole)
    elif kind == "kitti mask":
        level = np.zeros(SIZE, np.uint16)
        level[20:40, 20:40] = 26 * 256 + 1
        cv2.imwrite(str(path / "instance" / "000000.png"), level)
    elif kind == "log":  # as tee writes it beside the pictures
        (squares / "images" / "train.log").write_text("step 1\n")
    after = build(tmp_path, path)
    same = after.key == key and len(after.table) == count and np.array_equal(after.masks, masks)
    assert same == (kind in ("nothing", "log"))


def test_two_sources_of_one_name_keep_apart(squares: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "squares"
    other.parent.mkdir()
    squares.rename(other)
    (tmp_path / "squares").symlink_to(other)
    names = [one.name for one in train_sources.opened(options(tmp_path, other, tmp_path / "squares"))]
    assert names == [str(other), str(tmp_path / "squares")]


@pytest.mark.parametrize("kind", ["annotations", "link", "parquet", "val"])
def test_a_picture_held_out_in_one_source_is_held_out_in_all(kind: str, squares: Path, tmp_path: Path) -> None:
    twin = squares / "cars.json"
    twin.write_text((squares / "annotations.json").read_text())
    paths = [squares, twin]
    if kind == "link":
        paths[1] = tmp_path / "other"
        paths[1].mkdir()
        (paths[1] / "images").symlink_to(squares / "images")
        twin.rename(paths[1] / "annotations.json")
    elif kind == "parquet":
        paths = [as_parquet(squares, squares / "images" / f"{name}.parquet") for name in ("people", "cars")]
    if kind == "val":
        data = json.loads(twin.read_text())
        twin.write_text(json.dumps(data | {"images": data["images"][:3], "annotations": data["annotations"][:3]}))
    asked = options(tmp_path, *paths) if kind != "val" else dataclasses.replace(options(tmp_path, squares), val=(twin,))
    asked.check()
    samples = cached(train_sources.opened(asked), tmp_path / "out" / "cache", CACHE, share=0.0 if kind == "val" else 0.4)
    records = {bool(held): set(samples.table["record"][samples.table["held_out"] == held].tolist()) for held in (True, False)}
    assert records[True] and records[False]
    assert not records[True] & records[False]  # the same numbers in both sources
    assert kind != "val" or records[True] == {0, 1, 2}


def test_a_folder_and_its_annotations_are_one_dataset(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(squares)
    paths = (squares, squares / "annotations.json", Path("annotations.json"), Path())
    assert {train_sources.opened(options(tmp_path, path))[0].name for path in paths} == {"squares"}


def test_a_held_out_image_is_found_again_in_its_source(squares: Path, tmp_path: Path) -> None:
    samples = cached([Source("squares", formats.coco.read(squares))], tmp_path / "cache", CACHE, share=0.4)
    found = samples.held_out_images()
    assert 0 < len(found) < 12
    assert len(samples.validation) == len(found)


def test_boxes_outside_a_picture_whose_size_nobody_told_are_left_out(squares: Path, tmp_path: Path) -> None:
    data = json.loads((squares / "annotations.json").read_text())
    for image in data["images"]:
        del image["width"], image["height"]
    ring = [90, 15, 120, 15, 120, 45, 90, 45]
    data["annotations"] += [{**one, "id": one["id"] + 100, "bbox": [90, 15, 30, 30], "segmentation": [ring]} for one in data["annotations"]]
    write(squares, data)
    sources, samples = held(squares, tmp_path, CACHE)
    assert len(samples.table) == 12
    assert samples.left_out["box_outside_image"][0] == 12
    assert samples.left_out["box_outside_image"][1].startswith(
        "annotation 101 of 0.png: box (90, 15, 120, 45) lies outside its image of 80 x 60 px"
    )
    measured(sources, samples, tmp_path, len(samples.validation))


def test_parts_of_an_instance_that_is_left_out_are_left_out_too(squares: Path, tmp_path: Path) -> None:
    parts = [[10, 10, 30, 10, 30, 30, 10, 30], [40, 30, 60, 30, 60, 50, 40, 50]]
    data = json.loads((squares / "annotations.json").read_text())
    for one in data["annotations"][1:]:
        one |= {"bbox": [5, 5, 10, 10], "segmentation": parts}
    write(squares, data)
    sources, samples = held(squares, tmp_path, dataclasses.replace(CACHE, smallest_side=16), share=0.0)
    assert len(samples.table) == 1
    assert samples.left_out == {"too_small": (11, "annotation 2: a side under 16 px")}
    # A cache of before may have them.
    samples.held_out_images = lambda: [(0, 0), (0, 1)]  # type: ignore[method-assign]
    measured(sources, samples, tmp_path, 1)


def held(folder: Path, tmp_path: Path, config: CacheConfig, share: float = 0.4) -> tuple[list[Source], Samples]:
    sources = [Source("squares", formats.coco.read(folder))]
    return sources, cached(sources, tmp_path / "cache", config, share)


def measured(sources: list[Source], samples: Samples, tmp_path: Path, count: int) -> None:
    """Measure a network that knows nothing on whole held-out pictures."""
    assert count > 0
    torch.manual_seed(0)
    network = SiamAnno(NetworkConfig(crop_side=64, width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32)).eval()
    held_out = HeldOut(sources, samples, 512, "cpu", tmp_path / "out")
    assert "miou_instances" in held_out.check(network, 1)
    assert held_out.count == count


def test_it_says_what_every_source_gives_and_what_was_noted_about_it(squares: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "images").symlink_to(squares / "images")
    data = json.loads((squares / "annotations.json").read_text())
    write(bare, data | {"annotations": [one | {"segmentation": []} for one in data["annotations"]]})
    sources = train_sources.opened(dataclasses.replace(options(tmp_path, squares), val=(bare,)))
    sources[0].dataset.header = dataclasses.replace(sources[0].dataset.header, notes=("boxes look odd",))
    lines: list[str] = []
    job._say_samples(sources, cached(sources, tmp_path / "cache", CACHE, share=0.0), lines.append)
    assert lines[:3] == [
        "squares: coco, 12 samples to learn from",
        "squares: note: boxes look odd",
        "bare: coco, NO sample to measure on, held out whole",
    ]


def test_an_edge_pass_that_nothing_can_judge_is_refused_beforehand(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = SiamAnno(NetworkConfig(crop_side=64, width16=48, blocks16=1, width8=16, width4=16, head_width=16, vertices=32))
    monkeypatch.setattr(job, "_start", lambda asked, say: (network, dataclasses.replace(asked, sides=((0.0, 64),))))
    asked = dataclasses.replace(options(tmp_path, squares), edge_steps=5, held_out=0.0, device="cpu")
    with pytest.raises(RecipeError, match=r"^--edge-steps: .* none is held out"):
        job.run(asked, lambda report: None)


@pytest.mark.parametrize("twin", ["same", "annotations", "link"])
def test_what_is_trained_on_is_not_validated_on(twin: str, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(squares)
    val = {"same": squares, "annotations": squares / "annotations.json", "link": tmp_path / "link"}[twin]
    with pytest.raises(RecipeError, match=r"^--val .*: is trained on too"):
        dataclasses.replace(options(tmp_path, squares), val=(val,)).check()
    with pytest.raises(RecipeError, match="named twice"):
        options(tmp_path, squares, val).check()
