"""Order and split of interactions on exact float64 time.

RecBole keeps time stamps as float32, which cannot tell Unix stamps less than 128 s apart. Here
order and split are computed before any tensor is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, DataError


def time_order(time: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order rows by time; rows with equal stamps keep their order.

    Args:
        time: ``[N]`` float64, any unit.

    Returns:
        ``[N]`` positions of the rows in the order of their times.

    Raises:
        DataError: A time is not finite.
    """
    time = np.asarray(time, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(time)))
    if bad:
        raise DataError(
            f"time: expected a finite number in every row, got {bad} of {len(time)} without"
        )
    return np.argsort(time, kind="stable").astype(np.int64, copy=False)


def ratio_split(sorted_time: NDArray[np.float64], ratios: Sequence[float]) -> list[slice]:
    """Cut rows in time order into consecutive parts without splitting a time stamp.

    The cut by count is RecBole's (every part but the first is rounded down, and gets at least one
    row where its share is not zero). A cut between two rows of one stamp moves to the nearest
    earlier change of the stamp, or to the next later one where that would empty the part before.

    Args:
        sorted_time: ``[N]`` times in ascending order.
        ratios: Share of each part; they need not sum to one. A share of zero gives an empty part.

    Returns:
        One slice for each part, covering all rows.

    Raises:
        ConfigError: A ratio is negative, or they sum to zero.
        DataError: Too few distinct stamps: a part with a share above zero would be empty.
    """
    n = len(sorted_time)
    total = float(sum(ratios))
    if total <= 0 or min(ratios) < 0:
        raise ConfigError(f"eval_args.split.RS: expected shares of at least 0, got {list(ratios)}")
    cuts = np.cumsum(_counts(n, [r / total for r in ratios]))
    bounds = [0]
    for part, cut in enumerate(cuts[:-1]):
        at = min(max(int(cut), bounds[-1]), n)
        if 0 < at < n and sorted_time[at] == sorted_time[at - 1]:
            earlier = int(np.searchsorted(sorted_time, sorted_time[at], "left"))
            later = int(np.searchsorted(sorted_time, sorted_time[at], "right"))
            needed = bounds[-1] + (1 if ratios[part] > 0 else 0)
            at = earlier if earlier >= needed else later
        bounds.append(at)
    bounds.append(n)
    parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    for part, (share, rows) in enumerate(zip(ratios, parts)):
        if share > 0 and rows.start == rows.stop:
            stamps = len(np.unique(sorted_time))
            raise DataError(
                f"time split: part {part + 1} of {len(parts)} (share {share}) would be empty:"
                f" {n} rows have {stamps} distinct time stamps, and equal stamps stay together"
            )
    return parts


def is_time_split(parts: Sequence[NDArray[np.float64]]) -> bool:
    """Tell whether every row of a part is strictly later than all rows of the parts before.

    Args:
        parts: Times of each part's rows, in any order; empty parts are passed over.
    """
    filled = [p for p in parts if len(p)]
    return all(float(a.max()) < float(b.min()) for a, b in itertools.pairwise(filled))


def _counts(n: int, shares: list[float]) -> list[int]:
    """Rows of each part, as RecBole's ``Dataset._calcu_split_ids`` counts them."""
    counts = [int(s * n) for s in shares]
    counts[0] = n - sum(counts[1:])
    for i in range(1, len(shares)):
        if counts[0] <= 1:
            break
        if 0 < shares[-i] * n < 1:
            counts[-i] += 1
            counts[0] -= 1
    return counts
