"""Malformed KITTI, Cityscapes, ADE20K, Rooftop and KITTI with masks: rows and objects are problems, files are refused in one line."""

import json
import os
import struct
import zlib

import bad_input
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

PICTURE = cv2.imencode(".png", np.full((24, 32, 3), 90, np.uint8))[1].tobytes()


def place(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
    return folder


def refused(found, words):
    assert isinstance(found, bad_input.Refused), found
    assert words in found
    assert len(found) < 600


# --- KITTI: a row, the code it gets (None: a box like any other).
ROW = "Car 0.00 0 -1.57 5.00 5.00 20.00 15.00 1.5 1.6 4.0 1.0 1.5 9.0 -1.5"
KITTI = {
    "one word": ("Car", "row_malformed"),
    "no corners": ("Car 0.00 0 -1.57", "row_malformed"),
    "three corners": ("Car 0.00 0 -1.57 5 5 20", "row_malformed"),
    "a corner is a word": (ROW.replace("20.00", "wide"), "row_malformed"),
    "a corner is nan": (ROW.replace("20.00", "nan"), "row_malformed"),
    "a corner is infinite": (ROW.replace("20.00", "inf"), "row_malformed"),
    "a corner is out of range": (ROW.replace("20.00", "1e999"), "row_malformed"),
    "decimal commas": (ROW.replace(".", ","), "row_malformed"),
    "commas between": (ROW.replace(" ", ","), "row_malformed"),
    "a zero byte": ("\0", "row_malformed"),
    "an escape sequence": ("\x1b[2J", "row_malformed"),
    "no utf-8": ("\udcff\udcfe\udcfd", "row_malformed"),
    "a word of a megabyte": ("x" * 1_000_000, "row_malformed"),
    "corners swapped": (ROW.replace("20.00", "2.00"), "box_empty"),
    "outside": (ROW.replace("5.00 5.00 20.00 15.00", "100 100 120 120"), "box_outside_image"),
    "fractions": (ROW.replace("5.00 5.00 20.00 15.00", "0.1 0.1 0.6 0.6"), "box_normalised"),
    "larger than any picture": (ROW.replace("20.00", "1e300"), "box_not_finite"),
    "20 columns": (ROW + " 0.9 1 2 3 4", None),
    "a score that is none": (ROW + " high", None),
}


def kitti(folder, text):
    return place(folder, {"label_2/000.txt": text, "image_2/000.png": PICTURE})


@pytest.mark.parametrize("case", KITTI)
def test_a_bad_row_is_a_problem_and_the_next_one_is_read(case, tmp_path):
    row, code = KITTI[case]
    found = bad_input.drive(kitti(tmp_path, f"{row}\n{ROW}\n"), tmp_path, "kitti")
    assert [one.problem and one.problem.code for one in found.records[0].instances] == [code, None]


def test_kitti_labels_that_are_no_files(tmp_path):
    kitti(tmp_path, ROW)
    os.mkfifo(tmp_path / "label_2/001.txt")
    refused(bad_input.drive(tmp_path, tmp_path, "kitti"), "no regular file")
    (tmp_path / "label_2/001.txt").unlink()
    (tmp_path / "label_2/001.txt").mkdir()
    refused(bad_input.drive(tmp_path, tmp_path, "kitti"), "no regular file")


# --- Cityscapes: the text of a file, the words of the refusal.
STREET = {"imgHeight": 24, "imgWidth": 32, "objects": [{"label": "car", "polygon": [[2, 2], [12, 2], [12, 12]]}]}


def street(**changes):
    return json.dumps(STREET | changes)


def labelled(polygon):
    return street(objects=[{"label": "car", "polygon": polygon}])


CITYSCAPES = {
    "empty": ("", "not a file of Cityscapes"),
    "a list": ("[]", "not a file of Cityscapes"),
    "null": ("null", "not a file of Cityscapes"),
    "no sizes": ('{"objects": []}', "not a file of Cityscapes"),
    "no objects": ('{"imgHeight": 24, "imgWidth": 32}', "not a file of Cityscapes"),
    "objects null": (street(objects=None), "not a file of Cityscapes"),
    "object a text": (street(objects=["car"]), "not a file of Cityscapes"),
    "object without label": (street(objects=[{"polygon": []}]), "not a file of Cityscapes"),
    "label a number": (street(objects=[{"label": 5, "polygon": [[1, 1], [2, 2], [3, 1]]}]), "not a file of Cityscapes"),
    "polygon a text": (labelled("1,1"), "not a file of Cityscapes"),
    "polygon flat": (labelled([1, 1, 2, 2]), "not a file of Cityscapes"),
    "polygon of three": (labelled([[1, 1, 1]]), "not a file of Cityscapes"),
    "polygon ragged": (labelled([[1, 1], [2]]), "not a file of Cityscapes"),
    "polygon null": (labelled([[None, 1], [2, 2], [3, 1]]), "not a file of Cityscapes"),
    "polygon nan": (labelled([[float("nan"), 1], [2, 2], [3, 1]]), "not a file of Cityscapes"),
    "polygon of 400 digits": (labelled([[10**400, 1], [2, 2], [3, 1]]), "not a file of Cityscapes"),
    "sizes text": (street(imgHeight="24"), "are no size of a picture"),
    "sizes zero": (street(imgHeight=0), "are no size of a picture"),
    "sizes of 60000": (street(imgHeight=60_000, imgWidth=60_000), "are no size of a picture"),
    "sizes of 10^9": (street(imgHeight=10**9, imgWidth=10**9), "are no size of a picture"),
    "nested": ("[" * 100_000, "not a file of Cityscapes"),
}


def cityscapes(folder, text):
    return place(folder, {"gtFine/train/a/a_1_gtFine_polygons.json": text, "leftImg8bit/train/a/a_1_leftImg8bit.png": PICTURE})


@pytest.mark.parametrize("case", CITYSCAPES)
def test_a_bad_file_of_cityscapes_is_named(case, tmp_path):
    text, words = CITYSCAPES[case]
    said = bad_input.drive(cityscapes(tmp_path, text), tmp_path, "cityscapes")
    refused(said, words)
    assert "a_1_gtFine_polygons.json" in said


def test_a_far_polygon_of_cityscapes_is_drawn_without_harm(tmp_path):
    found = bad_input.drive(cityscapes(tmp_path, labelled([[-1e18, -1e18], [1e18, -1e18], [1e18, 1e18]])), tmp_path, "cityscapes")
    assert len(found.records[0].instances) == 1


# --- ADE20K: what changes of an annotation, the words of the refusal or the code of its object.
ROOM = {"filename": "ADE_1.jpg", "imsize": [24, 32, 3], "object": [{"name": "wall", "name_ndx": 7, "instance_mask": "ADE_1/i.png"}]}


def thing(**changes):
    return {"object": [ROOM["object"][0] | changes]}


ADE20K = {
    "no objects": ({"object": None}, "not an annotation of ADE20K"),
    "object a number": ({"object": 5}, "not an annotation of ADE20K"),
    "object a text": ({"object": ["wall"]}, "not an annotation of ADE20K"),
    "object without a name": (thing(name=None), "not an annotation of ADE20K"),
    "object of no index": (thing(name_ndx="7"), "not an annotation of ADE20K"),
    "mask not there": (thing(instance_mask="ADE_1/none.png"), "mask_missing"),
    "mask null": (thing(instance_mask=None), "mask_missing"),
    "mask a list": (thing(instance_mask=["a"]), "mask_missing"),
    "mask up": (thing(instance_mask="../../secret.png"), "mask_missing"),
    "mask absolute": (thing(instance_mask="/etc/passwd"), "mask_missing"),
    "mask with a zero byte": (thing(instance_mask="ADE_1/i.png\0"), "mask_missing"),
    "mask a folder": (thing(instance_mask="ADE_1"), "mask_missing"),
    "mask no picture": (thing(instance_mask="ADE_1/text.png"), "mask_unreadable"),
    "mask a bomb": (thing(instance_mask="ADE_1/bomb.png"), "mask_unreadable"),
    "mask of another size": (thing(instance_mask="ADE_1/small.png"), "mask_size_mismatch"),
    "mask empty": (thing(instance_mask="ADE_1/black.png"), "object_hidden"),
    "picture up": ({"filename": "../../secret.jpg"}, None),
    "picture absolute": ({"filename": "/etc/passwd"}, None),
    "picture with a zero byte": ({"filename": "a\0.jpg"}, None),
    "picture a list": ({"filename": ["a.jpg"]}, None),
    "size text": ({"imsize": "24"}, None),
    "size of one": ({"imsize": [24]}, None),
}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0" * 9999))
)


def levels(shape, value):
    return cv2.imencode(".png", np.full(shape, value, np.uint8))[1].tobytes()


def ade20k(folder, annotation):
    masks = {"i": levels((24, 32), 255), "small": levels((4, 4), 255), "black": levels((24, 32), 0), "bomb": BOMB, "text": b"no picture"}
    files = {f"room/ADE_1/{name}.png": data for name, data in masks.items()}
    whole = json.dumps({"annotation": annotation})
    return place(
        folder, files | {"room/ADE_1.json": whole, "room/ADE_1.jpg": PICTURE, "secret.jpg": PICTURE, "secret.png": levels((24, 32), 255)}
    )


@pytest.mark.parametrize("case", ADE20K)
def test_a_bad_annotation_of_ade20k(case, tmp_path):
    changes, wanted = ADE20K[case]
    found = bad_input.drive(ade20k(tmp_path, ROOM | changes), tmp_path, "ade20k")
    if wanted is not None and " " in wanted:
        refused(found, wanted)
    else:
        (record,) = found.records
        assert record.file_name == "room/ADE_1.jpg"
        assert (record.instances[0].problem and record.instances[0].problem.code) == wanted


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"annotation": []}', '{"annotation": {"object": {}}}', "\udcff", "[" * 100_000])
def test_a_file_that_is_no_annotation_of_ade20k(text, tmp_path):
    refused(bad_input.drive(place(tmp_path, {"room/ADE_1.json": text}), tmp_path, "ade20k"), "not an annotation of ADE20K")


# --- Rooftop: a .mat file or what is put into its cell, the words of the refusal or the code of its outline.
def cell(*outlines):
    made = np.empty((1, len(outlines)), dtype=object)
    for at, one in enumerate(outlines):
        made[0, at] = one
    return made


RING = np.array([[2.0, 2.0], [12.0, 2.0], [12.0, 12.0]])
ROOFTOP = {
    "empty": (b"", "no cell 'gt'"),
    "text": (b"gt = {}", "no cell 'gt'"),
    "zeros": (b"\0" * 500, "no cell 'gt'"),
    "the newer kind": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\x02IM" + b"\x89HDF", "no cell 'gt'"),
    "other name": ({"truth": cell(RING)}, "no cell 'gt'"),
    "outlines of three": ({"gt": cell(np.ones((4, 3)))}, "no cell 'gt'"),
    "outlines of text": ({"gt": cell("roof")}, "no cell 'gt'"),
    "outlines of cells": ({"gt": cell(cell(RING))}, "no cell 'gt'"),
    "two corners": ({"gt": cell(RING[:2])}, "outline_malformed"),
    "no corners": ({"gt": cell(np.zeros((0, 2)))}, "outline_malformed"),
    "nan": ({"gt": cell(RING * np.nan)}, "outline_malformed"),
    "infinite": ({"gt": cell(RING * np.inf)}, "outline_malformed"),
    "a trillion px": ({"gt": cell(RING * 1e12)}, "outline_malformed"),
    "too long to draw": ({"gt": cell(np.tile([[0.0, 0.0], [9e8, 9e8]], (5000, 1)))}, "outline_malformed"),
}


def rooftop(folder, data):
    place(folder, {"IMG_1.JPG": PICTURE})
    if isinstance(data, bytes):
        (folder / "IMG_1.mat").write_bytes(data)
    else:
        savemat(folder / "IMG_1.mat", data)
    return folder


@pytest.mark.parametrize("case", ROOFTOP)
def test_a_bad_file_of_rooftop(case, tmp_path):
    data, wanted = ROOFTOP[case]
    found = bad_input.drive(rooftop(tmp_path, data), tmp_path, "rooftop")
    if " " in wanted:
        refused(found, wanted)
    else:
        assert found.records[0].instances[0].problem.code == wanted


def test_a_large_file_is_none_of_rooftop(tmp_path):
    rooftop(tmp_path, {"gt": cell(RING)})
    with (tmp_path / "IMG_1.mat").open("r+b") as stream:
        stream.truncate(1 << 40)
    refused(bad_input.drive(tmp_path, tmp_path, "rooftop"), "too many for outlines")


# --- KITTI with masks: the bytes of a mask, the words of the refusal.
MASKS = {
    "empty": (b"", "no picture of labels"),
    "text": (b"no picture", "no picture of labels"),
    "cut": (levels((24, 32), 3)[:40], "no picture of labels"),
    "a bomb": (BOMB, "more than are decoded"),
    "floats": (cv2.imencode(".tif", np.ones((24, 32), np.float32))[1].tobytes(), "no picture of labels"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_bad_mask_of_kitti_is_named(case, tmp_path):
    data, words = MASKS[case]
    said = bad_input.drive(place(tmp_path, {"image_2/0.png": PICTURE, "instance/0.png": data}), tmp_path, "kitti_instances")
    refused(said, words)


# --- Damage of any kind.
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_damaged_mat_file_is_read_or_refused(data, tmp_path_factory):
    folder = rooftop(tmp_path_factory.mktemp("mat"), {"gt": cell(RING, RING + 3)})
    whole = (folder / "IMG_1.mat").read_bytes()
    (folder / "IMG_1.mat").write_bytes(data.draw(bad_input.mutated_bytes(whole)))
    bad_input.drive(folder, folder, "rooftop")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_mutated_annotation_is_read_or_refused(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    if data.draw(st.booleans()):
        bad_input.drive(ade20k(folder, data.draw(bad_input.mutated_trees(ROOM))), folder, "ade20k")
    else:
        bad_input.drive(cityscapes(folder, json.dumps(data.draw(bad_input.mutated_trees(STREET)))), folder, "cityscapes")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_damaged_label_is_read(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    place(folder, {"label_2/000.txt": data.draw(bad_input.mutated_bytes(f"{ROW}\n{ROW}\n".encode())), "image_2/000.png": PICTURE})
    bad_input.drive(folder, folder, "kitti")


CASES = {"kitti": KITTI, "cityscapes": CITYSCAPES, "ade20k": ADE20K, "rooftop": ROOFTOP, "masks": MASKS}
