"""KITTI: a folder with ``label_2/*.txt`` and ``image_2/``. One row an object, 15 columns, a 16th (score) in results.

Columns: type truncated occluded alpha left top right bottom h w l x y z rotation_y. Boxes are 0-based pixel coordinates, taken as xyxy. The
row is kept as text under ``kitti`` (its index in the file under ``kitti_line``); ``DontCare`` rows become crowd regions (``iscrowd`` and
``ignore`` 1). Images and annotations are numbered from 1, in the order of file names. KITTI has no field for polygons: they go to COCO or
Parquet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autopoly import images as pictures
from autopoly.errors import DataError, Problem
from autopoly.formats.annotation import instance_of
from autopoly.formats.base import check_bbox_format, read_bytes, xywh_of
from autopoly.types import Category, Header, Instance, Record

KINDS = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
"""The benchmark's own types, ids 1 to 9; others follow in the order they are met."""
SUFFIXES = (".png", ".jpg", ".jpeg")


def matches(path: Path) -> bool:
    """Say whether a folder has ``label_2/``; never raise."""
    return (path / "label_2").is_dir()


def read(path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> KittiDataset:
    """Open a KITTI folder; raise DataError where it has no labels. ``bbox_format`` xywh is refused: KITTI rows are corners."""
    check_bbox_format(bbox_format)
    if bbox_format == "xywh":
        raise DataError("--bbox-format xywh: KITTI rows hold left top right bottom; leave the option out")
    if not matches(path):
        raise DataError(f"{path}: no label_2/ in it; KITTI needs label_2/*.txt and image_2/")
    return KittiDataset(path, images)


class KittiDataset:
    """Records of a KITTI folder by name: each label file, and each picture that has none."""

    def __init__(self, folder: Path, images: Path | None) -> None:
        """List files and count rows; raise DataError where there are none."""
        self._labels = folder / "label_2"
        self.image_root = str(images or folder / "image_2")
        names: dict[str, str] = {}
        for path in sorted(Path(self.image_root).glob("*")):
            if path.suffix.lower() in SUFFIXES:
                names.setdefault(path.stem, path.name)
        labels = {path.stem for path in self._labels.glob("*.txt")}
        if not labels:
            raise DataError(f"{self._labels}: no .txt files; KITTI has one for each picture")
        self._stems = sorted(labels | names.keys())
        self._names = [names.get(stem, f"{stem}.png") for stem in self._stems]
        self._labelled = [stem in labels for stem in self._stems]
        self.files: Sequence[Path] = [self._labels / f"{stem}.txt" for stem in sorted(labels)]
        kinds = {kind: number for number, kind in enumerate(KINDS, 1)}
        counts = []
        for index in range(len(self._stems)):
            rows = self._rows(index)
            counts.append(len(rows))
            for row in rows:
                kinds.setdefault(row.split()[0], len(kinds) + 1)
        self._kinds = kinds
        self.counts = np.array(counts, dtype=np.int64)
        self._starts = np.cumsum(self.counts) - self.counts
        notes = []
        if missing := self._labelled.count(False):
            notes.append(f"{missing} pictures have no label file: kept without boxes")
        self.header = Header("kitti", tuple(Category(number, kind) for kind, number in kinds.items()), tuple(notes))

    def record(self, index: int, picture: bool = True) -> Record:
        """Read record ``index``; its size comes from the picture's header, None where there is no picture. Raise IndexError outside."""
        if not 0 <= index < len(self.counts):
            raise IndexError(f"record {index} of {len(self.counts)}")
        stem, name = self._stems[index], self._names[index]
        bare = Record(index, index + 1, name, None, ())
        try:
            size = pictures.size_of(bare, self.image_root)
        except pictures.ImageProblem:
            size = None  # Whoever reads the picture reports it.
        start = int(self._starts[index])
        rows = self._rows(index)
        if len(rows) != self.counts[index]:
            raise DataError(f"{self._labels / stem}.txt: changed while it was being used; run again")
        instances = tuple(self._instance(row, number, start + number, index, size) for number, row in enumerate(rows))
        image: dict[str, Any] = {"id": index + 1, "file_name": name}
        if size is not None:
            image |= {"width": size[1], "height": size[0]}
        return Record(index, index + 1, name, size, instances, extra=image)

    def _rows(self, index: int) -> list[str]:
        if not self._labelled[index]:
            return []
        text = read_bytes(self._labels / f"{self._stems[index]}.txt").decode("utf-8-sig", errors="backslashreplace")
        return [row.strip() for row in text.splitlines() if row.strip()]

    def _instance(self, row: str, line: int, ordinal: int, index: int, size: tuple[int, int] | None) -> Instance:
        columns = row.split()
        ignored = columns[0] == "DontCare"
        annotation: dict[str, Any] = {"id": ordinal + 1, "image_id": index + 1, "category_id": self._kinds[columns[0]]}
        corners = [_number(text) for text in columns[4:8]]
        wrong = len(corners) < 4 or None in corners
        corners_xyxy = np.full(4, np.nan) if wrong else np.array(corners, dtype=np.float64)
        box = xywh_of(corners_xyxy)
        annotation["bbox"] = None if wrong else box
        annotation |= {"area": 0.0 if wrong else round(max(box[2], 0.0) * max(box[3], 0.0), 4), "iscrowd": int(ignored)}
        if ignored:
            annotation["ignore"] = 1
        if len(columns) == 16 and (score := _number(columns[15])) is not None:
            annotation["score"] = score
        annotation |= {"kitti": row, "kitti_line": line}
        instance, _ = instance_of(annotation, ordinal, size)
        if wrong and not ignored:
            problem = Problem(
                "row_malformed", f"label_2/{self._stems[index]}.txt line {line + 1}: no four numbers in columns 5 to 8; mend the row"
            )
            return replace(instance, problem=problem)
        return replace(instance, box=corners_xyxy)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
