"""Read pictures: (H, W, 3) uint8 RGB, the same from a file and from bytes, or a :class:`Problem` with a stable code. H W rows and columns.

Codes: ``image_missing``, ``image_unreachable``, ``image_empty``, ``image_truncated_or_corrupt``, ``image_size_mismatch``,
``image_too_large``, and a record's own (``path_outside_root``, ``image_not_listed``).
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.errors import Problem, StorageError
from autopoly.picture_header import read_header
from autopoly.storage import ObjectPath, is_remote, place
from autopoly.types import Record

LARGEST = 200_000_000
"""Pixels of the largest picture that is decoded: 0.6 GB as RGB. A file of a few kB can claim any size."""
HEAD = 1 << 18
"""Bytes read to find a size; a JPEG may hold a thumbnail and a colour profile before it."""
LARGEST_FILE = 1 << 31
"""Bytes of the largest file that is read: a picture of so many pixels, 16 bits each, without compression, and some."""
ROWS = 256
"""Rows that are scaled at once."""


class ImageProblem(Exception):
    """A picture cannot be used; ``problem`` says why. Not an AutopolyError: the caller makes failure rows of it and goes on."""

    def __init__(self, problem: Problem) -> None:
        """Keep the problem."""
        super().__init__(problem.message)
        self.problem = problem


# What cannot be decoded is counted and said in a line of ours.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_rgb(record: Record, root: str | Path) -> NDArray[np.uint8]:
    """Decode a record's picture to (H, W, 3) uint8 RGB, with the height and width that its boxes refer to.

    EXIF: the turned picture (as viewers show it) where its size is the declared one or none is declared, else the picture as stored where
    that size is the declared one. Grey, palette, alpha (dropped), CMYK, the first of several frames, and 16 bits (scaled by the bits really
    used) are all read. Raise ImageProblem for anything else.
    """
    data = _bytes(record, root)
    picture = read_header(data)
    if picture is not None:
        _check_pixels(record, picture.size)
        # Where the header is enough to see it, no time goes into decoding the wrong size.
        if record.size is not None and record.size not in (picture.size, picture.size[::-1]):
            raise _mismatch(record, picture.size)
    image = _decode(record, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    turned = image.shape[:2]
    if record.size is not None and turned != record.size:
        image = _decode(record, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        if image.shape[:2] != record.size:
            raise _mismatch(record, turned)
    _check_pixels(record, image.shape[:2])
    return _to_uint8(image)


def size_of(record: Record, root: str | Path) -> tuple[int, int]:
    """Give the (height, width) that ``read_rgb`` has for a record without a declared size, from the file's first bytes where they tell.

    Raise ImageProblem where there is no picture, or none that can be read.
    """
    data = _bytes(record, root, HEAD)
    picture = read_header(data)
    if picture is not None and not picture.may_turn:
        return picture.size
    whole = _bytes(record, root)
    picture = read_header(whole)
    if picture is not None:
        if not picture.may_turn:
            return picture.size
        _check_pixels(record, picture.size)
    height, width = _decode(record, whole, cv2.IMREAD_COLOR).shape[:2]
    return height, width


def path_of(record: Record, root: str | Path) -> Path:
    """Find a record's picture under the image root; raise ImageProblem where there is none.

    Backslashes count as slashes, and composed letters as their parts, where no file has the name as written. A link is followed inside the
    image root only.
    """
    for path in _candidates(record, root):
        try:
            # A name of 300 letters is no file, and not an error of ours.
            if path.is_file() if isinstance(path, ObjectPath) else os.path.isfile(path):
                if not isinstance(path, ObjectPath) and _leads_out(path, root):
                    line = (
                        f"{record.file_name}: is a link that leads out of {root}; copy the picture there, or name its folder with --images"
                    )
                    raise ImageProblem(Problem("path_outside_root", line))
                return path
        except StorageError as error:
            raise _unreachable(error) from error
    raise _missing(record, root)


def _candidates(record: Record, root: str | Path) -> Iterator[Path]:
    if record.problem is not None:
        raise ImageProblem(record.problem)
    name, folder = record.file_name, place(root)
    for variant in dict.fromkeys((name, name.replace("\\", "/"), unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))):
        if variant and "\0" not in variant:
            yield folder / variant


def _missing(record: Record, root: str | Path) -> ImageProblem:
    return ImageProblem(Problem("image_missing", f"{record.file_name or '(no file name)'}: no such picture under {root}; check --images"))


def _download(record: Record, root: str | Path, limit: int) -> bytes:
    """Read an object; the store's client tries again, a bounded number of times, where trying again may help."""
    for path in _candidates(record, root):
        assert isinstance(path, ObjectPath)
        try:
            return path.read_head(limit)
        except FileNotFoundError:
            continue
        except StorageError as error:
            raise _unreachable(error) from error
    raise _missing(record, root)


def _unreachable(error: StorageError) -> ImageProblem:
    return ImageProblem(Problem("image_unreachable", str(error)))


def header_size(record: Record, root: str | Path) -> tuple[int, int] | None:
    """Give the (height, width) that a picture's first bytes claim, as stored; None where there is no picture or they do not tell."""
    if record.data is None and is_remote(root):
        return None  # One request for a picture is enough.
    try:
        picture = read_header(_bytes(record, root, HEAD))
    except ImageProblem:
        return None
    return None if picture is None else picture.size


def too_large(size: tuple[int, ...]) -> bool:
    """Say whether a picture of ``size`` (height, width) has more pixels than are decoded."""
    return size[0] * size[1] > LARGEST


def _leads_out(path: Path, root: str | Path) -> bool:
    base = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(path), base]) != base


def _bytes(record: Record, root: str | Path, limit: int = -1) -> bytes:
    most = LARGEST_FILE + 1 if limit < 0 else limit
    if record.data is not None:
        data = record.data
    elif is_remote(root):
        data = _download(record, root, most)
    else:
        path = path_of(record, root)
        try:
            with path.open("rb") as stream:
                data = stream.read(most)
        except OSError as error:
            raise ImageProblem(
                Problem("image_missing", f"{record.file_name}: cannot be read ({error.strerror}); check its permissions")
            ) from error
    if not data:
        raise ImageProblem(Problem("image_empty", f"{record.file_name}: the file has no bytes; copy it again"))
    if len(data) > LARGEST_FILE:
        raise ImageProblem(Problem("image_too_large", f"{record.file_name}: more than {LARGEST_FILE >> 30} GiB; tile the picture first"))
    return data


def _decode(record: Record, data: bytes, flags: int) -> NDArray[np.generic]:
    # Never imread: it gives a half picture for a truncated JPEG, without a word, where imdecode gives None.
    image: NDArray[np.generic] | None
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        image = None
    image = _floats(data) if image is None else image
    if image is None:
        line = f"{record.file_name}: truncated, damaged, or no picture OpenCV reads ({len(data)} bytes); copy or convert it again"
        raise ImageProblem(Problem("image_truncated_or_corrupt", line))
    return np.asarray(image)


def _floats(data: bytes) -> NDArray[np.generic] | None:
    """Decode a picture of one channel of floats, as microscopes write them, which OpenCV refuses to give in colour; None for any other."""
    try:
        grey = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return None if grey is None or grey.ndim != 2 or not np.issubdtype(grey.dtype, np.floating) else np.repeat(grey[..., None], 3, axis=2)


def _to_uint8(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale other depths by the range really used: 12-bit data in a 16-bit file fills 4,095, not 65,535, and would come out black."""
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    top = max((float(_finite(image[start : start + ROWS]).max()) for start in range(0, len(image), ROWS)), default=0.0)
    if np.issubdtype(image.dtype, np.integer):
        full = float((1 << max(int(top).bit_length(), 8)) - 1)
    else:
        full = 1.0 if top <= 1.0 else max(top, 255.0)
    scaled = np.empty(image.shape, dtype=np.uint8)
    for start in range(0, len(image), ROWS):
        # A few rows at a time: as floats a large picture would need ten times its memory.
        scaled[start : start + ROWS] = np.clip(np.rint(_finite(image[start : start + ROWS]) * (255.0 / full)), 0, 255)
    return scaled


def _finite(rows: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.nan_to_num(rows.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _check_pixels(record: Record, size: tuple[int, ...]) -> None:
    if too_large(size):
        line = f"{record.file_name}: {size[1]} x {size[0]} px are more than {LARGEST // 1_000_000} million; tile it first"
        raise ImageProblem(Problem("image_too_large", line))


def _mismatch(record: Record, size: tuple[int, ...]) -> ImageProblem:
    height, width = record.size or (0, 0)
    line = f"{record.file_name}: the picture has {size[1]} x {size[0]} px, the annotations say {width} x {height}; boxes would be off"
    return ImageProblem(Problem("image_size_mismatch", line))
