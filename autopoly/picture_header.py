"""Read a picture's size from its first bytes, without decoding it. OpenCV has no call for that."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Picture:
    """Height and width as stored, and whether an EXIF field may turn the picture."""

    size: tuple[int, int]
    may_turn: bool = False


def read_header(data: bytes) -> Picture | None:
    """Give size and EXIF of a picture from its first bytes; None where they do not tell.

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
