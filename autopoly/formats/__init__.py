"""Readers and writers of annotations: a module with ``matches`` and ``read`` is a format, and the literals below name them."""

from __future__ import annotations

from pathlib import Path

from autopoly.errors import DataError
from autopoly.formats import ade20k, cityscapes, coco, kitti, kitti_instances, parquet, rooftop
from autopoly.formats.base import Format
from autopoly.storage import is_remote

FORMATS: dict[str, Format] = {
    "coco": coco,
    "kitti": kitti,
    "parquet": parquet,
    "cityscapes": cityscapes,
    "kitti_instances": kitti_instances,
    "ade20k": ade20k,
    "rooftop": rooftop,
}
WRITERS = {"coco": coco.write, "parquet": parquet.write}
"""Formats that have a place for polygons."""
REMOTE = ("coco", "parquet")
"""Formats that are read from object stores too: one file, or one flat folder of files."""


def detect(path: Path) -> str:
    """Name the format of a source; raise DataError, with what was looked for, when it is none or several."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check SOURCE")
    names = REMOTE if is_remote(path) else FORMATS
    found = [name for name in names if FORMATS[name].matches(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path}: could be {' or '.join(found)}; say which with --from")
    raise DataError(
        f"{path}: no known source; looked for COCO (a .json file, or a folder with annotations.json), "
        "KITTI (a folder with label_2/, or with image_2/ and instance/), Parquet (a .parquet file, or a folder of them), "
        "Cityscapes (gtFine/), ADE20K (ADE_*.json) and Rooftop (IMG_*.mat)"
    )
