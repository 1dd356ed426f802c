"""What a training leaves to look at: its curves, and held-out objects with the outlines made for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autopoly.geometry import contours, raster
from autopoly.jobs.held_out import Pick
from autopoly.report.sheet import Drawn, Panel, draw
from autopoly.types import FloatArray, Instance, Polygon, Rle

LOSSES = ("vertex", "boundary", "mask", "quality")
IN_CROP = {"iou_contour": "contour, training", "iou_mask": "mask, training", "val_contour": "contour", "val_mask": "mask"}
WHOLE = {"miou_instances": "mIoU, by instance", "f_1px": "F 1 px", "f_2px": "F 2 px"}
AROUND = 0.35
"""What a picture shows beside a box, in box sides."""


def history(log: Path) -> list[dict[str, Any]]:
    """Read a training's log; of what was done twice, after a resume, the later counts."""
    rows: list[dict[str, Any]] = []
    for line in log.read_text().splitlines():
        row = json.loads(line)
        while rows and rows[-1]["step"] > row["step"]:
            rows.pop()
        rows.append(row)
    return rows


def curves(rows: Sequence[Mapping[str, Any]], path: Path, chosen: int | None = None) -> None:
    """Draw losses, IoU in the crop and scores on whole held-out images over steps; a line marks the ``chosen`` step."""
    figure = Figure(figsize=(15, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("loss", {name: name for name in LOSSES}), ("IoU in the crop", IN_CROP), ("whole held-out images", WHOLE))
    for place, (title, names) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for key, label in names.items():
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                steps, values = zip(*points, strict=True)
                measured = not (key in LOSSES or key.startswith("iou"))
                axes.plot(steps, values, label=label, linewidth=1.4, marker="o" if measured else None, markersize=3.5)
        if place == 0:
            axes.set_yscale("log")
        if place == 2 and chosen is not None:
            axes.axvline(chosen, color="#888888", linewidth=0.9, linestyle=(0, (4, 3)), label="the checkpoint")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def held_out_sheet(picks: Iterable[Pick], path: Path) -> bool:
    """Draw held-out objects, each cut out of its image: what was predicted and the truth; False, and no file, for none."""
    panels = []
    for name, image_name, image, shown in picks:
        box = shown.truth.box
        size = (box[2:] - box[:2]) * AROUND
        height, width = image.shape[:2]
        left, top = np.maximum(np.floor(box[:2] - size), 0).astype(int)
        right, bottom = np.minimum(np.ceil(box[2:] + size), (width, height)).astype(int)
        corner = np.array([left, top], np.float64)
        moved = box - np.tile(corner, 2)
        objects = (
            Drawn("", moved, _polygons(shown.predicted, corner), shown.predicted.quality),
            Drawn("", moved, _polygons(shown.truth, corner), None),
        )
        caption = f"{name}: IoU {shown.iou:.2f} (blue: predicted, with the estimate; orange: truth) {image_name}"
        panels.append(Panel(image[top:bottom, left:right], caption if len(caption) <= 90 else caption[:87] + "...", objects))
    if panels:
        draw(panels, path)
    return bool(panels)


def _polygons(instance: Instance, corner: FloatArray) -> tuple[Polygon, ...]:
    mask = instance.mask or ()
    polygons = contours.trace_mask(raster.decode(mask)) if isinstance(mask, Rle) else mask
    return tuple(one.mapped(lambda ring: ring - corner) for one in polygons)
