"""Write Parquet: one row a box, readable by pyarrow, polars, duckdb and datasets as it is.

==============  ==================  ================================================================================================
column          type                meaning
==============  ==================  ================================================================================================
image_id        int64, or string    as in the source, or a free one; text where any id of the file is text
file_name       string              relative to the image folder; null for an image that the source does not list
width, height   int32               px; null where unknown
annotation_id   int64, or string    as in the source; null in the one row that an image without boxes has
category_id     int64, or string    as in the source
category        string              its name
bbox            list<double>        x1, y1, x2, y2 in image px: the source's box (the polygon's is ``bbox_tight`` in ``extra``)
polygons        list<list<double>>  exteriors as x, y, x, y, ...; [] for no polygon, null where the mask is an RLE or there is none
holes           list<list<double>>  holes of these polygons, in the same form
rle             string              COCO's compressed counts for (height, width), where there are holes or the source had RLE
area            double              pixels of the mask
score           double              the source's own, else the network's estimate of the polygon's IoU
mask_source     string              predicted, kept or none; null for what no run has touched (crowd regions)
extra           string              JSON: the annotation's other fields; in an image's first row also the image's, under ``_image``
==============  ==================  ================================================================================================

Rows come image by image. The schema's metadata (key ``autopoly``) names the box convention and holds the categories and the source's other
fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from autopoly.formats.annotation import annotation_of, image_of
from autopoly.formats.base import committed, encode_json, is_id, is_number, read_box, size_from
from autopoly.formats.parquet_row import annotation_from, image_from
from autopoly.formats.segmentation import flat
from autopoly.types import Header, Instance, Record

BATCH = 8192
LONGEST_NAME = 4096
"""Characters, more than a path may have."""
IDS = ("image_id", "annotation_id", "category_id")
NESTED = pa.list_(pa.list_(pa.float64()))
TYPES: dict[str, pa.DataType] = {
    "image_id": pa.string(),
    "file_name": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "annotation_id": pa.string(),
    "category_id": pa.string(),
    "category": pa.string(),
    "bbox": pa.list_(pa.float64()),
    "polygons": NESTED,
    "holes": NESTED,
    "rle": pa.string(),
    "area": pa.float64(),
    "score": pa.float64(),
    "mask_source": pa.string(),
    "extra": pa.string(),
}


def write(header: Header, records: Iterator[Record], path: Path) -> None:
    """Write one Parquet file, images in the order they come; it appears whole or not at all, in bounded memory."""
    names = {one.category_id: one.name for one in header.categories}
    spooled = pa.schema(list(TYPES.items()))
    whole = dict.fromkeys(IDS, True)
    with committed(path) as temporary:
        spool = temporary.with_suffix(".spool")
        try:
            # Whether ids fit int64 is known at the end only: rows wait in an Arrow file, ids as text.
            with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_file(sink, spooled) as out:
                batch: list[dict[str, Any]] = []
                for record in records:
                    batch += _rows(record, names, whole)
                    if len(batch) >= BATCH:
                        out.write_batch(pa.RecordBatch.from_pylist(batch, schema=spooled))
                        batch = []
                out.write_batch(pa.RecordBatch.from_pylist(batch, schema=spooled))
            types = TYPES | {name: pa.int64() for name in IDS if whole[name]}
            schema = pa.schema(list(types.items()), metadata={"autopoly": _metadata(header)})
            with pa.memory_map(str(spool)) as source, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                reader = pa.ipc.open_file(source)
                for number in range(reader.num_record_batches):
                    rows = reader.get_batch(number)
                    columns = [rows.column(name).cast(kind) for name, kind in types.items()]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        finally:
            spool.unlink(missing_ok=True)


def _metadata(header: Header) -> bytes:
    categories = [{"id": one.category_id, "name": one.name, **one.extra} for one in header.categories]
    return encode_json({"layout": 1, "bbox": "xyxy", "categories": categories, "extra": dict(header.extra)})


def _rows(record: Record, names: dict[Any, str], whole: dict[str, bool]) -> list[dict[str, Any]]:
    """Give the rows of an image, at least one."""
    image = image_of(record)
    size = size_from(image.get("height"), image.get("width"))
    shared: dict[str, Any] = {
        "image_id": record.image_id,
        # A name no file can have would fill every row; the whole of it is in the first row's ``extra``.
        "file_name": _text(record.file_name[:LONGEST_NAME]) if record.listed else None,
        "height": None if size is None else size[0],
        "width": None if size is None else size[1],
    }
    rest = _rest(image, image_from(shared)) if record.listed else None
    rows = []
    for number, instance in enumerate(record.instances or (None,)):
        row = shared.copy()
        extra: dict[str, Any] = {}
        if instance is not None:
            own, extra = _columns(instance, record, shared)
            row |= own
            row["category"] = _text(names[row["category_id"]][:LONGEST_NAME]) if row["category_id"] in names else None
            if all(row[name] is None for name in ("annotation_id", "bbox", "category_id")):
                row["category"] = ""  # Or the row would stand for an image without boxes.
        if number == 0 and rest != {}:
            extra["_image"] = rest
        row["extra"] = encode_json(dict(sorted(extra.items()))).decode()
        for name in IDS:
            value = row.get(name)
            if value is not None:
                whole[name] &= isinstance(value, int) and -(1 << 63) <= value < 1 << 63
                row[name] = _text(str(value))
        rows.append(row)
    return rows


def _columns(instance: Instance, record: Record, shared: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put a COCO annotation into columns, and what they do not give back into ``extra``."""
    annotation = annotation_of(instance, record)
    box = read_box(annotation.get("bbox"), None, "xywh")[0]
    row: dict[str, Any] = {
        "annotation_id": annotation["id"] if is_id(annotation.get("id")) else None,
        "category_id": annotation["category_id"] if is_id(annotation.get("category_id")) else None,
        "bbox": None if (box != box).any() else box.tolist(),
    }
    for name in ("area", "score"):
        row[name] = float(annotation[name]) if is_number(annotation.get(name)) and abs(annotation[name]) < 1e300 else None
    row["mask_source"] = annotation["mask_source"] if isinstance(annotation.get("mask_source"), str) else None
    outline = annotation.get("segmentation")
    if isinstance(instance.mask, tuple) and instance.mask_source != "none":
        decimals = 2 if instance.mask_source == "predicted" else None
        row["polygons"] = [flat(polygon.exterior, decimals) for polygon in instance.mask]
        row["holes"] = [flat(hole, decimals) for polygon in instance.mask for hole in polygon.holes]
    elif outline == []:
        row["polygons"] = row["holes"] = []
    if isinstance(outline, dict) and isinstance(outline.get("counts"), str) and outline["counts"].isascii():
        row["rle"] = outline["counts"]
    return row, _rest(annotation, annotation_from(shared | row))


def _rest(fields: dict[str, Any], given_back: dict[str, Any]) -> dict[str, Any]:
    """Give the fields that columns do not give back; ids must keep their type, other numbers their value."""
    missing = object()
    rest = {}
    for name, value in fields.items():
        other = given_back.get(name, missing)
        if other != value or isinstance(value, bool) or (name == "id" and type(other) is not type(value)):
            rest[name] = value
    # A column may give back a field that the source does not have; null says so.
    return rest | {name: None for name in given_back if name not in fields}


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
