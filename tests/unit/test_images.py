import struct
import zlib

import cv2
import numpy as np
import pytest
from skimage import data as pictures

from autopoly import images
from autopoly.picture_header import read_header
from autopoly.storage import ObjectPath
from autopoly.types import Record

RGB = np.ascontiguousarray(pictures.astronaut()[:120:2, :160:2])
H, W = RGB.shape[:2]


def encoded(suffix, image=RGB, *options):
    order = image[:, :, [2, 1, 0, *range(3, image.shape[2])]] if image.ndim == 3 else image
    ok, data = cv2.imencode(suffix, order, list(options))
    assert ok
    return data.tobytes()


def record(data=None, name="a.png", size=None):
    return Record(0, 1, name, size, (), data=data)


def code(one, root="."):
    with pytest.raises(images.ImageProblem) as caught:
        images.read_rgb(one, root)
    assert "\n" not in caught.value.problem.message
    return caught.value.problem.code


def turned(jpeg, orientation):
    """Put an EXIF field with an orientation into a JPEG."""
    tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, orientation) + b"\0\0\0\0"
    field = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(field) + 2) + field + jpeg[2:]


def png(height, width, depth=8, colour=0):
    """Make a PNG that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_pictures_come_back_as_rgb(suffix, tmp_path):
    data = encoded(suffix)
    np.testing.assert_array_equal(images.read_rgb(record(data), "."), RGB)
    (tmp_path / "straße 図").mkdir()
    (tmp_path / "straße 図" / f"é{suffix}").write_bytes(data)
    read = images.read_rgb(record(name=f"straße 図/é{suffix}", size=(H, W)), tmp_path)
    np.testing.assert_array_equal(read, RGB)
    assert read.flags.c_contiguous and read.dtype == np.uint8


def test_names_in_another_composition_or_with_backslashes_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e\u0301.png").write_bytes(encoded(".png"))
    assert images.read_rgb(record(name="sub\\e\u0301.png"), tmp_path).shape == RGB.shape
    assert images.read_rgb(record(name="sub/\u00e9.png"), tmp_path).shape == RGB.shape


def test_names_that_differ_in_case_are_two_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(".png"))
    if not (tmp_path / "A.png").exists():
        assert code(record(name="A.png"), tmp_path) == "image_missing"


def test_grey_alpha_and_palette():
    grey = RGB[:, :, 0]
    np.testing.assert_array_equal(images.read_rgb(record(encoded(".png", grey)), "."), np.dstack([grey] * 3))
    np.testing.assert_array_equal(images.read_rgb(record(encoded(".png", np.dstack([RGB, grey]))), "."), RGB)
    pil = pytest.importorskip("PIL.Image")
    import io

    out = io.BytesIO()
    few = RGB // 64 * 64
    pil.fromarray(few).quantize(64).save(out, "png")
    assert np.abs(images.read_rgb(record(out.getvalue()), ".").astype(int) - few).mean() < 3
    out = io.BytesIO()
    pil.fromarray(RGB).convert("CMYK").save(out, "jpeg", quality=95)
    assert np.abs(images.read_rgb(record(out.getvalue()), ".").astype(int) - RGB).mean() < 12
    out = io.BytesIO()
    frames = [pil.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (250, 10)]
    frames[0].save(out, "gif", save_all=True, append_images=frames[1:])
    assert images.read_rgb(record(out.getvalue()), ".").mean() > 240, "the first frame of several"


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_16_bit_files_are_scaled_by_the_bits_they_use(bits):
    ramp = np.tile(np.linspace(0, 2**bits - 1, 64).astype(np.uint16), (8, 1))
    read = images.read_rgb(record(encoded(".png", ramp)), ".")
    assert read[0, -1].tolist() == [255] * 3 and read[0, 0].tolist() == [0] * 3
    assert np.abs(np.diff(read[0, :, 0].astype(int)) - 255 / 63).max() < 1.5


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_picture_is_never_half_a_picture(suffix, share, tmp_path):
    data = encoded(suffix)
    data = data[: int(len(data) * share)]
    assert code(record(data)) == "image_truncated_or_corrupt"
    (tmp_path / "a.png").write_bytes(data)
    assert code(record(size=(H, W)), tmp_path) == "image_truncated_or_corrupt"


def test_a_truncated_progressive_jpeg_too():
    data = encoded(".jpg", RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert code(record(data[: len(data) // 2])) == "image_truncated_or_corrupt"


def test_a_grey_picture_of_floats_as_microscopes_write_it(tmp_path):
    levels = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    read = images.read_rgb(record(encoded(".tiff", levels)), tmp_path)
    np.testing.assert_array_equal(read, np.repeat(np.rint(levels * 255).astype(np.uint8)[..., None], 3, axis=2))


def test_missing_empty_and_foreign_files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("<html>not found</html>")
    assert code(record(name="no.png"), tmp_path) == "image_missing"
    assert code(record(name=""), tmp_path) == "image_missing"
    assert code(record(name="x\0y.png"), tmp_path) == "image_missing"
    assert code(record(name="x" * 400), tmp_path) == "image_missing"
    assert code(record(name="folder.png"), tmp_path) == "image_missing"
    assert code(record(name="empty.png"), tmp_path) == "image_empty"
    assert code(record(b"")) == "image_empty"
    assert code(record(name="text.png"), tmp_path) == "image_truncated_or_corrupt"


def test_a_record_that_has_a_problem_is_not_read(tmp_path):
    from autopoly.formats.base import outside_root

    one = Record(0, 1, "../a.png", None, (), problem=outside_root("../a.png"))
    assert code(one, tmp_path) == "path_outside_root"


def test_a_size_that_is_not_the_declared_one_is_refused():
    data = encoded(".png")
    assert code(record(data, size=(H, W + 1))) == "image_size_mismatch"
    assert code(record(data, size=(W, H))) == "image_size_mismatch", "nothing says that it is turned"


@pytest.mark.parametrize(
    "huge", [png(60_000, 60_000), png(20_000, 10_001), b"BM" + b"\0" * 12 + struct.pack("<Iii", 40, 50_000, -50_000) + b"\0" * 40]
)
def test_a_bomb_is_refused_before_it_is_decoded(huge):
    assert len(huge) < 200
    assert code(record(huge)) == "image_too_large"


def test_exif_turns_a_picture_where_its_boxes_were_drawn_on_the_turned_one():
    plain = encoded(".jpg", RGB, cv2.IMWRITE_JPEG_QUALITY, 98)
    data = turned(plain, 6)
    stored = images.read_rgb(record(plain), ".")
    clockwise = np.rot90(stored, -1)
    np.testing.assert_array_equal(images.read_rgb(record(data, size=(H, W)), "."), stored)
    np.testing.assert_array_equal(images.read_rgb(record(data, size=(W, H)), "."), clockwise)
    np.testing.assert_array_equal(images.read_rgb(record(data), "."), clockwise)
    assert images.size_of(record(data), ".") == (W, H)
    assert code(record(data, size=(H, W + 3))) == "image_size_mismatch"
    np.testing.assert_array_equal(images.read_rgb(record(turned(plain, 3), size=(H, W)), "."), stored[::-1, ::-1])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tiff", ".ppm", ".jp2"])
def test_the_size_is_known_without_decoding(suffix, tmp_path):
    data = encoded(suffix)
    (tmp_path / "a.png").write_bytes(data)
    assert images.size_of(record(), tmp_path) == images.read_rgb(record(), tmp_path).shape[:2] == (H, W)
    assert (read_header(data) is None) == (suffix in (".ppm", ".jp2"))


def test_webp_without_loss_and_cut_headers():
    assert read_header(encoded(".webp", RGB, cv2.IMWRITE_WEBP_QUALITY, 101)).size == (H, W)
    for suffix in (".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff"):
        for length in range(30):
            header = read_header(encoded(suffix)[:length])
            assert header is None or header.size == (H, W)


def test_no_more_is_asked_of_a_store_than_is_used(monkeypatch):
    asked = []
    data = encoded(".jpg")
    monkeypatch.setattr(ObjectPath, "read_head", lambda path, limit=-1: asked.append(limit) or data)
    assert images.size_of(record(), "s3://bucket/images") == images.read_rgb(record(), "s3://bucket/images").shape[:2] == (H, W)
    assert asked == [images.HEAD, images.LARGEST_FILE + 1]
