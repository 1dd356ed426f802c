"""Rooftop (Sun, Christoudias and Fua, 2014) as distributed: a folder of ``IMG_nnnn.JPG``, each with an ``IMG_nnnn.mat`` of outlines.

A ``.mat`` file holds a cell ``gt`` of (n, 2) x y corners, an outline a roof, in pixels of the picture of 1000 x 750. Nothing says whether
they count from MATLAB's 1 or from the corner of the first pixel: they have decimals, so they are taken as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autopoly.errors import DataError, Problem
from autopoly.formats.image_folder import Drawn, Entry, ImageFolder, no_corners, refuse_to_write
from autopoly.geometry import raster
from autopoly.types import Category, FloatArray, Header, Polygon, Record

WRITES = False
ROOF = Category(1, "rooftop")
SUFFIXES = (".JPG", ".jpg", ".jpeg", ".png")
LARGEST_FILE = 1 << 22
"""Bytes: those of the dataset have a few thousand, and a small compressed file can unpack to a thousand times its size."""


DAMAGED = (
    OSError, LookupError, ValueError, TypeError, ArithmeticError, NotImplementedError, EOFError, MemoryError, NameError, zlib.error
)  # fmt: skip
"""What SciPy raises for files that are not sound."""


def matches(path: Path) -> bool:
    """Say whether a folder holds ``IMG_*.mat``; never raise."""
    return path.is_dir() and next(path.glob("IMG_*.mat"), None) is not None


def read(path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> ImageFolder:
    """Open a folder of Rooftop; raise DataError where it has no outlines, or some cannot be read."""
    no_corners("Rooftop", bbox_format)
    root = images or path
    files = sorted(path.glob("IMG_*.mat"))
    if not files:
        raise DataError(f"{path}: no IMG_*.mat in it; name the folder train/ or test/ of Rooftop")
    entries = [Entry(_picture(root, file.stem), file, len(_outlines(file))) for file in files]
    return ImageFolder(Header("rooftop", (ROOF,)), root, entries, lambda entry: (None, [_drawn(ring) for ring in _outlines(entry.file)]))


def write(header: Header, records: Iterator[Record], path: Path) -> None:
    """Refuse, with DataError: this form is only read."""
    refuse_to_write("rooftop", path)


def _picture(root: Path, stem: str) -> str:
    return next((stem + suffix for suffix in SUFFIXES if (root / (stem + suffix)).is_file()), f"{stem}.JPG")


def _outlines(file: Path) -> list[FloatArray]:
    """Read the outlines, each (n, 2) x y."""
    if file.stat().st_size > LARGEST_FILE:
        raise DataError(f"{file}: {file.stat().st_size:,} bytes are too many for outlines; copy it again")
    # Only here: importing SciPy takes its time, and few sources need it.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        cell = loadmat(file, variable_names=["gt"])["gt"]
        outlines = [np.asarray(one, dtype=np.float64) for one in np.atleast_1d(cell).ravel()] if cell.dtype == object else [cell]
        if any(one.size and (one.ndim != 2 or one.shape[1] != 2) for one in outlines):
            raise ValueError("an outline is not (n, 2)")
    # MATLAB's newer files are HDF5, which SciPy does not read; damaged ones fail in all these ways.
    except (*DAMAGED, MatReadError) as error:
        line = " ".join(str(error).split())[:200]
        raise DataError(f"{file}: no cell 'gt' of (n, 2) outlines can be read ({line}); copy it again or save it with -v7") from error
    return [one.reshape(-1, 2) for one in outlines]


def _drawn(ring: FloatArray) -> Drawn:
    if len(ring) < 3 or not raster.can_be_drawn([ring], None) or np.abs(ring).max() >= 1e9:
        line = f"an outline of {len(ring)} usable corners is no polygon; mend it in the .mat file"
        return Drawn(ROOF.category_id, None, problem=Problem("outline_malformed", line), extra={"rooftop": ring.tolist()})
    closed = len(ring) > 3 and bool((ring[0] == ring[-1]).all())
    return Drawn(ROOF.category_id, (Polygon(ring[:-1] if closed else ring),))
