"""Errors a user can cause, and the failures a run counts.

Only :class:`AutopolyError` is caught by the command line: it becomes one line and exit code 2. Anything else is a bug and keeps its
traceback. A :class:`Failure` is not an exception: it is a row of ``failures.parquet``, and the run goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 2000
"""Characters of a line for a person: a name in a dataset may have millions."""
_LOGIN = re.compile(r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*:/+)[^/\s'\"]*@", re.IGNORECASE)
_SIGNED = re.compile(
    r"\?(?=[^\s'\"]*(?:x-(?:amz|goog)-|signature|accesskey|accessid|sig=|token|secret|password|key=))[^\s'\"]+", re.IGNORECASE
)


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


def redacted(text: str) -> str:
    """Take out of a text what opens doors: the login of an address, the query of a signed one or of a file name made of it.

    >>> redacted("ray://me:secret@host:10001 and https://host/a.png?X-Amz-Signature=1f")
    'ray://host:10001 and https://host/a.png?...'
    """
    return _SIGNED.sub("?...", _LOGIN.sub(r"\1", text))


def plain_line(text: str, longest: int = LONGEST) -> str:
    """Make a text fit to be shown or kept in a table: one line of printable letters, ``longest`` at most, without credentials.

    Names in a dataset may hold anything: line ends, sequences that steer a terminal, halves of letters that no encoding has.
    """
    # Cut first, since a name may have millions of letters; twice as long, since what is taken out may be long too.
    line = redacted(" ".join(text[: 2 * longest].split()))
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if len(line) <= longest else line[: longest - 3] + "..."
