"""Read pictures: (H, W, 3) uint8 RGB, the same from a file and from bytes, or a :class:`Problem` with a stable code. H W rows and columns.

Codes: ``image_missing``, ``image_empty``, ``image_truncated_or_corrupt``, ``image_size_mismatch``, ``image_too_large``, and a record's own
(``path_outside_root``, ``image_not_listed``).
"""

from __future__ import annotations

import os
import struct
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from autopoly.errors import Problem
from autopoly.types import Record

LARGEST = 200_000_000
"""Pixels of the largest picture that is decoded: 0.6 GB as RGB. A file of a few kB can claim any size."""
HEAD = 1 << 18
"""Bytes read to find a size; a JPEG may hold a thumbnail and a colour profile before it."""


class ImageProblem(Exception):
    """A picture cannot be used; ``problem`` says why. Not an AutopolyError: the caller makes failure rows of it and goes on."""

    def __init__(self, problem: Problem) -> None:
        """Keep the problem."""
        super().__init__(problem.message)
        self.problem = problem


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
    image = _decode(record, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    turned = image.shape[:2]
    if record.size is not None and turned != record.size:
        image = _decode(record, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        if image.shape[:2] != record.size:
            raise _mismatch(record, turned)
    _check_pixels(record, image.shape[:2])
    return np.ascontiguousarray(_to_uint8(image)[:, :, ::-1])


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

    Backslashes count as slashes, and composed letters as their parts, where no file has the name as written.
    """
    if record.problem is not None:
        raise ImageProblem(record.problem)
    name = record.file_name
    for variant in (name, name.replace("\\", "/"), unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        path = Path(root, variant)
        # A name with a zero byte or of 300 letters is no file, and not an error of ours.
        if variant and "\0" not in variant and os.path.isfile(path):
            return path
    raise ImageProblem(Problem("image_missing", f"{record.file_name or '(no file name)'}: no such picture under {root}; check --images"))


def _bytes(record: Record, root: str | Path, limit: int = -1) -> bytes:
    if record.data is not None:
        data = record.data
    else:
        path = path_of(record, root)
        try:
            with path.open("rb") as stream:
                data = stream.read(limit)
        except OSError as error:
            raise ImageProblem(
                Problem("image_missing", f"{record.file_name}: cannot be read ({error.strerror}); check its permissions")
            ) from error
    if not data:
        raise ImageProblem(Problem("image_empty", f"{record.file_name}: the file has no bytes; copy it again"))
    return data


def _decode(record: Record, data: bytes, flags: int) -> NDArray[np.generic]:
    # Never imread: it gives a half picture for a truncated JPEG, without a word, where imdecode gives None.
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        line = f"{record.file_name}: truncated, damaged, or no picture OpenCV reads ({len(data)} bytes); copy or convert it again"
        raise ImageProblem(Problem("image_truncated_or_corrupt", line))
    return np.asarray(image)


def _to_uint8(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale other depths by the range really used: 12-bit data in a 16-bit file fills 4,095, not 65,535, and would come out black."""
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    values = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if np.issubdtype(image.dtype, np.integer):
        full = float((1 << max(int(top).bit_length(), 8)) - 1)
    else:
        full = 1.0 if top <= 1.0 else max(top, 255.0)
    return np.asarray(np.clip(np.rint(values * (255.0 / full)), 0, 255), dtype=np.uint8)


def _check_pixels(record: Record, size: tuple[int, ...]) -> None:
    if size[0] * size[1] > LARGEST:
        line = f"{record.file_name}: {size[1]} x {size[0]} px are more than {LARGEST // 1_000_000} million; tile it first"
        raise ImageProblem(Problem("image_too_large", line))


def _mismatch(record: Record, size: tuple[int, ...]) -> ImageProblem:
    height, width = record.size or (0, 0)
    line = f"{record.file_name}: the picture has {size[1]} x {size[0]} px, the annotations say {width} x {height}; boxes would be off"
    return ImageProblem(Problem("image_size_mismatch", line))


@dataclass(frozen=True, slots=True)
class Picture:
    """Height and width as stored, and whether an EXIF field may turn the picture."""

    size: tuple[int, int]
    may_turn: bool = False


def read_header(data: bytes) -> Picture | None:
    """Give size and EXIF of a picture from its first bytes, since OpenCV has no call for it; None where they do not tell.

    PNG, JPEG, GIF, BMP, WebP and TIFF are known; for others, and for headers that are damaged or cut off, decoding is the test.
    """
    for start, parse in PARSERS:
        if data.startswith(start):
            try:
                picture = parse(data)
            except (struct.error, IndexError):
                return None
            return picture if picture is not None and min(picture.size) > 0 else None
    return None


def _png(data: bytes) -> Picture | None:
    width, height = struct.unpack_from(">II", data, 16)
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"eXIf":
            return Picture((height, width), may_turn=True)
        if kind == b"IDAT":
            break
        place += 12 + length
    return Picture((height, width))


def _jpeg(data: bytes) -> Picture | None:
    place, may_turn = 2, False
    while True:
        if data[place] != 0xFF:
            return None
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        place += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        if marker == 0xE1 and data[place + 2 : place + 6] == b"Exif":
            may_turn = True
        # Start of frame, of any coding; C4, C8 and CC are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 3)
            return Picture((height, width), may_turn)
        if marker in (0xD9, 0xDA):
            return None
        place += length


def _gif(data: bytes) -> Picture | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return Picture((height, width))


def _bmp(data: bytes) -> Picture | None:
    (kind,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if kind == 12 else "<ii", data, 18)
    return Picture((abs(height), width))


def _webp(data: bytes) -> Picture | None:
    if data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[place : place + 3], "little") + 1 for place in (24, 27))
        return Picture((height, width), may_turn=bool(data[20] & 0x08)) if len(data) >= 30 else None
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Picture((height & 0x3FFF, width & 0x3FFF))
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Picture(((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1))
    return None


def _tiff(data: bytes) -> Picture | None:
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, place)
    found: dict[int, int] = {}
    for entry in range(min(entries, 512)):
        tag, kind = struct.unpack_from(order + "HH", data, place + 2 + 12 * entry)
        if tag in (256, 257, 274):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place + 10 + 12 * entry)
    if 256 not in found or 257 not in found:
        return None
    return Picture((found[257], found[256]), may_turn=found.get(274, 1) != 1)


PARSERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
