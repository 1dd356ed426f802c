"""Let a contour follow the vertices that a user has put in place. K contour vertices, M of them held."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from autopoly.types import FloatArray

REACH = 2.0
"""Vertices over which the errors of a contour go together: the length of a Matern 3/2 covariance, chosen on training images."""
HEARD = 4.0
"""Vertices from a correction on which the network's own answer to it counts, less and less: farther away it does more harm than good."""
NOISE = 1e-3
"""Variance of a correction, relative: what keeps two corrections side by side from tearing at the contour."""
SPARSEST = 3.0
"""How much farther apart than on average a contour's vertices may come to lie."""


def followed(free: FloatArray, refined: FloatArray, places: FloatArray, held: NDArray[np.bool_]) -> FloatArray:
    """Give ``refined`` (K, 2) with the vertices ``held`` (K,) at their ``places`` (K, 2) and the others moved as far as is likely.

    ``free`` is what the network says without corrections, ``refined`` with them, which counts near the corrections alone. Each correction
    shows an error of ``free``; the errors of neighbours resemble it, by a Gaussian process along the contour. What ``refined`` has already
    made of a correction, as its free neighbours show, counts as done. What is far from all corrections stays as in ``free``.
    """
    at = np.flatnonzero(held)
    if not len(at) or held.all():
        return np.where(held[:, None], places, refined)
    apart = np.abs(np.arange(len(held))[:, None] - at)  # (K, M)
    apart = np.minimum(apart, len(held) - apart)
    moved = (refined - free) * (1 - apart.min(axis=1, keepdims=True) / HEARD).clip(0)
    taken = (moved[_nearest(held, at, -1)] + moved[_nearest(held, at, 1)]) / 2  # (M, 2)
    covariance = _covariance(apart)
    weights = np.linalg.solve(covariance[at] + NOISE * np.eye(len(at)), places[at] - free[at] - taken)
    return np.where(held[:, None], places, free + moved + covariance @ weights)


def threaded(outline: FloatArray, matched: FloatArray, places: FloatArray, held: NDArray[np.bool_]) -> FloatArray:
    """Lay a contour (K, 2) along ``outline`` (V, 2) so that the vertices ``held`` (K,), one or more, are at their ``places`` (K, 2).

    Between two of them the others lie evenly along the outline, which gives way where it misses one (:func:`followed`). Where that would
    thin them out (``SPARSEST``), as held ones in another order along the outline would, those ``matched`` (K, 2) to it give way instead.
    """
    at, ring = np.flatnonzero(held), shapely.LinearRing(outline)
    where = shapely.line_locate_point(ring, shapely.points(places[at]))
    counts = np.diff(at, append=at[0] + len(held))
    gaps = np.diff(where, append=where[0]) % ring.length
    if not gaps.any():  # one vertex, or several whose nearest point of the outline is the same: the whole outline lies between
        gaps[-1] = ring.length
    if (gaps / counts).max() <= SPARSEST * ring.length / len(held):
        along = np.concatenate([start + gap * np.arange(count) / count for start, gap, count in zip(where, gaps, counts, strict=True)])
        laid = shapely.get_coordinates(shapely.line_interpolate_point(ring, along % ring.length))
        matched = np.roll(laid, at[0], axis=0)
    return followed(matched, matched, places, held)


def _nearest(held: NDArray[np.bool_], at: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Find the next vertex that is not held, from each of ``at`` (M,) on in steps of 1 or -1."""
    at = at.copy()
    while held[at].any():
        at[held[at]] += step
        at %= len(held)
    return at


def _covariance(distance: NDArray[np.int64]) -> FloatArray:
    scaled = np.sqrt(3) * distance / REACH
    return np.asarray((1 + scaled) * np.exp(-scaled))
