"""Pictures that are none, lie about themselves, or lie elsewhere: each is a problem with a code, and none is decoded beyond its limit."""

import os
import struct
import tracemalloc
import zlib

import bad_input
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoly import images
from autopoly.errors import DataError
from autopoly.formats.image_folder import read_levels
from autopoly.types import Record

PIXELS = np.random.default_rng(4).integers(0, 255, (24, 32, 3), np.uint8)


def encoded(suffix):
    return cv2.imencode(suffix, PIXELS)[1].tobytes()


PNG, JPEG, BMP, TIFF, WEBP = (encoded(suffix) for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width, height, bits=8, colour=2):
    """Write a PNG that claims any size, its rows being zeros that pack a thousandfold."""
    rows = zlib.compress(b"\0" * 10_000_000, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def jpeg_bomb(width, height):
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


def resized(data, at, form, *values):
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def ppm(width, height):
    return f"P6\n{width} {height}\n255\n".encode() + b"\0" * 64


CORRUPT, LARGE, EMPTY = "image_truncated_or_corrupt", "image_too_large", "image_empty"
BYTES = {
    "nothing": (b"", EMPTY),
    "one byte": (b"\x89", CORRUPT),
    "zeros": (b"\0" * 1000, CORRUPT),
    "a web page": (b"<!DOCTYPE html><title>404</title>", CORRUPT),
    "json": (b'{"error": "denied"}', CORRUPT),
    "a pickle": (b"\x80\x04K\x07.", CORRUPT),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', CORRUPT),
    "png signature alone": (PNG[:8], CORRUPT),
    "png cut in its header": (PNG[:20], CORRUPT),
    "png cut in half": (PNG[: len(PNG) // 2], CORRUPT),
    "png with line ends converted": (PNG.replace(b"\r\n", b"\n"), CORRUPT),
    "png without rows": (PNG[:33], CORRUPT),
    "png of no width": (resized(PNG, 16, ">I", 0), CORRUPT),
    "png of negative width": (resized(PNG, 16, ">i", -5), LARGE),
    "jpeg cut in half": (JPEG[: len(JPEG) // 2], CORRUPT),
    "jpeg header alone": (JPEG[:20], CORRUPT),
    "jpeg of no height": (jpeg_bomb(32, 0), CORRUPT),
    "bmp cut": (BMP[: len(BMP) // 2], CORRUPT),
    "tiff cut": (TIFF[: len(TIFF) // 2], CORRUPT),
    "tiff whose directory is itself": (resized(TIFF, 4, "<I", 4), CORRUPT),
    "webp cut": (WEBP[: len(WEBP) // 2], CORRUPT),
    "png of 60000 x 60000": (png_bomb(60_000, 60_000), LARGE),
    "png of 60000 x 60000, 16 bits and alpha": (png_bomb(60_000, 60_000, 16, 6), LARGE),
    "png of 2^31 - 1": (png_bomb(2**31 - 1, 2**31 - 1), LARGE),
    "png of one endless row": (png_bomb(2**31 - 1, 1), LARGE),
    "jpeg of 60000 x 60000": (jpeg_bomb(60_000, 60_000), LARGE),
    "jpeg of 65535 x 65535": (jpeg_bomb(65_535, 65_535), LARGE),
    "bmp of 60000 x 60000": (resized(BMP, 18, "<ii", 60_000, 60_000), LARGE),
    "bmp upside down": (resized(BMP, 18, "<ii", 60_000, -60_000), LARGE),
    "gif of 65535 x 65535": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0" * 40, LARGE),
    "ppm of 10^6 x 10^6": (ppm(10**6, 10**6), CORRUPT),
    "ppm of 10^30": (ppm(10**30, 5), CORRUPT),
    "ppm cut": (ppm(3000, 3000), CORRUPT),
}


def problem(data, name="a.img", root="."):
    with pytest.raises(images.ImageProblem) as caught:
        images.read_rgb(Record(0, 1, name, None, (), data), root)
    bad_input.line(caught.value)
    return caught.value.problem.code


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_picture_are_a_problem_and_cost_little(case):
    data, code = BYTES[case]
    tracemalloc.start()
    try:
        assert problem(data) == code
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", [name for name, (_, code) in BYTES.items() if code == LARGE])
def test_a_bomb_is_no_picture_of_labels_either(case, tmp_path):
    (tmp_path / "a.png").write_bytes(BYTES[case][0])
    with pytest.raises(DataError) as caught:
        read_levels(tmp_path / "a.png")
    assert "claims" in bad_input.line(caught.value)


def link(target):
    return lambda root: (root / "a.png").symlink_to(target)


NAMES = {
    "a link to a file outside": ("a.png", link("../outside.png"), "path_outside_root"),
    "an absolute link": ("a.png", lambda root: (root / "a.png").symlink_to(root.parent / "outside.png"), "path_outside_root"),
    "a link to the system": ("a.png", link("/etc/passwd"), "path_outside_root"),
    "a linked folder": ("sub/outside.png", lambda root: (root / "sub").symlink_to(root.parent), "path_outside_root"),
    "a link to a link": (
        "a.png",
        lambda root: ((root / "b.png").symlink_to("../outside.png"), (root / "a.png").symlink_to("b.png")),
        "path_outside_root",
    ),
    "a link to itself": ("a.png", link("a.png"), "image_missing"),
    "a link to nothing": ("a.png", link("nowhere.png"), "image_missing"),
    "a folder": ("a.png", lambda root: (root / "a.png").mkdir(), "image_missing"),
    "a pipe": ("a.png", lambda root: os.mkfifo(root / "a.png"), "image_missing"),
    "a zero byte": ("a\0.png", lambda root: None, "image_missing"),
    "a zero byte behind a name": ("inside.png\0.png", lambda root: None, "image_missing"),
    "a name of 5000 letters": ("a" * 5000, lambda root: None, "image_missing"),
    "a path of 5000 folders": ("a/" * 5000 + "a.png", lambda root: None, "image_missing"),
    "half a letter": ("\ud800.png", lambda root: None, "image_missing"),
    "nothing": ("", lambda root: None, "image_missing"),
    "a dot": (".", lambda root: None, "image_missing"),
    "a file as a folder": ("inside.png/a.png", lambda root: None, "image_missing"),
    "an address": ("https://host/a.png", lambda root: None, "image_missing"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_leads_to_a_picture_inside_the_root_or_to_none(case, tmp_path):
    name, prepare, code = NAMES[case]
    root = tmp_path / "root"
    root.mkdir()
    (root / "inside.png").write_bytes(PNG)
    (tmp_path / "outside.png").write_bytes(PNG)
    prepare(root)
    assert problem(None, name, root) == code


def test_links_inside_the_root_and_a_root_that_is_a_link_are_followed(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "inside.png").write_bytes(PNG)
    (root / "a.png").symlink_to("inside.png")
    (tmp_path / "other").symlink_to(root)
    for place in (root, tmp_path / "other"):
        assert (images.read_rgb(Record(0, 1, "a.png", None, ()), place) == PIXELS[:, :, ::-1]).all()


def test_a_file_without_end_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(images.LARGEST_FILE + 5)  # sparse: no disk is used
    small = images.LARGEST_FILE
    images.LARGEST_FILE = 1 << 20
    try:
        assert problem(None, "a.png", tmp_path) == LARGE
    finally:
        images.LARGEST_FILE = small


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_damaged_picture_is_a_picture_or_a_problem(data):
    whole = data.draw(st.sampled_from([PNG, JPEG, BMP, TIFF, WEBP]))
    record = Record(0, 1, "a.img", None, (), data.draw(bad_input.mutated_bytes(whole)))
    for act in (images.read_rgb, images.size_of):
        try:
            made = act(record, ".")
        except images.ImageProblem as error:
            bad_input.line(error)
        else:
            assert len(made) in (2, len(made))


CASES = {"bytes": BYTES, "name": NAMES}
