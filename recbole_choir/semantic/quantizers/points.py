"""Points as the quantisers take them: finite float32 rows, each different one once."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError

Float32 = NDArray[np.float32]


class DistinctVectors:
    """Collects vectors and tells the row of each.

    Memory and time are linear in the vectors given; what is kept is linear in the different ones.
    """

    def __init__(self) -> None:
        self._digests: NDArray[np.uint64] = np.zeros(0, np.uint64)  # sorted
        self._row_of: NDArray[np.int64] = np.zeros(0, np.int64)  # row of each of the digests
        self._blocks: list[Float32] = []
        self._n = 0

    def add(self, x: NDArray[Any]) -> NDArray[np.int32]:
        """Store the rows that are new.

        Args:
            x: Vectors [n, d], finite.

        Returns:
            int32 [n]: row of each in :meth:`stored`; new ones in the order of their appearance.
        """
        points = as_points(x)
        digests = row_digests(points)
        at = np.searchsorted(self._digests, digests)
        known = np.zeros(len(points), bool)
        inside = at < len(self._digests)
        known[inside] = self._digests[at[inside]] == digests[inside]
        row = np.full(len(points), -1, np.int64)
        row[known] = self._row_of[at[known]]
        row[~known] = self._append(points[~known], digests[~known])
        # Two vectors of one digest, once in 2^64 pairs: the later one is stored on its own.
        other = np.flatnonzero((self.stored(points.shape[1])[row] != points).any(axis=1))
        if len(other):
            row[other] = self._n + np.arange(len(other))
            self._blocks.append(points[other])
            self._n += len(other)
        return row.astype(np.int32)

    def stored(self, width: int = 0) -> Float32:
        """All different vectors [V, d]; ``[0, width]`` where there are none."""
        if not self._blocks:
            return np.zeros((0, width), np.float32)
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0]

    def _append(self, points: Float32, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        rank = np.empty(len(first), np.int64)
        rank[order] = np.arange(len(first))  # by first appearance
        self._blocks.append(points[first[order]])
        all_digests = np.concatenate([self._digests, digests[first]])
        all_rows = np.concatenate([self._row_of, self._n + rank])
        sort = np.argsort(all_digests, kind="stable")
        self._digests, self._row_of = all_digests[sort], all_rows[sort]
        self._n += len(first)
        return self._n - len(first) + rank[inverse.reshape(-1)]


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
