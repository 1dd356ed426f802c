"""COCO: one JSON file, or a folder with ``annotations.json`` and ``images/``.

A million annotations open in about a second: the file is cut into one undecoded piece of JSON per image and annotation, of which only the
ids are looked at; a record is decoded when it is asked for. Whatever a field means, it is kept and written back.
"""

from __future__ import annotations

import codecs
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from autopoly.errors import DataError, Problem, plain_line
from autopoly.formats.annotation import instance_of, with_note
from autopoly.formats.base import (
    check_bbox_format,
    decode_json,
    encode_json,
    guess_convention,
    id_of,
    is_number,
    loads,
    outside_root,
    picture_root,
    read_bytes,
    size_from,
)
from autopoly.formats.coco_write import write
from autopoly.types import Category, Header, Id, Record

__all__ = ["CocoDataset", "matches", "read", "write"]

SAMPLE = 500
"""Annotations looked at when the file is opened, to notice boxes that are xyxy."""
HEADROOM = 300
"""Calls that may lie deeper than ours when a piece is decoded or encoded later: what is nested too deep for that is refused at once."""
PIECE = 1 << 24


class _ImageKey(msgspec.Struct, gc=False):
    id: int | float | str | None = None
    file_name: str | None = None


class _AnnotationKey(msgspec.Struct, gc=False):
    id: int | float | str | None = None
    image_id: int | float | str | None = None
    category_id: int | float | str | None = None
    iscrowd: int | float | str | None = 0


def matches(path: Path) -> bool:
    """Say whether a path looks like COCO: a ``.json`` file, or a folder with ``annotations.json``; never raise."""
    return (path / "annotations.json").is_file() if path.is_dir() else path.suffix.lower() == ".json"


def read(path: Path, *, images: Path | None = None, bbox_format: str | None = None) -> CocoDataset:
    """Open a COCO file or folder; raise DataError, with the place, for what is not COCO.

    ``bbox_format`` xyxy reads boxes as two corners, for files that do not keep to COCO's xywh.
    """
    check_bbox_format(bbox_format)
    file = path / "annotations.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise DataError(f"{path}: no annotations.json in this folder; name the .json file itself")
    with _collector_off():
        return CocoDataset(file, images, bbox_format)


class CocoDataset:
    """Records of a COCO file: the images in their order, then one for each image that annotations name and the file does not list."""

    def __init__(self, file: Path, images: Path | None, bbox_format: str | None) -> None:
        """Find out which annotations belong to which image; raise DataError for what is not COCO."""
        self._file = file
        self.files: Sequence[Path] = (file,)
        tables, notes = _split(file)
        self._images, self._annotations = tables.pop("images"), tables.pop("annotations")
        image_keys = _keys(file, "images", self._images, _ImageKey)
        keys = _keys(file, "annotations", self._annotations, _AnnotationKey)
        place: dict[Any, int] = {}
        for position, key in enumerate(image_keys):
            place.setdefault(key.id, position)
        if repeated := len(image_keys) - len(place):
            notes.append(f"{repeated} images repeat the id of an earlier one; annotations belong to the first")
        self._unlisted: list[Any] = []
        owners = np.empty(len(keys), dtype=np.int64)
        # Some tools write "7" where the image says 7.
        texts = {str(one): at for one, at in place.items() if one is not None} if any(key.image_id not in place for key in keys) else {}
        otherwise = 0
        for position, image_id in enumerate([key.image_id for key in keys]):
            owner = place.get(image_id)
            if owner is None and image_id is not None and (owner := texts.get(str(image_id))) is not None:
                otherwise += 1
            if owner is None or image_id is None:
                owner = place[image_id] = len(self._images) + len(self._unlisted)
                self._unlisted.append(image_id)
            owners[position] = owner
        if otherwise:
            notes.append(
                f"{otherwise} annotations name their image by a text where it has a number, or the other way round: taken as the same"
            )
        if self._unlisted:
            lost = int((owners >= len(self._images)).sum())
            notes.append(f"{lost} annotations name images that the file does not list ({_some(self._unlisted)})")
        self._order = np.argsort(owners, kind="stable")
        self.counts = np.bincount(owners, minlength=len(self._images) + len(self._unlisted)).astype(np.int64)
        self._stops = np.cumsum(self.counts)
        self._convention = bbox_format or "xywh"
        first = image_keys[0].file_name if image_keys else None
        named = isinstance(first, str) and outside_root(first) is None
        self.image_root = picture_root(file.parent, images, first if named else None)
        categories = _categories(file, tables.pop("categories"))
        notes += [*_crowd_notes(keys), *_id_notes(keys, categories)]
        self.header = Header("coco", categories, tuple(notes), {name: _decoded(file, name, raw) for name, raw in tables.items()})
        if bbox_format is None:
            self._notice_corners()
        self._opened = self.header
        self._unsound: set[int] = set()

    def record(self, index: int, picture: bool = True) -> Record:
        """Decode record ``index``; raise IndexError outside."""
        if not 0 <= index < len(self.counts):
            raise IndexError(f"record {index} of {len(self.counts)}")
        listed = index < len(self._images)
        image: dict[str, Any] = self._piece("image", self._images, index) if listed else {}
        size = size_from(image.get("height"), image.get("width"))
        instances = []
        for ordinal in self._order[self._stops[index] - self.counts[index] : self._stops[index]].tolist():
            annotation = self._piece("annotation", self._annotations, ordinal)
            instance, sound = instance_of(annotation, ordinal, size, self._convention)
            instances.append(instance)
            if not sound:
                self._note_unsound(ordinal)
        name = image.get("file_name")
        problem: Problem | None
        if not listed:
            image_id = _scalar_id(self._unlisted[index - len(self._images)])
            problem = Problem("image_not_listed", f"image {image_id!r} is not among the file's images; add it there")
        else:
            image_id = _scalar_id(image.get("id"))
            if not isinstance(name, str) or not name:
                problem = Problem("image_missing", f"image {image_id!r} has no file_name; add one")
            else:
                problem = outside_root(name)
        file_name = name if isinstance(name, str) else ""
        return Record(index, image_id, file_name, size, tuple(instances), listed=listed, problem=problem, extra=image)

    def _piece(self, kind: str, pieces: list[msgspec.Raw], position: int) -> Any:
        return _decoded(self._file, f"{kind} at position {position}", pieces[position])

    def _note_unsound(self, ordinal: int) -> None:
        if ordinal not in self._unsound:
            self._unsound.add(ordinal)
            self.header = with_note(self._opened, len(self._unsound))

    def _notice_corners(self) -> None:
        """Say so in the header when a sample of boxes only makes sense as two corners."""
        numbers, sizes = [], []
        total = len(self._annotations)
        owners = np.searchsorted(self._stops, np.arange(total), side="right")
        for place in np.unique(np.linspace(0, max(total - 1, 0), min(SAMPLE, total)).astype(int)).tolist():
            box = self._piece("annotation", self._annotations, int(self._order[place])).get("bbox")
            owner = int(owners[place])
            image = self._piece("image", self._images, owner) if owner < len(self._images) else {}
            size = size_from(image.get("height"), image.get("width"))
            if size and isinstance(box, list) and len(box) == 4 and all(is_number(one) and abs(one) < 1e9 for one in box):
                numbers.append(box)
                sizes.append(size)
        if len(numbers) < 3:
            return
        guess, reason = guess_convention(np.array(numbers, dtype=np.float64), np.array(sizes, dtype=np.float64))
        if guess == "xyxy" and "leave their image" in reason:
            line = f"boxes look like x1 y1 x2 y2 ({reason}), read as COCO's x y width height; --bbox-format xyxy reads them so"
            self.header = Header(self.header.format, self.header.categories, (*self.header.notes, line), self.header.extra)


def _split(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Cut a file into its top-level fields; ``images`` and ``annotations`` into undecoded pieces."""
    data = read_bytes(file)
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    notes: list[str] = []
    try:
        fields: dict[str, Any] = _deeper(HEADROOM, lambda: dict(msgspec.json.decode(data, type=dict[str, msgspec.Raw])))
        _check_letters(file, data)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 in the name of a field; save it as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{file}: lists or objects are nested too deep in it; is it COCO?") from error
    except msgspec.ValidationError as error:
        raise DataError(f"{file}: {_not_coco(data)}") from error
    except msgspec.DecodeError as error:
        fields = _split_slowly(file, data, error)
        notes.append("the JSON holds NaN, Infinity or other tokens that only Python writes; they are read as null (and were slow to read)")
    for name in ("images", "annotations"):
        if name not in fields:
            known = ", ".join(list(fields)[:6]) or "nothing"
            raise DataError(f"{file}: no {name!r} in it (it has {known}); COCO needs images, annotations and categories")
        if not isinstance(fields[name], list):
            try:
                fields[name] = msgspec.json.decode(fields[name], type=list[msgspec.Raw])
            except msgspec.MsgspecError as error:
                raise DataError(f"{file}: {name!r} is not a list; COCO needs one") from error
    fields.setdefault("categories", msgspec.Raw(b"[]"))
    return fields, notes


def _split_slowly(file: Path, data: bytes, reason: Exception) -> dict[str, Any]:
    try:
        whole = _deeper(HEADROOM, lambda: loads(data))
    except (ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{file}: not valid JSON ({line}); is the file complete?") from reason
    if not isinstance(whole, dict):
        raise DataError(f"{file}: {_not_coco(data)}") from reason
    for name, value in whole.items():
        split = name in ("images", "annotations") and isinstance(value, list)
        whole[name] = [msgspec.Raw(encode_json(one)) for one in value] if split else msgspec.Raw(encode_json(value))
    return whole


def _deeper(calls: int, act: Callable[[], Any]) -> Any:
    """Do something that many calls further down: Python's limit to recursion counts them, and JSON's nesting, together."""
    return _deeper(calls - 1, act) if calls else act()


def _check_letters(file: Path, data: bytes) -> None:
    """Raise DataError where a file is not UTF-8: what is skipped when it is cut to pieces is not looked at."""
    if data.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), PIECE):
        try:
            decoder.decode(data[start : start + PIECE], final=start + PIECE >= len(data))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 near byte {start + error.start}; save it as UTF-8") from error


def _decoded(file: Path, what: str, raw: msgspec.Raw) -> Any:
    try:
        return decode_json(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {what} is not valid JSON ({' '.join(str(error).split())}); mend it") from error


def _not_coco(data: bytes) -> str:
    if data.lstrip()[:1] == b"[":
        return "a bare list (COCO results?), without images; put it as 'annotations' beside the images and categories of its dataset"
    return "not a JSON object; COCO needs images, annotations and categories"


def _keys(file: Path, name: str, pieces: list[msgspec.Raw], kind: type[Any]) -> list[Any]:
    """Look at the ids of every piece; an odd type counts as no id, a piece that is no object is an error."""
    decoder = msgspec.json.Decoder(kind)
    keys = []
    for position, piece in enumerate(pieces):
        try:
            keys.append(decoder.decode(piece))
        except msgspec.MsgspecError:
            value = _decoded(file, f"{name[:-1]} at position {position}", piece)
            if not isinstance(value, dict):
                raise DataError(f"{file}: {name[:-1]} at position {position} is not an object; mend or remove it") from None
            fields = {key: value.get(key) for key in kind.__struct_fields__}
            keys.append(kind(**{key: one if isinstance(one, int | float | str) else None for key, one in fields.items()}))
    return keys


def _categories(file: Path, raw: Any) -> tuple[Category, ...]:
    listed = _decoded(file, "'categories'", raw)
    if not isinstance(listed, list):
        raise DataError(f"{file}: 'categories' is not a list; COCO needs one")
    categories = []
    for position, one in enumerate(listed):
        category_id = id_of(one.get("id")) if isinstance(one, dict) else None
        if category_id is None:
            raise DataError(f"{file}: category at position {position} has no id that is a whole number or a text; add one")
        extra = {key: value for key, value in one.items() if key not in ("id", "name")}
        categories.append(Category(category_id, str(one.get("name", category_id)), extra))
    return tuple(categories)


def _crowd_notes(keys: list[_AnnotationKey]) -> list[str]:
    crowd = sum(1 for key in keys if key.iscrowd)
    if not crowd:
        return []
    line = f"{crowd} of {len(keys)} annotations are iscrowd 1: carried as they are, never segmented"
    if crowd > 0.2 * len(keys):
        line += "; some tools set iscrowd for every mask with holes or parts: if these are single objects, set it to 0"
    return [line]


def _id_notes(keys: list[_AnnotationKey], categories: tuple[Category, ...]) -> list[str]:
    """Say once, with a count, what is odd about ids: annotations of one id, categories that are named and not listed."""
    notes = []
    ids = [key.id for key in keys if key.id is not None]
    if repeated := len(ids) - len(set(ids)):
        notes.append(f"{repeated} annotations repeat the id of an earlier one; all are kept, and told apart by their place in the file")
    if nameless := len(keys) - len(ids):
        notes.append(f"{nameless} annotations have no id; they are called by their place in the file")
    listed = {one.category_id for one in categories}
    unlisted = [key.category_id for key in keys if key.category_id not in listed]
    if unlisted:
        named = _some(list(dict.fromkeys(unlisted)))
        notes.append(
            f"{len(unlisted)} annotations name categories that the file does not list ({named}); they are converted like the others"
        )
    return notes


def _some(values: list[Any]) -> str:
    """Name the first few of many ids."""
    return ", ".join("(none)" if value is None else plain_line(str(value), 60) for value in values[:3]) + (
        ", ..." if len(values) > 3 else ""
    )


def _scalar_id(value: Any) -> Id:
    known = id_of(value)
    return known if known is not None else "" if value is None else str(value)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Hold the garbage collector: it would walk millions of new objects again and again, and finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
