"""Count, per group, the pairs of a positive and a negative row that are in the right order.

AUC is the share of such pairs. Everything here is integer arithmetic, so it is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recbole_choir.errors import DataError
from recbole_choir.evaluator.checks import Array

# One 64-bit sort key: group (31 bits) | score (32 bits) | label (1 bit).
_MAX_GROUPS = 2**31
_MAX_ROWS = 2**32


class PairCounts(NamedTuple):
    """Pairs per group, in ascending order of the group's id.

    Attributes:
        groups: ``[G]`` the ids.
        positives: int64 ``[G]`` rows with label 1.
        negatives: int64 ``[G]`` rows with label 0.
        twice_concordant: int64 ``[G]`` twice the number of (positive, negative) pairs in the right
            order, a tied pair counting one half (so twice the number is an integer).
    """

    groups: Array
    positives: npt.NDArray[np.int64]
    negatives: npt.NDArray[np.int64]
    twice_concordant: npt.NDArray[np.int64]

    @property
    def auc(self) -> npt.NDArray[np.float64]:
        """float64 ``[G]`` AUC of each group; NaN where a group has one class only."""
        pairs = 2.0 * self.positives * self.negatives
        auc = np.full(len(pairs), np.nan)
        np.divide(self.twice_concordant, pairs, out=auc, where=pairs > 0)
        return auc


def dense_groups(groups: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Number the groups from 0 in ascending order of id: ``(ids [G], number of each row [N])``.

    Integer ids in a range not much wider than the number of rows need no sort.
    """
    if groups.dtype.kind in "iub":
        low, high = int(groups.min()), int(groups.max())
        span = high - low + 1
        if span <= 4 * groups.size + 65_536:
            # widen before subtracting, or int8 ids could overflow; uint64 has no wider type
            wide = groups if groups.dtype.kind == "u" else groups.astype(np.int64)
            shifted = (wide - wide.min()).astype(np.int64)
            present = np.bincount(shifted, minlength=span) > 0
            number = np.cumsum(present) - 1
            ids = (np.flatnonzero(present).astype(wide.dtype) + wide.min()).astype(groups.dtype)
            return ids, number[shifted]
    ids, inverse = np.unique(groups, return_inverse=True)
    return ids, inverse.reshape(-1).astype(np.int64)


def _score_codes(scores: Array) -> npt.NDArray[np.uint64]:
    """Map scores to integers below 2**32 with the same order and the same ties.

    Single precision: the bits themselves, made monotone (no sort). Double precision that is not
    exactly single precision: dense ranks, for one extra sort.
    """
    with np.errstate(over="ignore"):
        single = scores.astype(np.float32, copy=False)
    if single is scores or np.array_equal(single, scores):
        bits = (single + np.float32(0.0)).view(np.uint32)  # + 0.0 makes -0.0 equal to 0.0
        negative = bits >> np.uint32(31)
        # negative numbers: all bits flipped; others: the sign bit set
        flipped = bits ^ (np.uint32(0x80000000) | (np.uint32(0) - negative))
        return flipped.astype(np.uint64)
    order = np.argsort(scores)
    ordered = scores[order]
    rank = np.empty(len(scores), dtype=np.uint64)
    rank[order] = np.concatenate(([0], np.cumsum(ordered[1:] != ordered[:-1])))
    return rank


def count_pairs(labels: npt.NDArray[np.bool_], scores: Array, groups: Array) -> PairCounts:
    """Count ordered pairs per group with one sort of 64-bit keys.

    Args:
        labels: bool ``[N]``.
        scores: floating ``[N]`` without NaN.
        groups: ids ``[N]``.

    Returns:
        The counts, one entry per group.

    Raises:
        DataError: Above 2**32 rows or 2**31 groups, which a 64-bit key cannot hold.
    """
    ids, number = dense_groups(groups)
    if len(ids) > _MAX_GROUPS or len(labels) > _MAX_ROWS:
        raise DataError(
            f"groups: expected at most {_MAX_GROUPS} groups and {_MAX_ROWS} rows, "
            f"got {len(ids)} and {len(labels)}"
        )
    key = number.view(np.uint64) << np.uint64(33)
    key |= _score_codes(scores) << np.uint64(1)
    key |= labels
    key.sort()

    positive = (key & np.uint64(1)).view(np.int64)  # [N]
    run = key >> np.uint64(1)
    start = np.flatnonzero(np.concatenate(([True], run[1:] != run[:-1])))  # [R] runs of ties
    size = np.diff(start, append=len(key))
    run_pos = np.add.reduceat(positive, start)
    run_neg = size - run_pos
    group = (run[start] >> np.uint64(32)).view(np.int64)
    first = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))  # [G] first run
    below = np.cumsum(run_neg) - run_neg  # negatives sorted before the run, over all groups
    below -= np.repeat(below[first], np.diff(first, append=len(start)))  # ... within its group
    concordant = np.add.reduceat(run_pos * (2 * below + run_neg), first)
    return PairCounts(
        groups=ids,
        positives=np.add.reduceat(run_pos, first),
        negatives=np.add.reduceat(run_neg, first),
        twice_concordant=concordant,
    )
