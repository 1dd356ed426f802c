"""Malformed Parquet: files, columns, values and claims. Each is refused in one line, or read with its problems."""

import json
import resource

import bad_input
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoly.formats import coco

ROWS = {"file_name": ["a.png", "a.png", "b.png"], "bbox": [[1.0, 1.0, 9.0, 9.0]] * 3, "label": ["cup", "cat", "cup"], "image_id": [1, 1, 2]}


def drive(columns, folder, **options):
    path = folder / "boxes.parquet"
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path)
    return bad_input.drive(path, folder, "parquet", **options)


def own(folder):
    """Write autopoly's own layout, with one annotation of each kind."""
    ring = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
    annotations = [{"id": n, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "iscrowd": 0, "segmentation": [ring]} for n in range(3)]
    annotations[1]["segmentation"] = {"size": [16, 16], "counts": [10, 5, 241]}
    image = {"id": 1, "file_name": "a.png", "height": 16, "width": 16}
    whole = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    (folder / "own.json").write_text(json.dumps(whole))
    bad_input.drive(folder / "own.json", folder)
    return pq.read_table(folder / "driven.parquet")


def test_the_tables_themselves_are_sound(tmp_path):
    assert drive(ROWS, tmp_path).codes == {}
    assert drive(own(tmp_path), tmp_path).codes == {}


# Columns that are put over those of ROWS; the words of the refusal, or the code that every box gets, or None: read as it is.
COLUMNS = {
    "no boxes": ({"bbox": ["x"] * 3}, "no boxes found"),
    "boxes of text": ({"bbox": [["1", "1", "9", "9"]] * 3}, "box_malformed"),
    "boxes of three": ({"bbox": [[1.0, 1.0, 9.0]] * 3}, "box_malformed"),
    "boxes of none": ({"bbox": [[]] * 3}, "box_malformed"),
    "boxes of structs": ({"bbox": [[{"x": 1}]] * 3}, ("box_malformed", "no boxes found", "cannot")),
    "boxes of lists": ({"bbox": [[[1.0], [1.0]]] * 3}, ("box_malformed", "cannot")),
    "boxes of booleans": ({"bbox": [[True] * 4] * 3}, "box_malformed"),
    "boxes null inside": ({"bbox": [[None] * 4] * 3}, ("box_not_finite", "box_malformed")),
    "boxes nan": ({"bbox": [[float("nan")] * 4] * 3}, "box_not_finite"),
    "boxes infinite": ({"bbox": [[1.0, 1.0, float("inf"), 9.0]] * 3}, "box_not_finite"),
    "boxes of decimals": ({"bbox": pa.array([[1, 1, 9, 9]] * 3, pa.list_(pa.decimal128(9, 2)))}, "box_malformed"),
    "boxes of 100,000 numbers": ({"bbox": [[1.0] * 100_000] * 3}, "box_malformed"),
    "labels lists": ({"label": [["cup"]] * 3}, ("cannot", None)),
    "labels structs": ({"label": [{"name": "cup"}] * 3}, ("cannot", None)),
    "labels null": ({"label": pa.nulls(3)}, None),
    "labels bytes": ({"label": [b"\xff\xfe"] * 3}, None),
    "labels dates": ({"label": pa.array([1, 2, 3], pa.timestamp("ns"))}, ("cannot", None)),
    "labels of a megabyte": ({"label": ["c" * 1_000_000] * 3}, None),
    "image ids nan": ({"image_id": [float("nan")] * 3}, None),
    "image ids null": ({"image_id": pa.nulls(3)}, None),
    "image ids bytes": ({"image_id": [b"\xff"] * 3}, None),
    "image ids lists": ({"image_id": [[1]] * 3}, None),
    "names null": ({"file_name": pa.nulls(3)}, None),
    "names numbers": ({"file_name": [1, 2, 3]}, None),
    "names up": ({"file_name": ["../a.png"] * 3}, None),
    "sizes negative": ({"width": [-1] * 3, "height": [-1] * 3}, None),
    "sizes text": ({"width": ["9"] * 3, "height": ["9"] * 3}, None),
    "sizes absurd": ({"width": [2**62] * 3, "height": [2**62] * 3}, None),
    "masks text": ({"segmentation": ["polygon"] * 3}, None),
    "masks absurd": ({"segmentation": [{"size": [10**6, 10**6], "counts": [10**12]}] * 3}, None),
    "crowd as text": ({"iscrowd": ["no"] * 3}, None),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_of_a_wrong_kind(case, tmp_path):
    columns, wanted = COLUMNS[case]
    found = drive(ROWS | columns, tmp_path)
    allowed = wanted if isinstance(wanted, tuple) else (wanted,)
    if isinstance(found, bad_input.Refused):
        assert any(words is not None and words in found for words in allowed), found
        assert len(found) < 600
    else:
        assert sum(len(one.instances) for one in found.records) >= 3
        codes = {one.problem and one.problem.code for record in found.records for one in record.instances}
        assert codes <= set(allowed), codes


def damaged(folder, act):
    path = folder / "boxes.parquet"
    pq.write_table(pa.table(ROWS), path, compression="none", use_dictionary=False)
    path.write_bytes(act(path.read_bytes()))
    return bad_input.drive(path, folder, "parquet")


FILES = {
    "empty": (lambda data: b"", "not a Parquet file"),
    "text": (lambda data: b"a,b\n1,2\n", "not a Parquet file"),
    "magic alone": (lambda data: b"PAR1PAR1", "not a Parquet file"),
    "half": (lambda data: data[: len(data) // 2], "not a Parquet file"),
    "without its end": (lambda data: data[:-1], "not a Parquet file"),
    "footer of 2 GB": (lambda data: data[:-8] + b"\xff\xff\xff\x7f" + data[-4:], "not a Parquet file"),
    "footer of no bytes": (lambda data: data[:-8] + b"\0\0\0\0" + data[-4:], "not a Parquet file"),
    "footer of zeros": (lambda data: data[:-200] + b"\0" * 192 + data[-8:], "not a Parquet file"),
    "encrypted": (lambda data: data[:-4] + b"PARE", "not a Parquet file"),
    "text that is no utf-8": (lambda data: data.replace(b"a.png", b"\xff\xfe\xfd\xfc\xfb"), "cannot"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_is_refused_in_one_line(case, tmp_path):
    act, words = FILES[case]
    said = damaged(tmp_path, act)
    assert isinstance(said, bad_input.Refused)
    assert words in said


def varint(number):
    made = bytearray()
    while number >= 128:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


@pytest.mark.parametrize("claim", [10**9, 10**15, 2**62])
def test_a_declared_row_count_without_rows_costs_nothing(claim, tmp_path):
    count = 12_345
    path = tmp_path / "boxes.parquet"
    pq.write_table(pa.table({name: (values * count)[:count] for name, values in ROWS.items()}), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    told = varint(2 * count)
    assert footer.count(told) >= 2
    changed = footer.replace(told, varint(2 * claim))
    path.write_bytes(data[: -8 - length] + changed + len(changed).to_bytes(4, "little") + data[-4:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = bad_input.drive(path, tmp_path, "parquet")
    assert isinstance(said, bad_input.Refused)
    assert "row group" in said or "damaged" in said or "not a Parquet file" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def test_a_few_bytes_that_stand_for_many_boxes_are_refused(tmp_path):
    path = tmp_path / "boxes.parquet"
    schema = pa.schema([("image_id", pa.int8())])
    with pq.ParquetWriter(path, schema) as writer:
        piece = pa.table([pa.nulls(21_000_000, pa.int8())], schema=schema)
        writer.write_table(piece, row_group_size=21_000_000)
    assert path.stat().st_size < 100_000
    said = bad_input.drive(path, tmp_path, "parquet")
    assert "larger than is read" in said


# Values put into a column of our own layout.
OWN = {
    "extra no json": ("extra", ["{"] * 3),
    "extra a list": ("extra", ["[1]"] * 3),
    "extra nested": ("extra", ["[" * 5000] * 3),
    "extra with an image that is none": ("extra", ['{"_image": 5}'] * 3),
    "extra with an image of a list id": ("extra", ['{"_image": {"id": [1]}}'] * 3),
    "extra with a list as id": ("extra", ['{"id": [1], "category_id": {}}'] * 3),
    "box of three": ("bbox", [[1.0, 2.0, 3.0]] * 3),
    "box of null": ("bbox", [[None] * 4] * 3),
    "box null": ("bbox", [None] * 3),
    "polygons of nothing": ("polygons", [[[]]] * 3),
    "polygons of nulls": ("polygons", [[[None] * 6]] * 3),
    "polygons null inside": ("polygons", [[None]] * 3),
    "polygons nan": ("polygons", [[[float("nan")] * 6]] * 3),
    "polygons infinite": ("polygons", [[[0.0, 0.0, float("inf"), 0.0, 1.0, 1.0]]] * 3),
    "polygons odd": ("polygons", [[[1.0] * 7]] * 3),
    "polygons too long to draw": ("polygons", [[[0.0, 0.0, 9e8, 9e8] * 10_000]] * 3),
    "holes nan": ("holes", [[[float("nan")] * 6]] * 3),
    "holes without exteriors": ("holes", [[[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]] * 3),
    "rle garbage": ("rle", ["????"] * 3),
    "rle of other size": ("height", [999] * 3),
    "size negative": ("height", [-5] * 3),
    "no image id": ("image_id", [None] * 3),
    "no category": ("category_id", [None] * 3),
    "mask source nonsense": ("mask_source", ["\u202enever"] * 3),
    "polygons as text": ("polygons", ["1,2,3"] * 3),
    "extra as numbers": ("extra", [1, 2, 3]),
    "rle as numbers": ("rle", [1, 2, 3]),
}


@pytest.mark.parametrize("case", OWN)
def test_our_own_layout_written_by_others(case, tmp_path):
    name, values = OWN[case]
    table = own(tmp_path)
    kind = table.schema.field(name).type
    try:
        column = pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        column = pa.array(values)
    at = table.schema.get_field_index(name)
    found = drive(table.set_column(at, name, column).replace_schema_metadata(table.schema.metadata), tmp_path)
    if not isinstance(found, bad_input.Refused):
        assert sum(len(one.instances) for one in found.records) == 3


METADATA = {
    "no json": b"{",
    "a list": b"[]",
    "nested": b"[" * 100_000,
    "categories a number": b'{"categories": 5}',
    "categories of texts": b'{"categories": ["cup"]}',
    "category without a name": b'{"categories": [{"id": 1}]}',
    "category with a list as id": b'{"categories": [{"id": [1], "name": "x"}]}',
    "extra a list": b'{"extra": [1]}',
    "bbox nonsense": b'{"bbox": {"a": 1}}',
    "not utf-8": b"\xff\xfe",
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_of_others_does_no_harm(case, tmp_path):
    table = own(tmp_path).replace_schema_metadata({"autopoly": METADATA[case], "huggingface": METADATA[case]})
    found = drive(table, tmp_path)
    assert found.codes == {}
    assert sum(len(one.instances) for one in found.records) == 3


def test_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array([[1.0, 1.0, 9.0, 9.0]])] * 2, names=["bbox", "bbox"])
    assert "one name" in drive(table, tmp_path)


def test_a_damaged_picture_column_is_said(tmp_path):
    path = tmp_path / "boxes.parquet"
    table = pa.table({"image": [b"\xab" * 4000] * 20, "bbox": [[[1.0, 1.0, 9.0, 9.0]]] * 20})
    pq.write_table(table, path, compression="snappy", use_dictionary=False, write_statistics=False)
    data = bytearray(path.read_bytes())
    data[60:200] = b"\xff" * 140
    path.write_bytes(bytes(data))
    said = bad_input.drive(path, tmp_path, "parquet")
    assert isinstance(said, bad_input.Refused)
    assert "damaged" in said


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damaged_file_is_read_or_refused(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    compression = data.draw(st.sampled_from(["none", "zstd"]))
    pq.write_table(pa.table(ROWS), folder / "boxes.parquet", compression=compression)
    whole = (folder / "boxes.parquet").read_bytes()
    (folder / "boxes.parquet").write_bytes(data.draw(bad_input.mutated_bytes(whole)))
    bad_input.drive(folder / "boxes.parquet", folder, "parquet")


def test_coco_reads_what_was_written(tmp_path):
    drive(ROWS, tmp_path)
    assert len(coco.read(tmp_path / "driven.coco").counts) == 2


CASES = {"column": COLUMNS, "file": FILES, "own": OWN, "metadata": METADATA}
