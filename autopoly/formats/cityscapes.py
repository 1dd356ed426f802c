"""Cityscapes as its owners distribute it: ``gtFine/SPLIT/CITY/*_gtFine_polygons.json`` beside ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png``.

The source is the folder that holds ``gtFine``, ``gtFine`` itself, or one of its splits or cities. Objects are drawn one over the other in
the order of the file, as the owners' own tool makes the instance pictures, and what stays visible of each is its mask: an object in parts
is one that something else was drawn over. ``cargroup`` and the like become crowd regions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.errors import DataError
from autopoly.formats.base import decode_json, read_bytes, size_from
from autopoly.formats.image_folder import Drawn, Entry, ImageFolder, Size, holds, no_corners, visible
from autopoly.images import too_large
from autopoly.types import Category, Header

KINDS = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28,
    "caravan": 29, "trailer": 30, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""The labels that have instances, with the owners' ids."""
CATEGORIES = tuple(Category(number, name) for name, number in KINDS.items())
ENDING = "_polygons.json"
NOT_DRAWN = {"license plate"}
"""The owners' tool gives it no id, hence leaves it out: a car is not broken by its plate."""


def matches(path: Path) -> bool:
    """Say whether a folder holds files such as ``*_gtFine_polygons.json``; never raise."""
    return holds(path, "_gtFine" + ENDING) or holds(path, "_gtCoarse" + ENDING)


def read(path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> ImageFolder:
    """Open a folder of Cityscapes; raise DataError where it holds no polygons, or no ``leftImg8bit`` stands beside ``gtFine``."""
    no_corners("Cityscapes", bbox_format)
    top = path / "gtFine" if (path / "gtFine").is_dir() else path
    files = sorted(top.rglob("*" + ENDING))
    if not files:
        raise DataError(
            f"{path}: no *_gtFine{ENDING} in it; unpack gtFine_trainvaltest.zip and name the folder gtFine or one of its splits"
        )
    root = images or _pictures_of(top)
    return ImageFolder(Header("cityscapes", CATEGORIES), root, [_entry(file, top) for file in files], _read)


def _pictures_of(top: Path) -> Path:
    """Find the folder of pictures that mirrors ``top``: the same path below ``leftImg8bit`` instead of ``gtFine``."""
    parts = top.absolute().parts
    for at in range(len(parts) - 1, -1, -1):
        if parts[at] in ("gtFine", "gtCoarse"):
            return Path(*parts[:at], "leftImg8bit", *parts[at + 1 :])
    raise DataError(f"{top}: lies below no folder gtFine, so the pictures cannot be found; say where with --images")


def _entry(file: Path, top: Path) -> Entry:
    place = file.relative_to(top)
    stem = place.name.removesuffix(ENDING).rpartition("_")[0]
    return Entry((place.parent / f"{stem}_leftImg8bit.png").as_posix(), file, sum(_kind(one) is not None for one in _load(file)[1]))


def _load(file: Path) -> tuple[Size, list[dict[str, Any]]]:
    try:
        whole = decode_json(read_bytes(file))
        size = size_from(whole["imgHeight"], whole["imgWidth"])
        objects = [one for one in whole["objects"] if not one.get("deleted")]
        for one in objects:
            ring = np.asarray(one["polygon"], dtype=np.float64)
            if not isinstance(one["label"], str) or ring.shape[1:] != (2,) or not np.isfinite(ring).all():
                raise ValueError("an object without label and polygon")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{file}: not a file of Cityscapes polygons ({error!r:.200}); copy it again") from error
    if size is None or too_large(size):
        raise DataError(f"{file}: imgHeight and imgWidth are no size of a picture; copy the file again")
    return size, objects


def _kind(found: dict[str, Any]) -> int | None:
    """Give the id of a label that has instances, also for a group of them; None for all others."""
    return KINDS.get(str(found["label"]).removesuffix("group"))


def _read(entry: Entry) -> tuple[Size, list[Drawn]]:
    size, objects = _load(entry.file)
    painted = _paint(size, objects)
    drawn = []
    for number, one in enumerate(objects):
        kind = _kind(one)
        if kind is not None:
            drawn.append(visible(painted == number + 1, kind, {"cityscapes": one}, crowd=one["label"] not in KINDS))
    return size, drawn


def _paint(size: Size, objects: list[dict[str, Any]]) -> NDArray[np.int32]:
    """Draw polygons one over the other, (H, W) int32: 0, or 1 + the number of the object on top.

    Not by the rasteriser of scores: vertices are pixels here, and the owners' masks include the pixels of the outline.
    """
    painted = np.zeros(size, dtype=np.int32)
    for number, one in enumerate(objects):
        ring = np.rint(np.asarray(one["polygon"], dtype=np.float64).clip(-1e6, 1e6)).astype(np.int32)
        if len(ring) and one["label"] not in NOT_DRAWN:
            cv2.fillPoly(painted, [ring], [number + 1])
    return painted
