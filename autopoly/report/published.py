"""Numbers of the paper ("Interactive Instance Annotation with Siamese Networks"), in percent, for sets whose name says which they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class Published:
    """One row of Table IV, percent; ``per_component`` is the paper's row marked with a dagger; ``categories`` are from Table I."""

    dataset: str
    trained_on: str
    miou: float
    map: float
    f_1px: float
    f_2px: float
    per_component: bool = False
    categories: Mapping[str, float] | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """Name it as in the paper."""
        return f"{self.dataset}†" if self.per_component else self.dataset


STREETS = ("bicycle", "bus", "person", "train", "truck", "motorcycle", "car", "rider")
PUBLISHED = (
    Published("COCO", "COCO", 79.85, 56.3, 59.17, 71.37),
    Published(
        "Cityscapes",
        "Cityscapes",
        72.33,
        39.6,
        46.62,
        60.20,
        # Bicycle, bus, person and motorcycle could not be told from the row above in the copy of Table I these were read from.
        categories={"train": 70.25, "truck": 80.11, "car": 79.40, "rider": 68.19},
    ),
    Published(
        "Cityscapes",
        "Cityscapes",
        76.69,
        48.9,
        52.88,
        67.90,
        per_component=True,
        categories=dict(zip(STREETS, (69.11, 85.26, 75.37, 77.79, 82.54, 69.80, 82.66, 71.02), strict=True)),
        note="Table II prints mAP 48.5, F 52.43 and 66.68 for the same row.",
    ),
    Published("KITTI", "Cityscapes", 86.41, 69.3, 67.56, 81.37, note="Cars only, on a derived set."),
    Published(
        "ADE20k",
        "Cityscapes",
        74.90,
        46.6,
        58.87,
        73.27,
        note="Validation set; television receiver, bus, car, oven, person and bicycle only.",
    ),
    Published("Rooftop", "Cityscapes", 78.04, 49.9, 27.76, 40.01, note="Test set of 65 aerial images."),
)
COMPARABLE = (
    "Published: SiamAnno as printed in Tables I and IV of the paper, from its full validation or test sets and its authors' own code, "
    "which is not public. Comparable only where this set is that same split with the same categories and every instance, at full "
    "resolution: the row with † (components taken from the truth) for a run per component with truth boxes, the row without it "
    "otherwise. F depends most on the resolution of the pictures; mAP on how a polygon gets its score, on which the paper is silent."
)
DEPTH = 3
"""How many of the last parts of a path are read for the name of a set: a home folder called coco says nothing."""


def find(*names: str) -> list[Published]:
    """Give the rows of the first set whose name stands in one of the names or paths as a word of its own; none for other sets.

    >>> [row.label for row in find("data/cityscapes_val/annotations.json")]
    ['Cityscapes', 'Cityscapes†']
    >>> find("data/cocoa/annotations.json")
    []
    """
    words = {word for name in names for part in PurePath(name).parts[-DEPTH:] for word in re.findall(r"[a-z]+|\d+", part.lower())}
    if {"ade", "20"} <= words:  # ADE20k is split at its digits
        words.add("ade20k")
    # From the special to the general: a KITTI set in COCO's format may be called kitti-coco.
    for dataset in ("Cityscapes", "KITTI", "ADE20k", "Rooftop", "COCO"):
        if dataset.lower() in words:
            return [row for row in PUBLISHED if row.dataset == dataset]
    return []
