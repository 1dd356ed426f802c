"""Find the chosen instances again in their datasets, each with its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from autopoly.images import ImageProblem, path_of
from autopoly.jobs.scoring.pairing import ImageFinder
from autopoly.report.gallery import Subject
from autopoly.report.picks import Key, Pick
from autopoly.types import Dataset, Instance, Record


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where instances are: ``pictures`` and ``truth`` (None: not shown) are numbered alike.

    ``prediction`` may have the images in another order.
    """

    pictures: Dataset
    prediction: Dataset
    truth: Dataset | None
    names: Mapping[str, str]
    """Category names by id as text."""


def chosen(picks: Sequence[Pick], without: Sequence[Key], places: Places, reasons: Mapping[tuple[str, str], str]) -> list[Subject]:
    """Give a subject for each pick and for each instance ``without`` a polygon, in their order.

    ``reasons`` says, by image and instance id as text, why there is none. A pick's value is its IoU where there is a truth.
    """
    wanted = [(pick.group, pick.value if places.truth is not None and pick.key.truth >= 0 else None, pick.key) for pick in picks]
    wanted += [("no polygon", None, key) for key in without]
    finder = ImageFinder(places.prediction)
    found: list[tuple[int, Subject]] = []
    # Image by image in the order of the file, as a finder likes it.
    order = sorted(range(len(wanted)), key=lambda at: wanted[at][2].record)
    for number, group in groupby(order, key=lambda at: wanted[at][2].record):
        own = places.pictures.record(number)
        predicted = _predicted(places.prediction, own, number, finder)
        truth = places.truth.record(number) if places.truth is not None else None
        picture, root = _picture(own, predicted, places)
        for at in group:
            kind, iou, key = wanted[at]
            made, true = _instance(predicted, key.predicted), _instance(truth, key.truth)
            one = made or true
            if one is not None:
                category = str(one.category_id if true is None else true.category_id)
                reason = reasons.get((str(own.image_id), str(one.instance_id)), "") if kind == "no polygon" else ""
                found.append((at, Subject(kind, picture, root, places.names.get(category, category), made, true, iou, reason)))
    return [subject for _, subject in sorted(found, key=lambda one: one[0])]


def _predicted(prediction: Dataset, image: Record, number: int, finder: ImageFinder) -> Record | None:
    """Find the image's predictions, at the same place if it is there: looking for it reads the whole dataset."""
    if number < len(prediction.counts):
        record = prediction.record(number)
        if str(record.image_id) == str(image.image_id):
            return record
    found = finder.find(image)
    return None if found is None else prediction.record(found.ordinal)


def _picture(own: Record, predicted: Record | None, places: Places) -> tuple[Record, str]:
    """Choose the record to decode: the first whose picture is there."""
    for record, dataset in ((own, places.pictures), (predicted, places.prediction)):
        if record is None:
            continue
        if record.data is not None:
            return record, dataset.image_root
        try:
            path_of(record, dataset.image_root)
        except ImageProblem:
            continue
        return record, dataset.image_root
    return own, places.pictures.image_root


def _instance(record: Record | None, ordinal: int) -> Instance | None:
    if record is None or ordinal < 0:
        return None
    return next((one for one in record.instances if one.ordinal == ordinal), None)
