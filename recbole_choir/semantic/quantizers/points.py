"""Points as the quantisers take them: finite float32 rows, each different one once."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError

Float32 = NDArray[np.float32]

# Squares of larger numbers overflow float32.
_LARGEST: Final = 1e15


def as_points(x: NDArray[Any]) -> Float32:
    """``x`` as a finite float32 matrix; -0.0 becomes 0.0, so that equal rows have equal bytes."""
    array = np.asarray(x)
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise DataError(f"x: expected real numbers [n, D], got {array.dtype} {array.shape}")
    with np.errstate(over="ignore"):  # what overflows is reported as inf
        points = np.ascontiguousarray(array, dtype=np.float32) + np.float32(0.0)
    n_bad = len(points) - int(np.isfinite(points).all(axis=1).sum())
    if n_bad:
        raise DataError(f"x: expected finite numbers, got nan or inf in {n_bad} of {len(x)} rows")
    if points.size and float(np.abs(points).max()) > _LARGEST:
        raise DataError(f"x: expected numbers up to {_LARGEST:.0e}, got {np.abs(points).max():.0e}")
    return points


def points_of_width(x: NDArray[Any], d: int) -> Float32:
    """As :func:`as_points`; an error where there are not ``d`` columns."""
    points = as_points(x)
    if points.shape[1] != d:
        raise DataError(f"x: expected {d} columns as fitted, got {points.shape[1]}")
    return points


def distinct_points(x: Float32) -> Float32:
    """Each different row once, in the order of first appearance."""
    if len(x) == 0:
        return x
    digest = row_digests(x)
    _, first, inverse = np.unique(digest, return_index=True, return_inverse=True)
    if len(first) == len(x):
        return x
    same = first[inverse.reshape(-1)]
    other = np.flatnonzero(same != np.arange(len(x)))
    if not np.array_equal(x[other], x[same[other]]):
        _, first = np.unique(x, axis=0, return_index=True)
    return x[np.sort(first)]


def row_digests(x: Float32) -> NDArray[np.uint64]:
    """64 bits that tell the rows of ``x`` [n, D] apart, by their bytes: uint64 [n].

    A sum of a row's words, each mixed with its own odd factor. Sorting those is far faster than
    sorting rows; whoever needs certainty compares rows of one digest.
    """
    words = np.ascontiguousarray(x).view(np.uint32)
    factors = np.random.default_rng(0).integers(1 << 63, size=x.shape[1], dtype=np.uint64)
    factors = factors * np.uint64(2) + np.uint64(1)
    digest = np.empty(len(x), dtype=np.uint64)
    for start in range(0, len(x), 8192):
        block = words[start : start + 8192].astype(np.uint64) * factors
        block ^= block >> np.uint64(29)
        digest[start : start + 8192] = block.sum(axis=1, dtype=np.uint64)
    return digest


def first_distinct(x: Float32, n: int) -> Float32:
    """The distinct rows among as few leading rows as hold ``n`` of them, or all distinct rows."""
    size = 2 * n
    while True:
        found = distinct_points(x[:size])
        if len(found) >= n or size >= len(x):
            return found
        size *= 8
