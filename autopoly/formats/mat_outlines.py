"""Read outlines from .mat files in a process of its own: on some damaged files SciPy's reader ends the process it runs in.

A script: stdin has a JSON list of paths; stdout gets, for each in order, a line of JSON: ``{"outlines": [[[x, y], ...], ...]}``, or
``{"error": "why"}``.
"""

from __future__ import annotations

import json
import sys
import zlib

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

DAMAGED = (
    OSError, LookupError, ValueError, TypeError, ArithmeticError, NotImplementedError, EOFError, MemoryError, NameError, zlib.error,
    MatReadError,
)  # fmt: skip
"""What SciPy raises for files that are not sound. MATLAB's newer files are HDF5, which it does not read."""


def answer(file: str) -> dict[str, object]:
    """Give the corners of every outline of the cell ``gt`` of a file, each [[x, y], ...], or what is wrong with it."""
    try:
        cell = loadmat(file, variable_names=["gt"])["gt"]
        outlines = [np.asarray(one, dtype=np.float64) for one in np.atleast_1d(cell).ravel()] if cell.dtype == object else [cell]
        if any(one.size and (one.ndim != 2 or one.shape[1] != 2) for one in outlines):
            raise ValueError("an outline is not (n, 2)")
        return {"outlines": [one.reshape(-1, 2).astype(np.float64).tolist() for one in outlines]}
    except DAMAGED as error:
        return {"error": " ".join(str(error).split())[:200]}


if __name__ == "__main__":
    for path in json.load(sys.stdin):
        sys.stdout.write(json.dumps(answer(path)) + "\n")
        sys.stdout.flush()  # what comes next may be the end
