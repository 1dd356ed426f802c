"""Hold pieces of a file that come in one order and are needed in another: on disk, with three numbers in memory for each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np


class Spool:
    """A temporary file of byte strings, each with its place in the order to read them back; a context, at whose end the file goes."""

    def __init__(self, path: Path) -> None:
        """Open the file to write and read."""
        self._path = path
        self._stream = path.open("w+b")
        self._keys, self._lengths = array("q"), array("q")

    def __enter__(self) -> Spool:
        """Give itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close and remove the file."""
        try:
            self._stream.close()  # It writes what is left, which a full disk refuses.
        finally:
            self._path.unlink(missing_ok=True)

    def add(self, key: int, piece: bytes) -> None:
        """Put a piece down under its place in the order."""
        self._keys.append(key)
        self._lengths.append(len(piece))
        self._stream.write(piece)

    def in_order(self) -> Iterator[bytes]:
        """Give the pieces by their place; those of one place as they came."""
        keys, lengths = np.frombuffer(self._keys, dtype=np.int64), np.frombuffer(self._lengths, dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        self._stream.flush()
        position = -1
        for index in np.argsort(keys, kind="stable").tolist():
            start, length = int(starts[index]), int(lengths[index])
            if start != position:
                self._stream.seek(start)
            yield self._stream.read(length)
            position = start + length
