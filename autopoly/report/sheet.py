"""An overlay sheet: photos side by side with boxes, polygons and estimated qualities, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from autopoly.types import FloatArray, Polygon

COLUMNS = 3
DPI = 110
# Colours that stay apart for most colour-blind eyes (Okabe and Ito), the dark ones left out.
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00")


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One object on a photo: its box (4,) xyxy image px, its polygons, and the estimated IoU where there is one."""

    name: str
    box: FloatArray
    polygons: tuple[Polygon, ...]
    quality: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One photo (H, W, 3) uint8 RGB with a line below it and its objects."""

    image: NDArray[np.uint8]
    caption: str
    objects: tuple[Drawn, ...]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the sheet; a box is dashed, a polygon filled, with name and quality at its top. No panels give an empty sheet."""
    rows = max(1, -(-len(panels) // COLUMNS))
    figure = Figure(figsize=(COLUMNS * 4.6, rows * 4.1), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for place in range(rows * COLUMNS):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.set_axis_off()
        if place < len(panels):
            _panel(axes, panels[place])
    # No date and no version of the drawing library in the file: the same input gives the same bytes.
    figure.savefig(path, metadata={"Software": None})


def outline(polygon: Polygon) -> Outline:
    """Give a polygon and its holes as one closed path, image px."""
    points, codes = [], []
    for ring in polygon.rings:
        points.append(np.vstack([ring, ring[:1]]))
        codes.extend([Outline.MOVETO, *[Outline.LINETO] * (len(ring) - 1), Outline.CLOSEPOLY])
    return Outline(np.vstack(points), codes)


def _panel(axes: Axes, panel: Panel) -> None:
    height, width = panel.image.shape[:2]
    # Image px have their origin at the corner of the first pixel, not at its centre.
    axes.imshow(panel.image, extent=(0, width, height, 0), interpolation="antialiased")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_title(panel.caption, fontsize=8, color="#555555", y=-0.02, va="top", pad=0)
    # Large objects first, so that small ones on top of them stay visible.
    order = sorted(range(len(panel.objects)), key=lambda index: -_area(panel.objects[index].box))
    for index in order:
        _object(axes, panel.objects[index], COLOURS[index % len(COLOURS)], small=len(panel.objects) > 8)


def _object(axes: Axes, one: Drawn, colour: str, small: bool) -> None:
    x1, y1, x2, y2 = one.box.tolist()
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=0.9, linestyle=(0, (4, 3))))
    for polygon in one.polygons:
        axes.add_patch(PathPatch(outline(polygon), facecolor=colour, alpha=0.3, linewidth=0))
        axes.add_patch(PathPatch(outline(polygon), fill=False, edgecolor=colour, linewidth=1.6))
    quality = "" if one.quality is None else f"{one.quality:.2f}"
    label = quality if small else f"{one.name} {quality}".strip()
    axes.text(
        x1 + 3,
        y1 + 3,
        label,
        fontsize=7 if small else 8,
        color="white",
        va="top",
        clip_on=True,
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )


def _area(box: FloatArray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
