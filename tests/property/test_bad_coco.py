"""Malformed COCO: each case ends in a problem with a code, a counted note, or one line that refuses the file."""

import json
import tracemalloc

import bad_input
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BOX = [10, 10, 20, 20]


def document():
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "iscrowd": 0, "area": 400.0}],
        "categories": [{"id": 1, "name": "cup"}],
    }


def drive(data, folder, **options):
    path = folder / "annotations.json"
    path.write_bytes(data if isinstance(data, bytes) else bad_input.dumps(data).encode())
    return bad_input.drive(path, folder, **options)


def deep(levels):
    return json.loads("[" * levels + "]" * levels)


# Boxes: what stands for bbox, the code it must get.
BOXES = {
    "null": (None, "box_missing"),
    "text": ("10,10,20,20", "box_malformed"),
    "empty text": ("", "box_malformed"),
    "number": (7, "box_malformed"),
    "true": (True, "box_malformed"),
    "object": ({"x": 1, "y": 1, "w": 9, "h": 9}, "box_malformed"),
    "empty": ([], "box_malformed"),
    "three numbers": ([1, 2, 3], "box_malformed"),
    "five numbers": ([1, 2, 3, 4, 5], "box_malformed"),
    "corners as pairs": ([[1, 2], [3, 4]], "box_malformed"),
    "four lists": ([[1], [2], [3], [4]], "box_malformed"),
    "texts": (["1", "2", "3", "4"], "box_malformed"),
    "one text": ([1, 2, 3, "4"], "box_malformed"),
    "booleans": ([True, True, True, True], "box_malformed"),
    "objects": ([{}, {}, {}, {}], "box_malformed"),
    "a million numbers": ([1] * 1_000_000, "box_malformed"),
    "a nested list": (deep(200), "box_malformed"),
    "a text of a megabyte": ("9" * 1_000_000, "box_malformed"),
    "nulls": ([None] * 4, "box_not_finite"),
    "one null": ([1, 2, None, 4], "box_not_finite"),
    "nan": ([1, 2, float("nan"), 4], "box_not_finite"),
    "infinity": ([1, 2, float("inf"), 4], "box_not_finite"),
    "minus infinity": ([float("-inf"), 2, 3, 4], "box_not_finite"),
    "integer of 400 digits": ([1, 2, 10**400, 4], "box_not_finite"),
    "integer of 4299 digits": ([1, 2, 10**4298, 4], "box_not_finite"),
    "float out of range": ([1, 2, 1.7e308, 4], "box_not_finite"),
    "no width": ([10, 10, 0, 20], "box_empty"),
    "no height": ([10, 10, 20, 0], "box_empty"),
    "minus zero": ([10, 10, -0.0, 20], "box_empty"),
    "negative width": ([30, 10, -20, 20], "box_empty"),
    "negative height": ([10, 30, 20, -20], "box_empty"),
    "too small to add up": ([1e18, 10, 1, 20], "box_empty"),
    "all zero": ([0, 0, 0, 0], "box_empty"),
    "right of the picture": ([64, 0, 9, 9], "box_outside_image"),
    "below the picture": ([0, 64, 9, 9], "box_outside_image"),
    "left of the picture": ([-30, 0, 30, 9], "box_outside_image"),
    "above the picture": ([0, -30, 9, 30], "box_outside_image"),
    "a billion px away": ([1e9, 1e9, 5, 5], "box_outside_image"),
    "64-bit limits": ([2**63, 2**63, 2**63, 2**63], "box_outside_image"),
    "fractions": ([0.1, 0.1, 0.5, 0.5], "box_normalised"),
    "fractions of all": ([0.0, 0.0, 0.999, 0.999], "box_normalised"),
}

# Segmentations: none can be used, the field comes back as it was, and the note counts it.
RING = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
SEGMENTATIONS = {
    "text": "polygon",
    "number": 5,
    "true": True,
    "two vertices": [[1, 1, 9, 9]],
    "odd count": [[1, 1, 9, 1, 9, 9, 5]],
    "texts": [["1", "1", "9", "1", "9", "9"]],
    "nulls": [[None] * 6],
    "booleans": [[True] * 6],
    "one huge integer": [[1, 1, 10**400, 1, 9, 9]],
    "one infinity": [[1, 1, 1e999, 1, 9, 9]],
    "a trillion px": [[0, 0, 1e12, 0, 1e12, 1e12]],
    "lists in lists": [[[1, 1], [9, 1], [9, 9]]],
    "empty ring": [[]],
    "ring of objects": [{"x": 1}],
    "nested 250 deep": deep(250),
    "outline too long to draw": [[0.0, 0.0, 9e4, 9e4] * 100 + [0.0, 9.0]],
    "a million far vertices": [[0.0, 0.0, 9e8, 9e8] * 500_000],
    "rle empty": {},
    "rle without counts": {"size": [64, 64]},
    "rle without size": {"counts": [4096]},
    "rle size of one": {"size": [64], "counts": [4096]},
    "rle size of texts": {"size": ["64", "64"], "counts": [4096]},
    "rle size zero": {"size": [0, 0], "counts": []},
    "rle size negative": {"size": [-64, -64], "counts": [4096]},
    "rle size of floats": {"size": [64.0, 64.0], "counts": [4096]},
    "rle size of another picture": {"size": [32, 128], "counts": [4096]},
    "rle size absurd": {"size": [10**6, 10**6], "counts": [10**12]},
    "rle size beyond 64 bits": {"size": [10**30, 10**30], "counts": [10**60]},
    "rle size beyond 32 bits": {"size": [70_000, 70_000], "counts": [4_900_000_000]},
    "rle counts negative": {"size": [64, 64], "counts": [-1, 4097]},
    "rle counts too few": {"size": [64, 64], "counts": [4095]},
    "rle counts too many": {"size": [64, 64], "counts": [4097]},
    "rle counts absurd": {"size": [64, 64], "counts": [10**18, 4096]},
    "rle counts texts": {"size": [64, 64], "counts": ["4096"]},
    "rle counts null": {"size": [64, 64], "counts": None},
    "rle counts number": {"size": [64, 64], "counts": 4096},
    "rle text empty": {"size": [64, 64], "counts": ""},
    "rle text garbage": {"size": [64, 64], "counts": "!!!!"},
    "rle text unfinished": {"size": [64, 64], "counts": "oooo"},
    "rle text not ascii": {"size": [64, 64], "counts": "\u00e9\u00e9"},
    "rle text of a surrogate": {"size": [64, 64], "counts": "\ud800"},
    "rle text with a number of 60 bits": {"size": [64, 64], "counts": "o" * 12 + "0"},
    "rle text for other pixels": {"size": [64, 64], "counts": "11"},
    "rle text of a megabyte": {"size": [64, 64], "counts": "1" * 1_000_000},
}

# Images: what is put over the image's fields (None: taken away), the code the image must get (None: none).
ABSENT = object()
IMAGES = {
    "no name": ({"file_name": ABSENT}, "image_missing"),
    "null name": ({"file_name": None}, "image_missing"),
    "empty name": ({"file_name": ""}, "image_missing"),
    "name is a number": ({"file_name": 5}, "image_missing"),
    "name is a list": ({"file_name": ["a.png"]}, "image_missing"),
    "name is an object": ({"file_name": {"a": 1}}, "image_missing"),
    "name is true": ({"file_name": True}, "image_missing"),
    "up": ({"file_name": "../a.png"}, "path_outside_root"),
    "up and down": ({"file_name": "x/../../a.png"}, "path_outside_root"),
    "up by backslash": ({"file_name": "..\\a.png"}, "path_outside_root"),
    "mixed slashes": ({"file_name": "x\\..\\../../a.png"}, "path_outside_root"),
    "only up": ({"file_name": ".."}, "path_outside_root"),
    "absolute": ({"file_name": "/etc/passwd"}, "path_outside_root"),
    "absolute twice": ({"file_name": "//etc/passwd"}, "path_outside_root"),
    "drive": ({"file_name": "C:\\a.png"}, "path_outside_root"),
    "drive without slash": ({"file_name": "C:a.png"}, "path_outside_root"),
    "network share": ({"file_name": "\\\\host\\share\\a.png"}, "path_outside_root"),
    "sizes as text": ({"height": "64", "width": "64"}, None),
    "sizes as lists": ({"height": [64], "width": [64]}, None),
    "sizes negative": ({"height": -64, "width": -64}, None),
    "sizes zero": ({"height": 0, "width": 0}, None),
    "sizes true": ({"height": True, "width": True}, None),
    "sizes broken": ({"height": 64.5, "width": 64.5}, None),
    "sizes infinite": ({"height": 1e999, "width": 1e999}, None),
    "sizes of 400 digits": ({"height": 10**400, "width": 10**400}, None),
    "sizes of a billion": ({"height": 10**9, "width": 10**9}, None),
    "sizes of 70,000": ({"height": 70_000, "width": 70_000}, None),
    "no sizes": ({"height": ABSENT, "width": ABSENT}, None),
    "one size": ({"width": ABSENT}, None),
}

# Ids: what is changed, the note that must say so.
IDS = {
    "repeated": (lambda d: d["annotations"].append(d["annotations"][0]), "1 annotations repeat the id"),
    "repeated thrice": (lambda d: d["annotations"].extend([d["annotations"][0]] * 3), "3 annotations repeat the id"),
    "repeated as float": (lambda d: d["annotations"].append(d["annotations"][0] | {"id": 1.0}), "1 annotations repeat the id"),
    "absent": (lambda d: d["annotations"][0].pop("id"), "1 annotations have no id"),
    "a list": (lambda d: d["annotations"][0].update(id=[1]), "1 annotations have no id"),
    "an object": (lambda d: d["annotations"][0].update(id={}), "1 annotations have no id"),
    "category absent": (lambda d: d["annotations"][0].pop("category_id"), "categories that the file does not list ((none))"),
    "category a list": (lambda d: d["annotations"][0].update(category_id=[1]), "categories that the file does not list ((none))"),
    "category a text": (lambda d: d["annotations"][0].update(category_id="1"), "categories that the file does not list (1)"),
    "category not listed": (lambda d: d["annotations"][0].update(category_id=99), "1 annotations name categories"),
    "no categories listed": (lambda d: d.pop("categories"), "1 annotations name categories"),
    "category of a megabyte": (lambda d: d["annotations"][0].update(category_id="c" * 10**6), "(ccccccccccc"),
    "image not listed": (lambda d: d["annotations"][0].update(image_id=99), "1 annotations name images"),
    "image absent": (lambda d: d["annotations"][0].pop("image_id"), "1 annotations name images"),
    "image a list": (lambda d: d["annotations"][0].update(image_id=[1]), "1 annotations name images"),
    "image a text": (lambda d: d["annotations"][0].update(image_id="1"), "1 annotations name their image by a text"),
    "image id repeated": (lambda d: d["images"].append(d["images"][0]), "1 images repeat the id"),
    "crowd as text": (lambda d: d["annotations"][0].update(iscrowd="yes"), "1 of 1 annotations are iscrowd 1"),
    "crowd as number": (lambda d: d["annotations"][0].update(iscrowd=7), "1 of 1 annotations are iscrowd 1"),
}

WHOLE = json.dumps(document()).encode()


def swapped(old, new):
    assert WHOLE.count(old) == 1
    return WHOLE.replace(old, new)


# Files: the bytes, the words with which they are refused.
FILES = {
    "empty": (b"", "not valid JSON"),
    "blank": (b" \n ", "not valid JSON"),
    "zero bytes": (b"\0" * 4096, "not valid JSON"),
    "garbage": (bytes(range(256)) * 8, "not valid JSON"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "not valid JSON"),
    "half": (WHOLE[: len(WHOLE) // 2], "not valid JSON"),
    "without its end": (WHOLE[:-1], "not valid JSON"),
    "twice": (WHOLE + WHOLE, "not valid JSON"),
    "a trailing comma": (WHOLE[:-1] + b",}", "not valid JSON"),
    "single quotes": (WHOLE.replace(b'"', b"'"), "not valid JSON"),
    "a comment": (b"// mine\n" + WHOLE, "not valid JSON"),
    "a bad escape": (swapped(b'"cup"', b'"\\q"'), "not valid JSON"),
    "a line end in a text": (swapped(b'"cup"', b'"c\np"'), "not valid JSON"),
    "a number with a leading zero": (swapped(b"400.0", b"0400"), "not valid JSON"),
    "an unfinished number": (swapped(b"400.0", b"4e"), "not valid JSON"),
    "a word": (swapped(b"400.0", b"nix"), "not valid JSON"),
    "not utf-8 in the name of a field": (swapped(b'"images"', b'"\x80mages"'), "not UTF-8 in the name of a field"),
    "not utf-8 in a name": (swapped(b'"cup"', b'"\xff\xfe"'), "not UTF-8 near byte"),
    "not utf-8 in an annotation": (swapped(b"400.0", b'"\xc3("'), "not UTF-8 near byte"),
    "latin-1": (swapped(b'"cup"', '"Stra\u00dfe"'.encode("latin-1")), "not UTF-8 near byte"),
    "cut inside a letter": (WHOLE[:-1] + b',"x":"\xe2\x82"}', "not UTF-8 near byte"),
    "a list": (b"[]", "a bare list"),
    "a list of results": (b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a bare list"),
    "null": (b"null", "not a JSON object"),
    "a number": (b"7", "not a JSON object"),
    "a text": (b'"coco"', "not a JSON object"),
    "an empty object": (b"{}", "no 'images' in it"),
    "without annotations": (b'{"images": []}', "no 'annotations' in it"),
    "without images": (b'{"annotations": []}', "no 'images' in it"),
    "another format": (b'{"type": "FeatureCollection", "features": []}', "no 'images' in it"),
    "images an object": (b'{"images": {}, "annotations": []}', "'images' is not a list"),
    "images null": (b'{"images": null, "annotations": []}', "'images' is not a list"),
    "annotations a text": (b'{"images": [], "annotations": "all"}', "'annotations' is not a list"),
    "annotations a number": (b'{"images": [], "annotations": 7}', "'annotations' is not a list"),
    "image a number": (b'{"images": [1], "annotations": []}', "image at position 0 is not an object"),
    "image null": (b'{"images": [null], "annotations": []}', "image at position 0 is not an object"),
    "annotation a list": (b'{"images": [], "annotations": [[]]}', "annotation at position 0 is not an object"),
    "annotation a text": (b'{"images": [], "annotations": ["a"]}', "annotation at position 0 is not an object"),
    "categories an object": (b'{"images": [], "annotations": [], "categories": {}}', "'categories' is not a list"),
    "category a text": (b'{"images": [], "annotations": [], "categories": ["cup"]}', "category at position 0 has no id"),
    "category without id": (b'{"images": [], "annotations": [], "categories": [{"name": "cup"}]}', "category at position 0 has no id"),
    "category id a list": (b'{"images": [], "annotations": [], "categories": [{"id": []}]}', "category at position 0 has no id"),
    "nested at the top": (WHOLE[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    "nested in an annotation": (swapped(b"400.0", b"[" * 5000 + b"]" * 5000), "nested too deep"),
    "objects nested": (swapped(b"400.0", b'{"a":' * 5000 + b"1" + b"}" * 5000), "nested too deep"),
    "nested to just below the limit": (swapped(b"400.0", b"[" * 900 + b"]" * 900), "nested too deep"),
    "nested and never closed": (WHOLE[:-1] + b',"x":' + b"[" * 100_000, "nested too deep"),
}


def test_the_whole_document_is_sound(tmp_path):
    assert drive(document(), tmp_path).codes == {}
    assert drive(document(), tmp_path).notes == ()


@pytest.mark.parametrize("case", BOXES)
def test_a_bad_box_is_a_problem(case, tmp_path):
    value, code = BOXES[case]
    made = document()
    made["annotations"][0]["bbox"] = value
    found = drive(made, tmp_path)
    assert found.codes == {1: code}
    assert len(found.records[0].instances[0].problem.message) < 300


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_a_bad_mask_is_none_and_counted(case, tmp_path):
    made = document()
    made["annotations"][0]["segmentation"] = SEGMENTATIONS[case]
    found = drive(made, tmp_path)
    assert found.codes == {}
    assert found.records[0].instances[0].mask is None
    assert next(note for note in found.notes if "segmentation that is malformed" in note).startswith("1 annotations")


@pytest.mark.parametrize("case", IMAGES)
def test_a_bad_image_is_a_problem_or_takes_its_size_from_the_picture(case, tmp_path):
    change, code = IMAGES[case]
    made = document()
    made["images"][0] = {key: value for key, value in (made["images"][0] | change).items() if value is not ABSENT}
    (record,) = drive(made, tmp_path).records
    assert (record.problem and record.problem.code) == code
    assert record.size is None or code is not None


@pytest.mark.parametrize("case", IDS)
def test_odd_ids_are_noted_once_with_a_count(case, tmp_path):
    change, note = IDS[case]
    made = document()
    change(made)
    found = drive(made, tmp_path)
    assert sum(note in one for one in found.notes) == 1
    assert max(map(len, found.notes)) < 400
    assert len(found.records[0].instances) + len(found.records[-1].instances) >= 1


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_refused_in_one_line(case, tmp_path):
    data, words = FILES[case]
    said = drive(data, tmp_path)
    assert isinstance(said, bad_input.Refused)
    assert words in said
    assert len(said) < 500


def test_an_integer_python_would_not_write_is_null(tmp_path):
    for old in (b'"id": 1, "image_id"', b"400.0"):
        data = swapped(old, old.replace(b"1", b"9" * 5000, 1) if b"id" in old else b"9" * 5000)
        assert len(drive(data, tmp_path).records[0].instances) == 1


def test_bombs_of_runs_and_vertices_take_no_memory(tmp_path):
    made = document()
    bombs = [
        {"size": [60_000, 60_000], "counts": [0, 3_600_000_000]},
        {"size": [1_000_000, 4_000], "counts": [2_000_000_000, 2_000_000_000]},
        [[0.0, 0.0, 9e8, 9e8] * 50_000],
        [[v for x in range(100_000) for v in (x % 64, x // 1600)]],
    ]
    del made["images"][0]["height"]
    made["annotations"] = [made["annotations"][0] | {"id": n, "segmentation": one} for n, one in enumerate(bombs)]
    tracemalloc.start()
    try:
        found = drive(made, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [one.mask is None for one in found.records[0].instances] == [False, False, True, False]
    assert peak < 400e6


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_mutated_document_is_read_or_refused(data, tmp_path_factory):
    tree = document()
    tree["annotations"].append(tree["annotations"][0] | {"id": 2, "segmentation": [RING], "score": 0.5})
    tree["annotations"].append(tree["annotations"][0] | {"id": 3, "segmentation": {"size": [64, 64], "counts": [10, 20, 4066]}})
    drive(data.draw(bad_input.mutated_trees(tree)), tmp_path_factory.mktemp("mutated"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damaged_file_is_read_or_refused(data, tmp_path_factory):
    drive(data.draw(bad_input.mutated_bytes(WHOLE)), tmp_path_factory.mktemp("damaged"))


def test_the_written_result_is_json(tmp_path):
    made = document()
    made["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]
    drive(made, tmp_path)
    assert msgspec.json.decode((tmp_path / "driven.coco").read_bytes())["annotations"][0]["bbox"][2] is None


CASES = {"box": BOXES, "mask": SEGMENTATIONS, "image": IMAGES, "ids": IDS, "file": FILES}
