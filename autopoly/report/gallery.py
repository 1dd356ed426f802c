"""Make the gallery's cards: a small picture of each chosen instance, and what is drawn over it as SVG paths.

Frame of a card: card px, origin at the top left corner, ``SIDE`` px wide and high.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.crops import OUTSIDE, resample
from autopoly.errors import redacted
from autopoly.geometry import contours, raster
from autopoly.images import ImageProblem, read_rgb
from autopoly.types import FloatArray, Instance, Mask, Polygon, Record, Rle

SIDE = 176
MARGIN = 1.3
"""The region shown: a square around box and outlines, so many times as large."""
SMALLEST = 24.0
"""Image px the region has at least: less shows nothing of the surroundings."""
JPEG = 78
LIMIT = 300
"""Cards of a report, whatever the size of the dataset."""
BUDGET = 10_000_000
"""Bytes of all cards; the last ones are left out beyond it."""
STEP = 0.4
"""Card px between drawn vertices, at least."""
VERTICES = 800
"""Drawn vertices of one ring, at most."""
RINGS = 60
TEXT = 160
"""Characters of a name that are shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """An instance to show. ``picture`` is the record to decode, under ``root``. ``reason`` says why there is no polygon, where none is."""

    group: str
    picture: Record
    root: str
    category: str
    predicted: Instance | None
    truth: Instance | None
    iou: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """A subject ready for the page: ``data`` the JPEG as a data URI (empty where there is no picture, ``problem`` says why), SVG paths."""

    group: str
    name: str
    image: str
    file: str
    category: str
    iou: float | None
    quality: float | None
    width: float
    height: float
    reason: str
    problem: str
    data: str
    box: tuple[float, float, float, float] | None
    truth: str
    predicted: str

    @property
    def bytes(self) -> int:
        """Give the size in the page, about."""
        return len(self.data) + len(self.truth) + len(self.predicted) + 2000

    @property
    def side(self) -> float:
        """Give the box's shorter side, image px."""
        return min(self.width, self.height)


def cards(subjects: Sequence[Subject]) -> tuple[list[Card], int]:
    """Make a card of each subject, in their order, and count those that the limits left out. Each picture is decoded once."""
    chosen = subjects[:LIMIT]
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for at, one in enumerate(chosen):
        places[one.root, one.picture.ordinal].append(at)
    made: dict[int, Card] = {}
    for group in places.values():
        first = chosen[group[0]]
        image, problem = _open(first.picture, first.root)
        made |= {at: _card(chosen[at], image, problem) for at in group}
    kept, spent = [], 0
    for at in range(len(chosen)):
        spent += made[at].bytes
        if spent > BUDGET:
            break
        kept.append(made[at])
    return kept, len(subjects) - len(kept)


def clip(text: object, length: int = TEXT) -> str:
    """Shorten what comes from the data, for a page whose size is limited, and take logins and signatures out of it."""
    whole = redacted(str(text)[: 4 * length])
    return whole if len(whole) <= length else whole[: length - 1] + "…"


def _open(record: Record, root: str) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        return read_rgb(record, root), ""
    except ImageProblem as error:
        return None, error.problem.code


def _card(one: Subject, image: NDArray[np.uint8] | None, problem: str) -> Card:
    instance = one.predicted or one.truth
    box = instance.box if instance is not None else np.full(4, np.nan)
    size = (image.shape[0], image.shape[1]) if image is not None else one.picture.size
    region = _region([box, *(_bounds(one.mask) for one in (one.truth, one.predicted) if one is not None and one.mask)], size)
    data = "" if image is None else _jpeg(resample(image, region, (SIDE, SIDE), OUTSIDE))
    known = bool(np.isfinite(box).all())
    corners = ((box.reshape(2, 2) - region[:2]) * (SIDE / (region[2] - region[0]))).ravel() if known else None
    return Card(
        group=one.group,
        name=clip(instance.instance_id if instance is not None else ""),
        image=clip(one.picture.image_id),
        file=clip(one.picture.file_name),
        category=clip(one.category),
        iou=one.iou,
        quality=one.predicted.quality if one.predicted is not None else None,
        width=float(box[2] - box[0]) if known else 0.0,
        height=float(box[3] - box[1]) if known else 0.0,
        reason=clip(one.reason),
        problem=problem,
        data=data,
        box=None
        if corners is None
        else (
            round(float(corners[0]), 1),
            round(float(corners[1]), 1),
            round(max(float(corners[2] - corners[0]), 0.0), 1),
            round(max(float(corners[3] - corners[1]), 0.0), 1),
        ),
        truth=_path(one.truth.mask if one.truth is not None else None, region),
        predicted=_path(one.predicted.mask if one.predicted is not None else None, region),
    )


def _region(boxes: Iterable[FloatArray], size: tuple[int, int] | None) -> FloatArray:
    """Give the square (4,) xyxy image px to show, moved into the image where it fits; the image's corner where no box is usable."""
    usable = [box for box in boxes if np.isfinite(box).all()]
    if not usable:
        return np.array([0.0, 0.0, 1.0, 1.0]) * max(size or (1,))
    every = np.stack(usable)
    if size is not None:  # an outline or a box far outside must not shrink the object to a point
        every = np.clip(every, 0, [size[1], size[0]] * 2)
    low, high = every[:, :2].min(0), every[:, 2:].max(0)
    side = max(float((high - low).max()) * MARGIN, SMALLEST)
    corner = (low + high - side) / 2
    if size is not None:
        inside = np.clip(corner, 0, np.maximum(np.array([size[1], size[0]]) - side, 0))
        corner = np.where(np.array([size[1], size[0]]) >= side, inside, corner)
    return np.concatenate([corner, corner + side])


def _bounds(mask: Mask | None) -> FloatArray:
    if isinstance(mask, Rle):
        return raster.xyxy_of(mask)
    points = np.concatenate([polygon.exterior for polygon in mask or ()])
    return np.concatenate([points.min(0), points.max(0)])


def _path(mask: Mask | None, region: FloatArray) -> str:
    """Draw a mask as the ``d`` of an SVG path in card px; empty for none."""
    if not mask:
        return ""
    if isinstance(mask, Rle):
        polygons, corner, scale = _traced(mask, region)
    else:
        polygons, corner, scale = mask, region[:2], SIDE / float(region[2] - region[0])
    rings = [ring for polygon in polygons for ring in polygon.rings]
    largest = sorted(rings, key=lambda ring: -float(np.prod(np.ptp(ring, axis=0))))[:RINGS]
    return "".join(_ring((ring - corner) * scale) for ring in largest)


def _traced(mask: Rle, region: FloatArray) -> tuple[tuple[Polygon, ...], FloatArray, float]:
    """Trace a run-length mask inside the region, at no more pixels than a card can show; give polygons, their origin and their scale."""
    low = np.clip(np.floor(region[:2]).astype(int) - 1, 0, None)
    high = np.ceil(region[2:]).astype(int) + 1
    part = raster.decode(mask)[low[1] : high[1], low[0] : high[0]].astype(np.uint8)
    if not part.any():
        return (), region[:2], 1.0
    shrink = max(1.0, max(part.shape) / (2 * SIDE))
    if shrink > 1:
        size = (max(1, round(part.shape[1] / shrink)), max(1, round(part.shape[0] / shrink)))
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    # In px of the shrunken part: the origin moves with the region, the scale takes both steps.
    return contours.trace_mask(part.astype(bool)), (region[:2] - low) / shrink, SIDE / float(region[2] - region[0]) * shrink


def _ring(points: FloatArray) -> str:
    """Write (V, 2) card px as a closed subpath, without vertices that nobody sees."""
    kept = points[np.isfinite(points).all(1)]
    if len(kept) > 3:
        steps = np.hypot(*np.diff(kept, axis=0, prepend=kept[-1:]).T)
        if len(kept) > VERTICES:
            kept = kept[np.linspace(0, len(kept) - 1, VERTICES).astype(int)]
        elif (steps < STEP).any():
            # By distance along the outline, so that a chain of tiny steps loses some of them and not all.
            travelled = np.floor(np.cumsum(steps) / STEP)
            kept = kept[np.flatnonzero(np.diff(travelled, prepend=-1.0) > 0)]
    if len(kept) < 2:
        return ""
    limited = np.clip(kept, -9999, 9999).round(1) + 0.0
    return "M" + " ".join(f"{value:g}" for value in limited.ravel().tolist()) + "Z"


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    _, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
