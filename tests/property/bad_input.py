"""What the tests of malformed input share: drive a reader to its end, and ways to damage a file that is whole."""

from __future__ import annotations

import copy
import json
import math
from typing import NamedTuple

from hypothesis import strategies as st

from autopoly.errors import AutopolyError
from autopoly.formats import FORMATS

LONGEST = 3000
"""Characters of a message, at most: a name of a megabyte must not fill the screen."""


class Refused(str):
    """The one line with which a source was refused as a whole."""


class Held(NamedTuple):
    """What was read: the records, the codes of their problems by annotation id or (images) file name, and the notes."""

    records: list
    codes: dict
    notes: tuple


def line(error):
    """Give the message of an error after holding it to its promise: one line, with an end."""
    text = str(error)
    assert text.strip()
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def drive(path, out, name="coco", **options):
    """Read every record of a source and write it in both formats, as a conversion does; give what was read, or how it was refused."""
    try:
        dataset = FORMATS[name].read(path, **options)
        records = [dataset.record(number) for number in range(len(dataset.counts))]
        assert [len(one.instances) for one in records] == dataset.counts.tolist()
        for form in ("coco", "parquet"):
            FORMATS[form].write(dataset.header, iter(records), out / f"driven.{form}")
    except AutopolyError as error:
        return Refused(line(error))
    # The source's own folder of pictures is not needed: only that what was written can be read again.
    again = FORMATS["coco"].read(out / "driven.coco")
    assert sum(again.counts) == sum(dataset.counts)
    codes = {}
    for record in records:
        if record.problem is not None:
            codes[record.file_name] = record.problem.code
        codes |= {one.instance_id: one.problem.code for one in record.instances if one.problem is not None}
    assert all(isinstance(code, str) and code.replace("_", "").isalnum() for code in codes.values())
    return Held(records, codes, dataset.header.notes)


EXTREMES = [
    None, True, False, 0, -1, 1.5, -0.0, 1e308, -1e308, 1 << 31, 1 << 63, 10**30, 10**400, "", "7", "NaN", "../../x", "/etc/passwd", "a\0b",
    "x" * 10_000, "\ud800", [], [[]], [1], {}, {"": None}, [None] * 4, [1, 2, 3, "4"], [[0, 0, 9, 9, 0]], {"size": [1, 1], "counts": "?"},
]  # fmt: skip


def paths_of(value, at=()):
    """List where every value of a tree of JSON is."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths_of(child, (*at, key))


@st.composite
def mutated_trees(draw, tree):
    """Give a copy of a tree of JSON with one to three values swapped for an extreme one, moved, doubled or left out."""
    made = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = [at for at in paths_of(made) if at]
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        holder = made
        for step in way:
            holder = holder[step]
        act = draw(st.sampled_from(["swap", "swap", "delete", "double", "wrap"]))
        if act == "swap":
            holder[last] = copy.deepcopy(draw(st.sampled_from(EXTREMES)))
        elif act == "delete":
            del holder[last]
        elif act == "wrap":
            holder[last] = [holder[last]]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder[f"{last}_2"] = copy.deepcopy(holder[last])
    return made


@st.composite
def mutated_bytes(draw, data):
    """Give a file cut short, with bytes changed, removed or repeated."""
    act = draw(st.sampled_from(["cut", "flip", "flip", "drop", "repeat"]))
    at = draw(st.integers(0, len(data) - 1))
    if act == "cut":
        return data[:at]
    if act == "flip":
        made = bytearray(data)
        for _ in range(draw(st.integers(1, 8))):
            made[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        return bytes(made)
    length = draw(st.integers(1, 64))
    return data[:at] + data[at + length :] if act == "drop" else data[: at + length] + data[at:]


def dumps(tree):
    """Write JSON as Python does, with NaN and escaped surrogates, and integers of any length."""
    return json.dumps(tree)


def inf(tree):
    """Say whether a tree holds a number that is not finite."""
    return any(isinstance(one, float) and not math.isfinite(one) for one in tree)
