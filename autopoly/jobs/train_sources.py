"""Open what a training learns from, and tell when it is not what it was."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

from autopoly.jobs import source
from autopoly.jobs.train_options import TrainOptions
from autopoly.training.cache import Source
from autopoly.types import Dataset

PICTURES = frozenset((
    "", ".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm",
    ".ras", ".sr", ".tif", ".tiff", ".webp",
))  # fmt: skip
"""Endings of what OpenCV reads; a picture may have none."""


def opened(options: TrainOptions) -> list[Source]:
    """Open the datasets to learn from, then those held out whole; raise DataError for one that cannot be read."""
    asked = [(path, weight, False) for path, weight in options.train] + [(path, 1.0, True) for path in options.val]
    short = Counter(_name(path) for path, *_ in asked)
    return [_open(path, _name(path) if short[_name(path)] == 1 else str(path), weight, held, options.out) for path, weight, held in asked]


def _name(path: Path) -> str:
    # A folder and the annotations in it are one dataset; a source's name decides which of its images are held out.
    path = (path.parent if path.name == "annotations.json" else path).absolute()
    return path.name if path.suffix == "" else path.stem


def _open(path: Path, name: str, weight: float, held: bool, out: Path) -> Source:
    found = source.locate(path, None, None, None)
    if found.format == "kitti":
        # Its labels are boxes alone: the masks beside them are what there is to learn.
        found = source.locate(path, "kitti_instances", None, None)
    dataset = found.open()
    annotations = source.digest(found.path, dataset)
    return Source(name, dataset, weight, held, annotations, _content(dataset, annotations, out))


def _content(dataset: Dataset, annotations: str, out: Path) -> str:
    """Hash a source: annotation files by their hash, pictures below its image root by name, size and time.

    Other files there do not count, such as logs, nor does a run folder ``out`` among them.
    """
    state = hashlib.blake2b(annotations.encode(), digest_size=16)
    top, away, known = os.path.realpath(dataset.image_root), os.path.realpath(out), {os.path.realpath(file) for file in dataset.files}
    for folder, below, names in os.walk(top):  # nothing at all for an object store
        below[:] = sorted(one for one in below if os.path.realpath(os.path.join(folder, one)) != away)
        for name in sorted(names):
            file = os.path.join(folder, name)
            is_picture = os.path.splitext(name)[1].lower() in PICTURES and not name.startswith(".")
            if is_picture and os.path.isfile(file) and os.path.realpath(file) not in known:
                status = os.stat(file)
                line = f"{os.path.relpath(file, top)}\n{status.st_size}\n{status.st_mtime_ns}\n"
                state.update(line.encode("utf-8", "surrogateescape"))
    return state.hexdigest()
