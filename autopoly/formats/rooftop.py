"""Rooftop (Sun, Christoudias and Fua, 2014) as distributed: a folder of ``IMG_nnnn.JPG``, each with an ``IMG_nnnn.mat`` of outlines.

A ``.mat`` file holds a cell ``gt`` of (n, 2) x y corners, an outline a roof, in pixels of the picture of 1000 x 750. Nothing says whether
they count from MATLAB's 1 or from the corner of the first pixel: they have decimals, so they are taken as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autopoly.errors import DataError, Problem
from autopoly.formats.image_folder import Drawn, Entry, ImageFolder, no_corners
from autopoly.geometry import raster
from autopoly.types import Category, FloatArray, Header, Polygon

ROOF = Category(1, "rooftop")
SUFFIXES = (".JPG", ".jpg", ".jpeg", ".png")
LARGEST_FILE = 1 << 22
"""Bytes: those of the dataset have a few thousand, and a small compressed file can unpack to a thousand times its size."""

READER = Path(__file__).with_name("mat_outlines.py")
PATIENCE_S = 60.0
"""For the reader's start, and for each of a hundred files."""


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
    outlines = dict(zip(files, _outlines(files), strict=True))
    entries = [Entry(_picture(root, file.stem), file, len(found)) for file, found in outlines.items()]
    return ImageFolder(Header("rooftop", (ROOF,)), root, entries, lambda entry: (None, [_drawn(ring) for ring in outlines[entry.file]]))


def _picture(root: Path, stem: str) -> str:
    return next((stem + suffix for suffix in SUFFIXES if (root / (stem + suffix)).is_file()), f"{stem}.JPG")


def _outlines(files: Sequence[Path]) -> list[list[FloatArray]]:
    """Read the outlines of each file, each (n, 2) x y."""
    for file in files:
        if file.stat().st_size > LARGEST_FILE:
            raise DataError(f"{file}: {file.stat().st_size:,} bytes are too many for outlines; copy it again")
    # In a process of its own, which a damaged file may end; -P keeps its folder, with a module parquet, off the path.
    command = [sys.executable, "-P", str(READER)]
    asked = json.dumps([str(file) for file in files])
    try:
        done = subprocess.run(
            command, input=asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=PATIENCE_S * (1 + len(files) / 100)
        )
        said = done.stdout
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode()
    answers = [json.loads(line) for line in said.splitlines() if line.endswith("}")]
    # What ended or held up the reader is the file it had nothing to say about.
    answers += [{"error": "it ends or holds up the program that reads it"}] if len(answers) < len(files) else []
    for file, one in zip(files, answers, strict=False):
        if "error" in one:
            raise DataError(f"{file}: no cell 'gt' of (n, 2) outlines can be read ({one['error']}); copy it again or save it with -v7")
    return [[np.array(ring, dtype=np.float64).reshape(-1, 2) for ring in one["outlines"]] for one in answers]


def _drawn(ring: FloatArray) -> Drawn:
    if len(ring) < 3 or not raster.can_be_drawn([ring], None) or np.abs(ring).max() >= 1e9:
        line = f"an outline of {len(ring)} usable corners is no polygon; mend it in the .mat file"
        return Drawn(ROOF.category_id, None, problem=Problem("outline_malformed", line), extra={"rooftop": ring.tolist()})
    closed = len(ring) > 3 and bool((ring[0] == ring[-1]).all())
    return Drawn(ROOF.category_id, (Polygon(ring[:-1] if closed else ring),))
