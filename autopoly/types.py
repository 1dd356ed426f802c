"""The words of the domain: a record is an image with its instances, and flows from a reader to a writer.

Frame: image px, continuous, origin at the top-left *corner* of the top-left pixel; pixel (row i, col j) covers [j, j+1) x [i, i+1).
Sizes are (height, width). Letters: N boxes, V polygon vertices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from autopoly.errors import Problem

FloatArray = NDArray[np.float64]
Id = int | str
MaskSource = Literal["predicted", "kept", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """One simple ring with holes: ``exterior`` (V, 2) and each hole (V, 2), float64 x y in image px; the first vertex is not repeated."""

    exterior: FloatArray
    holes: tuple[FloatArray, ...] = ()

    @property
    def rings(self) -> tuple[FloatArray, ...]:
        """The exterior, then the holes."""
        return (self.exterior, *self.holes)

    def mapped(self, change: Callable[[FloatArray], FloatArray]) -> Polygon:
        """Give the polygon with each of its :attr:`rings` (V, 2) changed, in their order."""
        return Polygon(change(self.exterior), tuple(change(hole) for hole in self.holes))


@dataclass(frozen=True, slots=True)
class Rle:
    """A COCO run-length mask: ``size`` (height, width) and ``counts`` in COCO's compressed form."""

    size: tuple[int, int]
    counts: bytes


Mask = Rle | tuple[Polygon, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object of an image.

    ``ordinal`` is the position of its annotation in the source, from 0 over the whole file: results are put back by it.
    ``box`` is (4,) float64 x1 y1 x2 y2, half-open, image px, as read (NaN where the source had no usable number).
    ``mask`` is what the source had (never shown to the network) until a run replaces it and sets ``mask_source``.
    ``crowd`` regions are carried verbatim and never segmented. ``problem`` says why no polygon can be made.
    ``extra`` holds the source's own fields, verbatim, for the writer.
    """

    ordinal: int
    instance_id: Id
    category_id: Id
    box: FloatArray
    mask: Mask | None = None
    score: float | None = None
    crowd: bool = False
    quality: float | None = None
    mask_source: MaskSource | None = None
    problem: Problem | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def is_truth(instance: Instance) -> bool:
    """Say whether an instance can be learned from or measured against: no crowd region, and a mask that autopoly did not predict itself."""
    return bool(instance.mask) and not instance.crowd and mask_source_of(instance) != "predicted"


def mask_source_of(instance: Instance) -> MaskSource | None:
    """Say where an instance's mask comes from: this run, else the run that wrote its file, else None."""
    source: MaskSource | None = instance.mask_source or instance.extra.get("mask_source")
    return source


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An image with its instances.

    ``ordinal`` is the position in :class:`Dataset`. ``file_name`` is as in the source, relative to the image root. ``data`` holds the
    encoded picture where the source embeds it (Parquet), else None. ``listed`` is False for annotations whose image the source does not
    list.
    """

    ordinal: int
    image_id: Id
    file_name: str
    size: tuple[int, int] | None
    instances: tuple[Instance, ...]
    data: bytes | None = None
    listed: bool = True
    problem: Problem | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Category:
    """One category of a dataset; ``extra`` holds the source's other fields (``supercategory`` and so on)."""

    category_id: Id
    name: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """What a dataset says about itself: its format, categories, notes for the user (what was detected or repaired), other top-level
    fields.
    """

    format: str
    categories: tuple[Category, ...]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class Dataset(Protocol):
    """Annotations with random access by record; pixels stay on disk. Cheap to open again in another process."""

    header: Header
    image_root: str
    files: Sequence[Path]
    """The files that the annotations are read from, masks that are pictures among them."""
    counts: NDArray[np.int64]
    """Boxes per record, in record order, (number of records,)."""

    def record(self, index: int, picture: bool = True) -> Record:
        """Give record ``index`` (0 <= index < len(counts)); raise IndexError outside.

        Without ``picture`` an embedded one need not be read, and ``data`` may be None all the same.
        """
        ...
