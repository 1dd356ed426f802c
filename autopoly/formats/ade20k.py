"""ADE20K as its owners distribute it (2021): beside each ``NAME.jpg`` a ``NAME.json`` and a folder ``NAME/`` with a mask an object.

The source is the whole tree or any folder of it. A mask holds 255 where an object is visible and 128 where another covers it; what is
visible counts, the same pixels as in ``NAME_seg.png`` (objects) and ``NAME_parts_N.png`` (parts of objects, which are instances too; their
level is in the ``ade20k`` field, the object as read). A category is called by the first word of its name, ``car`` for ``car, auto,
automobile, ...``, and has the owners' ``name_ndx`` as its id.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from autopoly.errors import DataError, Problem
from autopoly.formats.base import decode_json, outside_root, read_bytes, size_from
from autopoly.formats.image_folder import Drawn, Entry, ImageFolder, Size, holds, no_corners, read_levels, visible
from autopoly.types import Category, Header

VISIBLE = 255


def matches(path: Path) -> bool:
    """Say whether a folder holds pictures of labels such as ``ADE_val_00000001_seg.png``; never raise."""
    return holds(path, "_seg.png", "ADE_")


def read(path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> ImageFolder:
    """Open a folder of ADE20K; raise DataError where it has no annotations of the 2021 form."""
    no_corners("ADE20K", bbox_format)
    entries, names = [], {}
    for file in sorted(path.rglob("ADE_*.json")):
        annotation = _load(file)
        picture = file.relative_to(path).parent / _picture(annotation, file)
        entries.append(Entry(picture.as_posix(), file, len(annotation["object"])))
        names.update({one["name_ndx"]: one["name"] for one in annotation["object"]})
    if not entries:
        raise DataError(f"{path}: no ADE_*.json in it; the form of 2021 is read (ADE20K_2021_17_01), earlier ones have no such files")
    files = [file for entry in entries for file in (entry.file, *sorted(entry.file.with_suffix("").glob("*.png")))]
    return ImageFolder(Header("ade20k", _categories(names)), images or path, entries, _read, files)


def _picture(annotation: dict[str, Any], file: Path) -> str:
    """Name the picture beside the annotation; a name that is none, or leads elsewhere, gives way to the annotation's own."""
    name = annotation.get("filename")
    return name if isinstance(name, str) and name and "\0" not in name and outside_root(name) is None else f"{file.stem}.jpg"


def _categories(names: dict[int, str]) -> tuple[Category, ...]:
    """Call each category by its first word, or by its whole name where two have the same first word."""
    first = {number: name.split(",")[0].strip() for number, name in names.items()}
    times = Counter(first.values())
    return tuple(
        Category(number, short if times[short] == 1 else names[number], {"name_ade20k": names[number]})
        for number, short in sorted(first.items())
    )


def _load(file: Path) -> dict[str, Any]:
    data = read_bytes(file)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode("utf-8")  # Some names and credits are.
    try:
        annotation = decode_json(data)["annotation"]
        found = annotation["object"]
        # A file with one object may hold it bare: the owners wrote these files from MATLAB.
        annotation["object"] = found if isinstance(found, list) else [found]
        for one in annotation["object"]:
            if not isinstance(one["name"], str) or not isinstance(one["name_ndx"], int):
                raise TypeError("an object without name and name_ndx")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: not an annotation of ADE20K ({error!r:.200}); copy it again") from error
    return dict(annotation)


def _read(entry: Entry) -> tuple[Size | None, list[Drawn]]:
    annotation = _load(entry.file)
    imsize = annotation.get("imsize")
    size = size_from(*imsize[:2]) if isinstance(imsize, list) and len(imsize) > 1 else None
    return size, [_drawn(one, entry.file.parent, size) for one in annotation["object"]]


def _drawn(found: dict[str, Any], folder: Path, size: Size | None) -> Drawn:
    extra = {"ade20k": found}
    name = found.get("instance_mask")
    if not isinstance(name, str) or outside_root(name) is not None or not (folder / name).is_file():
        problem = Problem("mask_missing", f"{name or 'instance_mask'}: no such mask beside the annotation; unpack the dataset again")
        return Drawn(found["name_ndx"], None, problem=problem, extra=extra)
    try:
        levels = read_levels(folder / name)
    except DataError as error:
        return Drawn(found["name_ndx"], None, problem=Problem("mask_unreadable", str(error)), extra=extra)
    if size is not None and levels.shape != size:
        line = f"{name}: {levels.shape[1]} x {levels.shape[0]} px, its picture has {size[1]} x {size[0]}; copy the dataset again"
        return Drawn(found["name_ndx"], None, problem=Problem("mask_size_mismatch", line), extra=extra)
    return visible(np.asarray(levels == VISIBLE), found["name_ndx"], extra)
