"""What a user can ask of a conversion, checked once, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autopoly.errors import RecipeError, redacted
from autopoly.storage import place

MODES = ("per-instance", "auto-components", "per-component")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """Every option of ``autopoly convert``, with its default. ``min_quality`` is a fraction, ``tolerance`` image px, ``limit`` images."""

    source: Path
    out: Path
    from_format: str | None = None
    images: Path | None = None
    to: tuple[str, ...] = ("coco",)
    checkpoint: str | None = None
    workers: int | Literal["auto"] = "auto"
    address: str | None = None
    device: str = "auto"
    mode: str = "per-instance"
    components_from_truth: bool = False
    overlaps: bool = False
    """Leave a pixel that two outlines claim to both."""
    existing: str = "predict"
    categories: tuple[str, ...] = ()
    bbox_format: str | None = None
    retry_failures: bool = False
    write_images: bool = False
    score: bool | None = None
    tolerance: float = 0.5
    min_quality: float = 0.0
    limit: int | None = None
    overwrite: bool = False
    strict: bool = False
    shard_timeout: float = 300.0
    """Seconds a shard may take on Ray, beside 2 s for each of its boxes."""
    accept_device_change: bool = False
    """Go on with a run that was begun on another kind of device."""

    def __post_init__(self) -> None:
        """Take addresses of object stores for what they are; raise StorageError for one that holds credentials."""
        for name in ("source", "out", "images"):
            path = getattr(self, name)
            if path is not None:
                object.__setattr__(self, name, place(path))

    def check(self) -> None:
        """Raise RecipeError, in one line, for a value out of range or a contradiction."""
        for wrong, line in (
            (self.mode not in MODES, f"--mode {self.mode}: expected one of {', '.join(MODES)}"),
            (self.device not in DEVICES, f"--device {self.device}: expected one of {', '.join(DEVICES)}"),
            (self.existing not in ("predict", "keep"), f"--existing {self.existing}: expected predict or keep"),
            (self.bbox_format not in (None, "xywh", "xyxy"), f"--bbox-format {self.bbox_format}: expected xywh or xyxy"),
            (not self.to, "--to: name at least one format"),
            (len(set(self.to)) != len(self.to), f"--to {' '.join(self.to)}: a format is named twice"),
            (self.workers != "auto" and self.workers < 0, f"--workers {self.workers}: expected auto, 0 (in this process) or more"),
            (not 0 <= self.tolerance < float("inf"), f"--tolerance {self.tolerance}: expected 0 px or more"),
            (not 0 <= self.min_quality <= 1, f"--min-quality {self.min_quality}: expected a fraction between 0 and 1"),
            (self.limit is not None and self.limit < 1, f"--limit {self.limit}: expected 1 image or more"),
            (not self.shard_timeout > 0, f"shard_timeout {self.shard_timeout}: expected more than 0 s"),
            (
                self.components_from_truth and self.mode != "per-component",
                "--components-from-truth: needs --mode per-component",
            ),
            (
                self.address is not None and self.workers == 0,
                "--address: --workers 0 runs in this process; leave --workers out, or ask for 1 or more",
            ),
            (self.retry_failures and self.overwrite, "--retry-failures and --overwrite: choose one"),
        ):
            if wrong:
                raise RecipeError(line)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: boxes of finished shards and failures (with those of an earlier start), seconds since this start."""

    boxes: int
    boxes_total: int
    boxes_before: int
    failures: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to do; ``state`` is new, unfinished or finished. Estimates are rough: seconds, and bytes of output."""

    state: Literal["new", "unfinished", "finished"]
    format: str
    images: int
    boxes: int
    shards: int
    shards_left: int
    workers: int
    device: str
    seconds: float
    bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did; ``already`` says that the folder was finished before and nothing was done."""

    folder: Path
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    seconds: float
    boxes_per_second: float
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    already: bool = False

    @property
    def exit_code(self) -> int:
        """Give 0 when all went well and 1 when there are failures."""
        return 1 if sum(self.failures.values()) else 0


def as_json(options: ConvertOptions) -> dict[str, Any]:
    """Give the options as JSON values, without credentials an address may hold."""
    values = {name: getattr(options, name) for name in options.__slots__}
    values = {
        name: [redacted(one) for one in value]
        if isinstance(value, tuple)
        else redacted(str(value))
        if isinstance(value, Path | str)
        else value
        for name, value in values.items()
    }
    if options.address and "@" in options.address:
        scheme, _, rest = options.address.rpartition("://")
        values["address"] = f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]
    if options.address and values["address"]:
        values["address"] = values["address"].partition("?")[0]
    return values
