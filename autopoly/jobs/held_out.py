"""Measure a network in training on whole held-out images, as ``autopoly score`` does: predict the boxes, compare at full resolution.

The best network so far is kept as a checkpoint, and its results as pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopoly.images import ImageProblem, read_rgb
from autopoly.jobs.scoring.measuring import Row, measure
from autopoly.network import checkpoint
from autopoly.network.siamanno import SiamAnno
from autopoly.predict import Annotator
from autopoly.training.cache import Source, unusable
from autopoly.training.samples import Samples
from autopoly.types import Instance, Record

GROUP = 32
"""Boxes after which images are predicted together."""
BEST = "best"
SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One held-out instance with what was predicted for it, and its IoU."""

    source: int
    record: int
    truth: Instance
    predicted: Instance
    iou: float


Pick = tuple[str, str, NDArray[np.uint8], Shown]
"""What it is picked for (best, median, worst), the name of its image, the image (H, W, 3), the result."""


class HeldOut:
    """Held-out images of ``samples`` with at most about ``limit`` instances, drawn once; no held-out images give no numbers."""

    def __init__(self, sources: Sequence[Source], samples: Samples, limit: int, device: str, out: Path) -> None:
        self._sources, self._device, self._out = sources, device, out
        self._smallest, self._key = samples.config.smallest_side, samples.key
        images = samples.held_out_images()
        order = np.random.default_rng(SEED).permutation(len(images))
        self._images: list[tuple[int, int]] = []
        count = 0
        for at in order.tolist():
            if count >= limit:
                break
            source, record = images[at]
            wanted = len(self._wanted(sources[source].dataset.record(record)))
            if wanted:
                self._images.append((source, record))
            count += wanted
        self.count = count
        self._shown: list[Shown] = []

    def check(self, network: SiamAnno, step: int) -> dict[str, float]:
        """Give miou_instances, f_1px and f_2px (means over instances); the best network so far goes to ``out/best``."""
        shown, rows = self._results(network)
        if not rows:
            return {}
        self.count = len(rows)
        numbers = _means(rows)
        best = self.best()
        if best is None or numbers["miou_instances"] > best["miou_instances"]:
            checkpoint.save(network, self._out / BEST, {"step": step, "held_out": self._key, **numbers})
            self._shown = shown
        return numbers

    def measure(self, network: SiamAnno) -> dict[str, float]:
        """Give the numbers of :meth:`check` and keep nothing; all zero without held-out images."""
        return _means(self._results(network)[1])

    def best(self) -> dict[str, Any] | None:
        """Give the step and the numbers of the best so far, None where there is none on these held-out images."""
        path = self._out / BEST / "config.json"
        about: dict[str, Any] | None = json.loads(path.read_text())["about"] if path.is_file() else None
        return about if about is not None and about.get("held_out") == self._key else None

    def picks(self, each: int = 3) -> Iterator[Pick]:
        """Give the best, middle and worst instances of the best network so far; none without held-out images."""
        if not self._shown and self.best() is not None:  # found before a resume
            self._shown, _ = self._results(checkpoint.load_network(self._out / BEST))
        ranked = sorted(self._shown, key=lambda one: -one.iou)
        middle = max(0, len(ranked) // 2 - each // 2)
        taken: set[int] = set()
        for name, places in (
            ("best", range(each)),
            ("median", range(middle, middle + each)),
            ("worst", range(len(ranked) - each, len(ranked))),
        ):
            for at in places:
                if 0 <= at < len(ranked) and at not in taken:
                    taken.add(at)
                    one = ranked[at]
                    dataset = self._sources[one.source].dataset
                    record = dataset.record(one.record)
                    yield name, f"{self._sources[one.source].name}/{record.file_name}", read_rgb(record, dataset.image_root), one

    def _results(self, network: SiamAnno) -> tuple[list[Shown], list[Row]]:
        shown: list[Shown] = []
        rows: list[Row] = []
        annotator = Annotator(network, self._device)
        for group in self._groups():
            predictions = annotator.predict([(image, np.stack([one.box for one in record.instances])) for _, record, image in group])
            for (source, record, image), found in zip(group, predictions, strict=True):
                made = [
                    replace(one, mask=answer.polygons, quality=answer.quality, mask_source="predicted")
                    for one, answer in zip(record.instances, found, strict=True)
                ]
                measured = measure(len(rows), record, made, (image.shape[0], image.shape[1]), "id", "instance").rows
                places = {one.ordinal: at for at, one in enumerate(record.instances)}
                for row in measured:
                    at = places[row.truth_at]
                    shown.append(Shown(source, record.ordinal, record.instances[at], made[at], row.iou))
                rows += measured
        return shown, rows

    def _wanted(self, record: Record, size: tuple[int, int] | None = None) -> tuple[Instance, ...]:
        return tuple(
            one
            for one in record.instances
            if unusable(one, size) is None and min(one.box[2] - one.box[0], one.box[3] - one.box[1]) >= self._smallest
        )

    def _groups(self) -> Iterator[list[tuple[int, Record, NDArray[np.uint8]]]]:
        group: list[tuple[int, Record, NDArray[np.uint8]]] = []
        for source, number in self._images:
            dataset = self._sources[source].dataset
            record = dataset.record(number)
            try:
                image = read_rgb(record, dataset.image_root)
            except ImageProblem:  # gone since the cache was built: the cache has said what it left out
                continue
            if wanted := self._wanted(record, (image.shape[0], image.shape[1])):
                group.append((source, replace(record, instances=wanted), image))
            if sum(len(one.instances) for _, one, _ in group) >= GROUP:
                yield group
                group = []
        if group:
            yield group


def _means(rows: Sequence[Row]) -> dict[str, float]:
    values = np.array([(row.iou, row.f_1px, row.f_2px) for row in rows]).reshape(-1, 3)
    return dict(zip(("miou_instances", "f_1px", "f_2px"), (values.sum(axis=0) / max(len(rows), 1)).tolist(), strict=True))
