"""Convert annotated datasets in COCO form from their boxes, in each way that is compared, and score the result: what benchmarks share."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autopoly.jobs.conversion.options import ConvertOptions
from autopoly.jobs.convert import convert
from autopoly.jobs.score import ScoreOptions, score

MIN_SIDE = 32
"""The population: instances whose box has a shorter side of at least so many px."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to convert; ``from_truth`` gives the boxes of an instance's parts, which plain detection boxes do not have."""

    name: str
    mode: str
    from_truth: bool = False


PER_INSTANCE = Way("per instance", "per-instance")
FOUND = Way("per component, found", "auto-components")
GIVEN = Way("per component, boxes from the truth", "per-component", from_truth=True)
WAYS = (PER_INSTANCE, FOUND, GIVEN)


def convert_boxes(
    truth: Path, images: Path, out: Path, way: Way = PER_INSTANCE, checkpoint: str | None = None, jitter: float = 0.0
) -> float:
    """Convert a copy of the COCO file ``truth`` that has boxes only (with masks where the way takes boxes from them) into a run folder.

    ``jitter`` moves each side of a box by a normal error of so many box sides. Give the boxes per second, loading and start included.
    """
    data = json.loads(truth.read_text())
    rng = np.random.default_rng(0)
    for annotation in data["annotations"]:
        if not way.from_truth:
            annotation["segmentation"] = []
        x, y, w, h = annotation["bbox"]
        left, top, right, bottom = rng.normal(0, jitter, 4) * (w, h, w, h) if jitter else np.zeros(4)
        annotation["bbox"] = [x + left, y + top, max(w + right - left, 1.0), max(h + bottom - top, 1.0)]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "boxes.json"
        source.write_text(json.dumps(data))
        options = ConvertOptions(
            source=source,
            out=out,
            images=images,
            checkpoint=checkpoint,
            workers=0,
            mode=way.mode,
            components_from_truth=way.from_truth,
            score=False,
        )
        started = time.monotonic()
        convert(options)
        return len(data["annotations"]) / (time.monotonic() - started)


def measure(folder: Path, way: Way = PER_INSTANCE, checkpoint: str | None = None, jitter: float = 0.0) -> dict[str, Any]:
    """Convert the dataset in ``folder`` and score it, per instance: the score's dict with ``boxes_per_second``."""
    truth = folder / "annotations.json"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        speed = convert_boxes(truth, folder / "images", out, way, checkpoint, jitter)
        return score([out], truth, ScoreOptions(min_side=MIN_SIDE)) | {"boxes_per_second": speed}


def datasets(folder: Path, only: list[str]) -> list[str]:
    """Name the datasets in ``folder``: those asked for, else all, in order."""
    return only or sorted(path.parent.name for path in folder.glob("*/annotations.json"))


def percent(fraction: float | None, interval: list[float] | None = None) -> str:
    """Write a fraction in percent, with its interval where there is one; nothing for None."""
    if fraction is None:
        return ""
    text = f"{100 * fraction:.1f}"
    return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else text
