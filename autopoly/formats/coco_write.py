"""Write COCO: as a stream, annotations in the order of their source, the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autopoly.formats.annotation import annotation_of, image_of
from autopoly.formats.base import committed, encode_json
from autopoly.formats.spool import Spool
from autopoly.types import Header, Record


def write(header: Header, records: Iterator[Record], path: Path) -> None:
    """Write one COCO file, one image or annotation a line; it appears whole or not at all.

    Records may come in any order of their annotations (official files are not grouped by image): ``Instance.ordinal`` puts them back.
    Images that the source did not list are not listed here either.
    """
    with committed(path) as temporary, Spool(temporary.with_suffix(".spool")) as spool, temporary.open("wb") as out:
        out.write(b"{")
        for name, value in header.extra.items():
            out.write(encode_json(name) + b":" + encode_json(value) + b",\n")
        out.write(b'"images":[')
        separator = b"\n"
        for record in records:
            if record.listed:
                out.write(separator + encode_json(image_of(record)))
                separator = b",\n"
            for instance in record.instances:
                spool.add(instance.ordinal, encode_json(annotation_of(instance, record)))
        out.write(b'],\n"annotations":[')
        separator = b"\n"
        for piece in spool.in_order():
            out.write(separator + piece)
            separator = b",\n"
        categories = [{"id": one.category_id, "name": one.name, **one.extra} for one in header.categories]
        out.write(b'],\n"categories":' + encode_json(categories) + b"}\n")
