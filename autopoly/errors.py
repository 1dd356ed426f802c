"""Errors a user can cause, and the failures a run counts.

Only :class:`AutopolyError` is caught by the command line: it becomes one line and exit code 2. Anything else is a bug and keeps its
traceback.
A :class:`Failure` is not an exception: it is a row of ``failures.parquet``, and the run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass


class AutopolyError(Exception):
    """Say in one line what is wrong, where, and what to do."""


class DataError(AutopolyError):
    """A dataset, annotation file or picture cannot be used as it is."""


class CheckpointError(AutopolyError):
    """A checkpoint folder is missing, damaged or made for another network."""


class RecipeError(AutopolyError):
    """A recipe or an option has an unknown key or a value out of range."""


class RunError(AutopolyError):
    """A run folder cannot be started, resumed or written."""


class StorageError(AutopolyError):
    """An object store cannot be reached, or refuses what is asked of it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an instance or a whole image gets no polygon: a stable code and one line for a person."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One row of ``failures.parquet``. Ids are text, since sources have integers and strings."""

    record_id: int
    image_id: str
    annotation_id: str | None
    file: str
    stage: str
    code: str
    message: str
