"""The demo: boxes on a few real photos through the same conversion as everybody's data, then a sheet to look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autopoly import formats
from autopoly.geometry import contours, raster
from autopoly.jobs import demo_pictures
from autopoly.jobs.conversion.options import ConvertOptions, Progress
from autopoly.jobs.convert import convert
from autopoly.types import Instance, Polygon, Rle


@dataclass(frozen=True, slots=True)
class Row:
    """One box and what became of it; ``box_size`` (width, height) in image px, ``quality`` the estimated IoU.

    ``vertices`` is None for an object with holes, which COCO stores as a mask.
    """

    picture: str
    category: str
    box_size: tuple[float, float]
    parts: int
    vertices: int | None
    quality: float | None


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo made, and where it is."""

    rows: tuple[Row, ...]
    places: dict[str, Path]
    seconds: float
    exit_code: int


def demo(folder: Path, checkpoint: str | None = None, device: str = "auto", progress: Callable[[Progress], None] | None = None) -> Demo:
    """Write the photos and boxes to ``folder/source``, convert them to ``folder/result``, draw ``folder/sheet.png``.

    A demo made before in the same folder is made again. Raise AutopolyError where there is no checkpoint or the folder holds other things.
    """
    started = time.monotonic()
    source, result = folder / "source", folder / "result"
    demo_pictures.write_source(source)
    options = ConvertOptions(source=source, out=result, checkpoint=checkpoint, workers=0, device=device, overwrite=True)
    summary = convert(options, progress)
    # Only now, since matplotlib takes its second, and a demo that cannot run should say so at once.
    from autopoly.report import sheet

    made = formats.FORMATS["coco"].read(result / "annotations.json", images=source / "images", bbox_format=None)
    names = {category.category_id: category.name for category in made.header.categories}
    rows: list[Row] = []
    panels: list[sheet.Panel] = []
    for number, picture in enumerate(demo_pictures.PICTURES):
        instances = made.record(number).instances
        rows.extend(_row(picture.name, names[one.category_id], one) for one in instances)
        drawn = tuple(sheet.Drawn(names[one.category_id], one.box, _polygons(one), one.quality) for one in instances)
        panels.append(sheet.Panel(demo_pictures.read(picture.name), picture.credit, drawn))
    sheet.draw(panels, folder / "sheet.png")
    places = {"picture": folder / "sheet.png", "polygons": result / "annotations.json", "boxes": source / "annotations.json"}
    report = result / "report.html"
    if report.exists():
        places["report"] = report
    return Demo(tuple(rows), places, time.monotonic() - started, summary.exit_code)


def _row(picture: str, category: str, instance: Instance) -> Row:
    polygons = _polygons(instance)
    x1, y1, x2, y2 = np.asarray(instance.box).tolist()
    vertices = None if isinstance(instance.mask, Rle) else sum(len(one.exterior) for one in polygons)
    return Row(picture, category, (x2 - x1, y2 - y1), len(polygons), vertices, instance.quality)


def _polygons(instance: Instance) -> tuple[Polygon, ...]:
    if isinstance(instance.mask, Rle):
        # COCO has no polygons with holes: such an object came back as a mask.
        return contours.trace_mask(raster.decode(instance.mask))
    return instance.mask or ()
