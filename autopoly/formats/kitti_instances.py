"""KITTI with masks: ``image_2/`` and ``instance/``, a picture of labels for each photo (or ``masks/`` with masks of cars).

The devkit's instance picture has 16 bits: the label (Cityscapes' ids, 26 = car) in the upper eight, the number of the object in the lower
eight; number 0 is a region of that label without objects of its own, hence a crowd region. An 8-bit picture holds cars alone: the number
of the car, 0 for none. Where a photo has several files ``STEM_*.png`` instead of one, each is the mask of one car. A photo without a file
stays, without boxes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autopoly.errors import DataError
from autopoly.formats.cityscapes import CATEGORIES, KINDS
from autopoly.formats.image_folder import Drawn, Entry, ImageFolder, Size, no_corners, read_levels, visible
from autopoly.formats.kitti import SUFFIXES
from autopoly.types import Header

FOLDERS = ("instance", "masks")
CAR = KINDS["car"]
LABELS = frozenset(KINDS.values())


class _Object(NamedTuple):
    file: Path
    value: int
    category_id: int
    crowd: bool


def matches(path: Path) -> bool:
    """Say whether a folder has pictures, masks and no ``label_2/`` (which makes it a source of boxes, unless --from says more).

    Never raise.
    """
    return (path / "image_2").is_dir() and _masks(path) is not None and not (path / "label_2").is_dir()


def read(path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> ImageFolder:
    """Open a KITTI folder with masks, looking once at each; raise DataError where there are none or one cannot be read."""
    no_corners("KITTI's instance pictures", bbox_format)
    folder = _masks(path)
    if folder is None:
        raise DataError(f"{path}: no folder instance/ (or masks/) with .png files in it; KITTI's instances need it beside image_2/")
    root = images or path / "image_2"
    found = {file.stem: file.name for file in sorted(root.glob("*")) if file.suffix.lower() in SUFFIXES}
    masks = _by_photo(sorted(folder.glob("*.png")), found)
    whole = {stem: folder / f"{stem}.png" for stem in masks}
    spare = sum(len(files) - 1 for stem, files in masks.items() if whole[stem] in files)
    masks = {stem: [whole[stem]] if whole[stem] in files else files for stem, files in masks.items()}
    entries = [Entry(found.get(stem, f"{stem}.png"), whole[stem], len(_objects(whole[stem], masks[stem]))) for stem in sorted(masks)]
    bare = sum(not files for files in masks.values())
    notes = [f"{bare} pictures have no masks: kept without boxes"] if bare else []
    if spare:
        notes.append(f"{spare} masks of one car lie beside the mask of their whole photo: left out")
    read_one = partial(_read, masks)
    return ImageFolder(Header("kitti_instances", CATEGORIES, tuple(notes)), root, entries, read_one, [*chain(*masks.values())])


def _masks(path: Path) -> Path | None:
    return next((path / name for name in FOLDERS if next((path / name).glob("*.png"), None) is not None), None)


def _by_photo(files: Sequence[Path], photos: Mapping[str, str]) -> dict[str, list[Path]]:
    """Give each photo's masks by its stem: those of its name, or of the longest that a ``_`` follows.

    Masks whose photo is not there stay under their own: their boxes fail as a missing picture, and are counted.
    """
    masks: dict[str, list[Path]] = {stem: [] for stem in photos}
    for file in files:
        starts = [file.stem, *(file.stem[: one.start()] for one in reversed([*re.finditer("_", file.stem)]))]
        masks.setdefault(next((start for start in starts if start in photos), file.stem), []).append(file)
    return masks


def _objects(file: Path, masks: Sequence[Path]) -> list[_Object]:
    """List the objects of one photo, whose file of labels would be ``file``, in its ``masks``."""
    if list(masks) != [file]:
        return [_Object(one, -1, CAR, False) for one in masks]
    levels = read_levels(file)
    values = [int(value) for value in np.unique(levels)]
    if levels.dtype == np.uint8:
        return [_Object(file, value, CAR, False) for value in values if value]
    return [_Object(file, value, value >> 8, value & 255 == 0) for value in values if value >> 8 in LABELS]


def _read(masks: Mapping[str, Sequence[Path]], entry: Entry) -> tuple[Size | None, list[Drawn]]:
    size: Size | None = None
    drawn = []
    opened: tuple[Path, np.ndarray[tuple[int, ...], np.dtype[np.integer]]] | None = None
    for one in _objects(entry.file, masks[entry.file.stem]):
        if opened is None or opened[0] != one.file:
            opened = one.file, read_levels(one.file)
        levels = opened[1]
        size = (levels.shape[0], levels.shape[1])
        extra = {"kitti_instance": {"file": one.file.name, "value": one.value}}
        drawn.append(visible(np.asarray(levels > 0 if one.value < 0 else levels == one.value), one.category_id, extra, one.crowd))
    return size, drawn
