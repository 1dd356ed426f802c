"""What every format shares: how a file is committed, where pictures lie, how a box is judged, how JSON is read and written.

A format is a module with ``matches`` and ``read``, see :class:`Format`, and ``write`` where results can be written in it. Whatever the
source, ``Instance.extra`` and ``Record.extra`` hold a whole COCO annotation and a whole COCO image (the source's own, verbatim, where the
source is COCO): every writer starts from them.
"""

from __future__ import annotations

import json
import math
import ntpath
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from autopoly.errors import DataError, Problem
from autopoly.geometry import boxes
from autopoly.types import Dataset, FloatArray

BBOX_FORMATS = ("xywh", "xyxy")
LONGEST_SIDE = 1 << 20
"""Of a picture, px: OpenCV's own limit."""
MOST_PIXELS = 1 << 32
"""Of a mask: COCO's run lengths are numbers of 32 bits."""
LONGEST_INTEGER = 4000
"""Digits: Python refuses to write integers beyond 4300."""
DECODER = msgspec.json.Decoder()
ENCODER = msgspec.json.Encoder()


class Format(Protocol):
    """The shape of a format module."""

    def matches(self, path: Path) -> bool:
        """Say cheaply whether a path looks like this format; never raise."""
        ...

    def read(self, path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> Dataset:
        """Open the annotations; pixels stay on disk. Raise DataError for what cannot be read."""
        ...


@contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Give the name of a temporary file beside ``path`` to write; it takes the place of ``path`` on success and is removed otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """Read an annotation file; raise DataError in one line where that fails."""
    try:
        # A pipe would keep us waiting, and a device has no end.
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is no regular file; write the annotations into one")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read ({reason}); check the path and its permissions") from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory; cut it into several files") from error


def decode_json(raw: bytes | msgspec.Raw) -> Any:
    """Decode JSON that was checked before; numbers out of range and ``NaN`` become None. Raise ValueError where it is none after all."""
    try:
        return DECODER.decode(raw)
    except msgspec.MsgspecError:
        return loads(bytes(raw))


def loads(raw: bytes) -> Any:
    """Decode JSON as Python's own library reads it: with ``NaN`` and ``Infinity``, which become None. Raise ValueError."""
    return json.loads(raw, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)


def encode_json(value: Any) -> bytes:
    """Encode to compact JSON in UTF-8; numbers that are not finite become null."""
    try:
        return ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError):  # lone surrogates, which only an escape can carry
        return json.dumps(value, separators=(",", ":")).encode()


def picture_root(folder: Path, images: Path | None, first_name: str | None = None) -> str:
    """Choose where pictures lie: as told, else ``images/`` beside the annotations, else their own folder.

    File names that start with ``images/`` themselves count from the annotations' folder: ``first_name`` tells.
    """
    if images is not None:
        return str(images)
    beside = folder / "images"
    if not beside.is_dir() or (first_name and not (beside / first_name).is_file() and (folder / first_name).is_file()):
        return str(folder)
    return str(beside)


def outside_root(file_name: str) -> Problem | None:
    """Say when a file name would leave the image root (absolute, or up by ``..``), else give None."""
    name = file_name.replace("\\", "/")
    up = posixpath.normpath(name).split("/")[0] == ".."
    if up or name.startswith("/") or ntpath.splitdrive(name)[0]:
        return Problem(
            "path_outside_root", f"file name {file_name!r} is absolute or leads out of the image folder; make it relative to --images"
        )
    return None


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a number (True and False are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    """Say whether a JSON value can name something: an integer or a text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def id_of(value: Any) -> int | str | None:
    """Give what a JSON value names something by: an integer (also one written 1.0, as some tables are), or a text; else None."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if is_id(value) else None


def size_from(height: Any, width: Any) -> tuple[int, int] | None:
    """Give (height, width) when both are whole numbers above 0 and a picture can be as large, else None."""
    if not (is_number(height) and is_number(width)) or not (1 <= height < LONGEST_SIDE and 1 <= width < LONGEST_SIDE):
        return None
    whole = int(height) == height and int(width) == width and height * width < MOST_PIXELS
    return (int(height), int(width)) if whole else None


def read_box(value: Any, size: tuple[int, int] | None, convention: str) -> tuple[FloatArray, Problem | None]:
    """Turn a source's box of four numbers into (4,) xyxy image px, and say what is wrong with it; NaN where there is no usable number.

    ``size`` is the picture's (height, width) or None; ``convention`` is xywh or xyxy.
    """
    if value is None:
        return np.full(4, np.nan), Problem("box_missing", "there is no bbox; add one")
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(one is None or is_number(one) for one in value):
        return np.full(4, np.nan), Problem("box_malformed", f"bbox {short(value)} is not a list of four numbers; mend it in the source")
    # Not None alone: an integer may be too large for a float.
    numbers = np.array([np.nan if one is None else float(one) if abs(one) < 1e300 else np.inf for one in value])
    with np.errstate(invalid="ignore"):
        box = boxes.xywh_to_xyxy(numbers) if convention == "xywh" else numbers
    problem = boxes.problem_of(box, size)
    if problem is None and box[2] <= 1 and box[3] <= 1 and size is not None and min(size) > 1 and not (box == np.rint(box)).all():
        line = f"box ({', '.join(f'{one:g}' for one in box)}) lies within 0..1: fractions of the image? Multiply by its width and height"
        problem = Problem("box_normalised", line)
    return box, problem


def xywh_of(box_xyxy: FloatArray) -> list[float]:
    """Give a box (4,) as COCO's x, y, width, height.

    Sides are rounded to six decimals: 629.75 - 599.41 is not 30.34 in floating point, and no source has more decimals that mean something.
    """
    x1, y1, x2, y2 = (float(one) for one in box_xyxy)
    return [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)]


def guess_convention(numbers: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[str, str]:
    """Guess whether boxes (N, 4) are xywh or xyxy and say why; ``sizes`` (N, 2) height, width, NaN where unknown.

    Only boxes of four finite numbers count. Boxes that a side of 0 or the border of an image rule out decide; where neither does, the order
    of the corners does.
    """
    good = np.isfinite(numbers).all(axis=1)
    a, b, c, d = numbers[good].T
    limits = sizes[good]
    if not len(a):
        return "xywh", "assumed, for lack of boxes"
    crossed = int(((c <= a) | (d <= b)).sum())
    over = int(((a + c > limits[:, 1] * 1.02 + 1) | (b + d > limits[:, 0] * 1.02 + 1)).sum())
    outside = int(((c > limits[:, 1] * 1.02 + 1) | (d > limits[:, 0] * 1.02 + 1)).sum())
    # A few bad boxes must not decide: each convention is judged by how many boxes it would break.
    if crossed + outside > over:
        return "xywh", f"{crossed} of {len(a)} boxes would be empty as xyxy"
    if over > crossed + outside:
        return "xyxy", f"{over} of {len(a)} boxes would leave their image as xywh"
    if len(a) >= 3 and not crossed:
        return "xyxy", f"in all {len(a)} boxes the second corner lies below and right of the first"
    return "xywh", "assumed, since the boxes fit both"


def check_bbox_format(bbox_format: str | None) -> None:
    """Raise DataError for a box convention that does not exist."""
    if bbox_format not in (None, *BBOX_FORMATS):
        raise DataError(f"--bbox-format {bbox_format}: expected xywh or xyxy")


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | None:
    return int(text) if len(text) <= LONGEST_INTEGER else None


def short(value: Any) -> str:
    """Write a JSON value in 60 characters at most."""
    # Not all of it: a list may have a million entries.
    text = repr(value[:20] if isinstance(value, list | str) else value)
    return text if len(text) <= 60 else text[:57] + "..."
