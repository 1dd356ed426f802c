"""Find the prediction of each truth: the image by its id (or file name), the instance by its id or by overlap.

Ids are compared as text, since one format has integers where another has strings. Letters: D predictions, G truths.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopoly.types import Dataset, FloatArray, Instance, Record


class ImageFinder:
    """Find the record of an image in a dataset, cheaply where both datasets have one order, by an index of ids and file names else."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._next = 0
        self._index: dict[str, int] | None = None
        self._used = np.zeros(len(dataset.counts), bool)
        self.renamed = 0
        """Images found that are called otherwise."""

    def find(self, image: Record) -> Record | None:
        """Give the record with the id of ``image``, without its picture.

        Where that has another file name, or there is none, it is the one with its file name; else None.
        Tools renumber images and keep their names. A record of another name is taken where no other has the name.
        """
        at: int | None = self._next
        record = self._dataset.record(self._next, picture=False) if self._next < len(self._dataset.counts) else None
        if record is None or str(record.image_id) != str(image.image_id) or not _may_be(record, image):
            at = self._lookup(image)
            record = None if at is None else self._dataset.record(at, picture=False)
        if at is None or record is None:
            return None
        self.renamed += not _may_be(record, image)
        self._used[at], self._next = True, at + 1
        return record

    def unused(self) -> int:
        """Count the images with boxes that were never asked for."""
        return int((~self._used & (self._dataset.counts > 0)).sum())

    def _lookup(self, image: Record) -> int | None:
        if self._index is None:
            self._index = {}
            for at in range(len(self._dataset.counts)):
                record = self._dataset.record(at, picture=False)
                self._index.setdefault(f"id {record.image_id}", at)
                if record.file_name:
                    self._index.setdefault(f"file {record.file_name}", at)
        own, named = self._index.get(f"id {image.image_id}"), self._index.get(f"file {image.file_name}")
        return named if own is None or (named is not None and not _may_be(self._dataset.record(own, picture=False), image)) else own


def _may_be(record: Record, image: Record) -> bool:
    """Say whether two records may be of one picture, by what their files are called, in whatever folder."""
    names = [posixpath.basename(one.file_name.replace("\\", "/")) for one in (record, image)]
    return not all(names) or names[0] == names[1]


def by_id(truths: Sequence[Instance], predictions: Sequence[Instance]) -> NDArray[np.int64]:
    """Give the truth (D,) of each prediction of one image, -1 for none.

    Those of one id, category and box first, then those of one id; where several have them, the n-th prediction belongs to the n-th truth.
    """
    own = np.full(len(predictions), -1, np.int64)
    for key in (_id_and_box, _id):
        places: dict[str, deque[int]] = defaultdict(deque)
        taken = set(own.tolist())
        for at, truth in enumerate(truths):
            if at not in taken:
                places[key(truth)].append(at)
        for at, prediction in enumerate(predictions):
            if own[at] < 0 and places[key(prediction)]:
                own[at] = places[key(prediction)].popleft()
    return own


def _id(one: Instance) -> str:
    return str(one.instance_id)


def _id_and_box(one: Instance) -> str:
    """Give what an instance keeps in every file. One without an id is called by its place, which is another where a result left some out.

    Boxes are those of the truth to the last digits, which xywh and xyxy round differently.
    """
    return f"{'' if _id(one).startswith('#') else _id(one)} {one.category_id} {(np.round(one.box, 4) + 0.0).tolist()}"


def by_overlap(pairs: NDArray[np.int64], iou: FloatArray, predictions: int) -> NDArray[np.int64]:
    """Give the truth (D,) of each of D ``predictions``, -1 for none.

    The pairs (P, 2) with IoU (P,) are taken from the largest, each side once.
    Pairs are of prediction and truth index; equal IoUs are taken in the order given.
    """
    own = np.full(predictions, -1, np.int64)
    taken: set[int] = set()
    for at in np.argsort(-iou, kind="stable").tolist():
        prediction, truth = pairs[at].tolist()
        if own[prediction] < 0 and truth not in taken:
            own[prediction] = truth
            taken.add(truth)
    return own
