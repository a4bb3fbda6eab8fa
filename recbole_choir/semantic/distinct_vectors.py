"""Vectors of several snapshots, each different one stored once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_choir.semantic.quantizers.points import as_points, row_digests

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
