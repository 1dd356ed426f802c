"""Open what a training learns from, and tell when it is not what it was."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

from autopoly.jobs import source
from autopoly.jobs.train_options import TrainOptions
from autopoly.storage import ObjectPath
from autopoly.training.cache import Source


def opened(options: TrainOptions) -> list[Source]:
    """Open the datasets to learn from, then those held out whole; raise DataError for one that cannot be read."""
    asked = [(path, weight, False) for path, weight in options.train] + [(path, 1.0, True) for path in options.val]
    short = Counter(_name(path) for path, *_ in asked)
    return [_open(path, _name(path) if short[_name(path)] == 1 else str(path), weight, held, options.out) for path, weight, held in asked]


def _name(path: Path) -> str:
    return path.name if path.suffix == "" else path.stem


def _open(path: Path, name: str, weight: float, held: bool, out: Path) -> Source:
    found = source.locate(path, None, None, None)
    if found.format == "kitti":
        # Its labels are boxes alone: the masks beside them are what there is to learn.
        found = source.locate(path, "kitti_instances", None, None)
    dataset = found.open()
    annotations = source.digest(found.path, out)
    return Source(name, dataset, weight, held, annotations, _content(found.path, dataset.image_root, annotations, out))


def _content(path: Path, images: str, annotations: str, out: Path) -> str:
    """Hash a source: annotation files by their hash, all other files (pictures, and masks that are pictures) by name, size and time.

    Pictures beside a single annotation file count where they have a folder of their own.
    """
    state = hashlib.blake2b(annotations.encode(), digest_size=16)
    if isinstance(path, ObjectPath) or "://" in images:
        return state.hexdigest()
    root = Path(os.path.realpath(images))
    folders = [path] if path.is_dir() else []
    if not any(root.is_relative_to(one) or one.is_relative_to(root) for one in (path, *folders)):
        folders.append(root)
    away = os.path.realpath(out)
    for top in folders:
        for folder, below, names in os.walk(top):
            below[:] = sorted(one for one in below if os.path.realpath(os.path.join(folder, one)) != away)
            for name in sorted(names):
                file = Path(folder, name)
                if file.suffix.lower() not in source.ANNOTATIONS and file.is_file():
                    status = file.stat()
                    state.update(
                        f"{file.relative_to(top).as_posix()}\n{status.st_size}\n{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
                    )
    return state.hexdigest()
