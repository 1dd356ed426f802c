"""Datasets with one annotation file a picture: what the readers of Cityscapes, ADE20K, KITTI's instance pictures and Rooftop share.

Such a reader lists its pictures as :class:`Entry` and reads one of them to :class:`Drawn` objects; here they become records. Images and
annotations are numbered from 1, in the order of the entries.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly import images as pictures
from autopoly.errors import DataError, Problem
from autopoly.formats import segmentation
from autopoly.formats.annotation import instance_of
from autopoly.formats.base import read_bytes
from autopoly.geometry import raster
from autopoly.picture_header import read_header
from autopoly.types import Header, Id, Instance, Mask, Record

LOOKED_AT = 3000
"""Directory entries a format looks at before it says that a folder is not its own."""
DEEPEST = 7
HIDDEN = Problem("object_hidden", "no pixel of the object is visible in the source's masks; there is no box to work from")


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture: its ``name`` relative to the image root, its annotation ``file``, how many objects that has."""

    name: str
    file: Path
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One object of a picture: its visible ``mask`` (None where nothing is visible), and the source's own fields as ``extra``."""

    category_id: Id
    mask: Mask | None
    crowd: bool = False
    problem: Problem | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


Size = tuple[int, int]
Read = Callable[[Entry], tuple[Size | None, list[Drawn]]]


class ImageFolder:
    """Records of a folder; ``read`` gives a picture's (height, width), None to take it from the picture itself, and its objects."""

    def __init__(self, header: Header, image_root: Path, entries: Sequence[Entry], read: Read, files: Sequence[Path] | None = None) -> None:
        """Count the objects before each entry; ``files`` is what the annotations lie in, None for each entry's own file."""
        self.files = [entry.file for entry in entries] if files is None else files
        self.header, self.image_root = header, str(image_root)
        self._entries, self._read = entries, read
        self.counts = np.array([entry.count for entry in entries], dtype=np.int64)
        self._starts = np.cumsum(self.counts) - self.counts

    def record(self, index: int, picture: bool = True) -> Record:
        """Read record ``index``; raise IndexError outside, DataError where its file was changed meanwhile."""
        if not 0 <= index < len(self.counts):
            raise IndexError(f"record {index} of {len(self.counts)}")
        entry = self._entries[index]
        size, found = self._read(entry)
        if len(found) != entry.count:
            raise DataError(f"{entry.file}: changed while it was being used; run again")
        if size is None:
            with contextlib.suppress(pictures.ImageProblem):  # Whoever reads the picture reports it.
                size = pictures.size_of(Record(index, index + 1, entry.name, None, ()), self.image_root)
        image: dict[str, Any] = {"id": index + 1, "file_name": entry.name}
        if size is not None:
            image |= {"width": size[1], "height": size[0]}
        start = int(self._starts[index])
        instances = tuple(_instance(one, start + number, index + 1, size) for number, one in enumerate(found))
        return Record(index, index + 1, entry.name, size, instances, extra=image)


def _instance(drawn: Drawn, ordinal: int, image_id: int, size: Size | None) -> Instance:
    box = None if drawn.mask is None else segmentation.bounds_xywh(drawn.mask)
    annotation: dict[str, Any] = {"id": ordinal + 1, "image_id": image_id, "category_id": drawn.category_id, "bbox": box}
    if drawn.mask is not None:
        annotation["segmentation"] = segmentation.dump(drawn.mask, size, decimals=None)
        annotation["area"] = raster.area(raster.of_mask(drawn.mask, size or segmentation.extent(drawn.mask)))
    annotation |= {"iscrowd": int(drawn.crowd), **drawn.extra}
    instance, _ = instance_of(annotation, ordinal, size)
    return instance if drawn.problem is None else replace(instance, problem=drawn.problem)


def visible(mask: NDArray[np.bool_], category_id: Id, extra: Mapping[str, Any], crowd: bool = False) -> Drawn:
    """Make an object of its visible pixels (H, W); one without any has a problem instead of a mask."""
    if not mask.any():
        return Drawn(category_id, None, crowd, None if crowd else HIDDEN, extra)
    return Drawn(category_id, raster.encode(mask), crowd, None, extra)


def read_levels(file: Path) -> NDArray[np.integer[Any]]:
    """Decode a picture of labels, not colours: (H, W) integers as stored, the first channel of several. Raise DataError for others."""
    data = read_bytes(file)
    header = read_header(data)
    if header is not None and pictures.too_large(header.size):
        raise DataError(f"{file}: claims {header.size[1]} x {header.size[0]} px, more than are decoded; copy it again")
    try:
        levels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        levels = None
    if levels is None or not np.issubdtype(levels.dtype, np.integer):
        raise DataError(f"{file}: truncated, damaged, or no picture of labels; copy it again")
    return np.asarray(levels if levels.ndim == 2 else levels[:, :, 0])


def holds(path: Path, ending: str, start: str = "") -> bool:
    """Say whether a folder has a file with this ``start`` and ``ending``, at any depth but among the first few thousand entries.

    Never raise.
    """
    return path.is_dir() and any(name.endswith(ending) and name.startswith(start) for name in _first_names(path))


def _first_names(top: Path) -> Iterator[str]:
    left, waiting = LOOKED_AT, [(top, 0)]
    while waiting and left > 0:
        folder, depth = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        return
                    if not entry.is_dir():
                        yield entry.name
                    elif depth < DEEPEST:
                        waiting.append((Path(entry.path), depth + 1))
        except OSError:
            continue


def no_corners(name: str, bbox_format: str | None) -> None:
    """Raise DataError for a box convention: boxes follow from the masks."""
    if bbox_format is not None:
        raise DataError(f"--bbox-format {bbox_format}: {name} has no boxes of its own, they follow from its masks; leave the option out")
