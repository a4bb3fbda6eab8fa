"""Is a difference in GAUC more than chance? A paired bootstrap over users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recbole_choir.errors import DataError
from recbole_choir.evaluator import user_auc

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A difference in GAUC with its bootstrap interval.

    Attributes:
        mean: GAUC of the first minus that of the second, seeds averaged.
        low, high: Percentile interval over resampled users.
        n_users: Users with both classes, the ones that are resampled.
    """

    mean: float
    low: float
    high: float
    n_users: int


def paired_bootstrap(
    users: npt.ArrayLike,
    labels: npt.ArrayLike,
    first: Sequence[npt.ArrayLike],
    second: Sequence[npt.ArrayLike],
    n_draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two models on the same rows by resampling users.

    The per-user AUCs are averaged over the seeds of a model first, so that the interval speaks of
    users; the spread over seeds stands beside it in the tables.

    Args:
        users, labels: User and label of each row, ``[N]``.
        first, second: Scores ``[N]`` of each seed of the two models.
        n_draws: Bootstrap draws. 2000 gives a stable 95 % interval.
        confidence: Coverage of the interval.
        seed: Seed of the draws.

    Returns:
        The impression-weighted difference and its interval.

    Raises:
        DataError: No scores, or no user has both classes.
    """
    if not first or not second:
        raise DataError(
            f"paired bootstrap: expected scores of both, got {len(first)}, {len(second)}"
        )
    counts = user_auc(labels, first[0], users)
    both = (counts.positives > 0) & (counts.negatives > 0)
    if not both.any():
        raise DataError(f"paired bootstrap: none of {both.size} users has both classes")
    weight = (counts.positives + counts.negatives)[both].astype(np.float64)
    gap = _mean_auc(users, labels, first, both) - _mean_auc(users, labels, second, both)
    rng = np.random.default_rng(seed)
    n = len(weight)
    draws = np.empty(n_draws)
    for start in range(0, n_draws, 200):  # in blocks: [200, n_users] at a time
        block = rng.multinomial(n, np.full(n, 1 / n), size=min(200, n_draws - start)) * weight
        draws[start : start + len(block)] = block @ gap / block.sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Difference(float(weight @ gap / weight.sum()), float(low), float(high), n)


def _mean_auc(
    users: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: Sequence[npt.ArrayLike],
    keep: npt.NDArray[np.bool_],
) -> Floats:
    return np.mean([user_auc(labels, s, users).auc[keep] for s in scores], axis=0)
