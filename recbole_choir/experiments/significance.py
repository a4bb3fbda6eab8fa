"""Is a difference in GAUC more than chance? A paired bootstrap over users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from recbole_choir.errors import DataError
from recbole_choir.evaluator import user_auc

Floats = npt.NDArray[np.float64]

_BLOCK = 200  # draws at a time


@dataclass(frozen=True)
class Difference:
    """A difference in GAUC with its bootstrap interval.

    Attributes:
        mean: GAUC of the first minus that of the second, seeds averaged.
        low, high: Percentile interval over resampled users; NaN for too few of them, by default
            for fewer than six.
        n_users: Users with both classes, the ones that are resampled.
        p: Two-sided: twice the smaller share of draws on one side of zero, never below
            2 / (draws + 1), nor below 2^(1 - n_users): by that chance all users differ in the
            same direction where the two models are equally good.
    """

    mean: float
    low: float
    high: float
    n_users: int
    p: float = float("nan")


@dataclass(frozen=True)
class UserAUC:
    """Per-user AUCs on one set of rows.

    Those of several seeds of a model are averaged first, so that an interval over users speaks of
    users; the spread over seeds stands next to it in the tables.

    Attributes:
        users, labels: User and label of each row, ``[N]``.
        both: bool, the users that have both classes; only they have an AUC.
        weight: Rows of each of them, ``[n]``.
    """

    users: npt.ArrayLike
    labels: npt.ArrayLike
    both: npt.NDArray[np.bool_]
    weight: Floats

    @classmethod
    def of(cls, users: npt.ArrayLike, labels: npt.ArrayLike) -> UserAUC:
        """Find the users with both classes.

        Raises:
            DataError: There is none.
        """
        counts = user_auc(labels, np.zeros(np.asarray(labels).size), users)
        both = (counts.positives > 0) & (counts.negatives > 0)
        if not both.any():
            raise DataError(f"paired bootstrap: none of {both.size} users has both classes")
        weight = (counts.positives + counts.negatives)[both].astype(np.float64)
        return cls(users, labels, both, weight)

    def mean(self, seeds: Sequence[npt.ArrayLike]) -> Floats:
        """AUC of each user, ``[n]``, averaged over the scores of several seeds."""
        each = [user_auc(self.labels, scores, self.users).auc[self.both] for scores in seeds]
        return np.mean(each, axis=0)


def bootstrap(
    gaps: Floats,
    weight: Floats,
    n_draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Resample users; every pair of models sees the same draws, so that many cost as one.

    Args:
        gaps: Difference of the per-user AUCs of each pair, ``[n_users, n_pairs]``.
        weight: Rows of each user, ``[n_users]``.
        n_draws: Draws.
        confidence: Coverage of the intervals.
        seed: Seed of the draws.

    Returns:
        A difference a pair.
    """
    rng = np.random.default_rng(seed)
    n = len(weight)
    draws = np.empty((n_draws, gaps.shape[1]))
    first = np.arange(_BLOCK)[:, None] * n  # of each draw's counts
    for start in range(0, n_draws, _BLOCK):  # [_BLOCK, n_users] at a time
        size = min(_BLOCK, n_draws - start)
        drawn = rng.integers(n, size=(size, n)) + first[:size]
        # how often each user was drawn: rng.multinomial would draw a binomial for every user
        block = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n) * weight
        draws[start : start + size] = block @ gaps / block.sum(axis=1, keepdims=True)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    mean = weight @ gaps / weight.sum()
    # the observed difference counts as a draw: no p of exactly zero from finitely many
    below, above = (draws <= 0).sum(axis=0) + 1, (draws >= 0).sum(axis=0) + 1
    p = np.minimum(1.0, 2 * np.minimum(below, above) / (n_draws + 1))
    # Resampling one user gives that user again: without this floor an interval without width, and
    # the smallest p there is.
    same_sign = 2.0 ** (1 - n)
    p = np.maximum(p, same_sign)
    if same_sign > 1 - confidence:
        low, high = np.full((2, gaps.shape[1]), np.nan)
    columns = (mean.tolist(), low.tolist(), high.tolist(), p.tolist())
    return [Difference(m, a, b, n, chance) for m, a, b, chance in zip(*columns)]


def paired_t(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Two-sided p of the paired t-test over seeds; NaN below two seeds.

    Differences that are all the same are told apart from chance by nothing (all zero: 1), or by
    any test (0).
    """
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if gap.size < 2 or not np.isfinite(gap).all():
        return float("nan")
    if np.ptp(gap) == 0:
        return 1.0 if gap[0] == 0 else 0.0
    return float(stats.ttest_1samp(gap, 0.0).pvalue)


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's correction: the chance of any false finding among all stays below the level.

    Args:
        p: p values ``[m]``; NaN (not tested) counts for nothing and stays NaN.

    Returns:
        Corrected values ``[m]``, in the order of ``p``.

    References:
        Holm (1979): the i-th smallest of m is multiplied by m - i + 1, kept increasing.
    """
    values = np.asarray(p, dtype=np.float64)
    out = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    scaled = values[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return out
