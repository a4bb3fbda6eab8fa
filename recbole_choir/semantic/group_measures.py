"""Measures of a grouping beside those of :mod:`.quality`: stability, agreement, concentration."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from recbole_choir.table_format import GROUP_ID, SNAPSHOT, USER_ID

#: Share of users that count as low-activity, by number of purchases (PAPER_GAPS C20).
LOW_ACTIVITY_SHARE: Final = 0.55

Floats = NDArray[np.float64]


def stability(first: pd.DataFrame, second: pd.DataFrame) -> float | None:
    """How alike two groupings of the same users are: adjusted Rand index, mean over snapshots.

    Args:
        first, second: ``users.parquet`` of two tables: ``snapshot``, ``user_id``, ``group_id``.

    Returns:
        1 for equal groups whatever their names, about 0 for unrelated ones, from the users who
        have a group in both; None where nobody has.
    """
    both = first.merge(second, on=[SNAPSHOT, USER_ID], suffixes=("", "_other"))
    both = both.dropna(subset=[GROUP_ID, f"{GROUP_ID}_other"])
    scores = [
        adjusted_rand_score(rows[GROUP_ID], rows[f"{GROUP_ID}_other"])
        for _, rows in both.groupby(SNAPSHOT)
    ]
    return float(np.mean(scores)) if scores else None


def agreement(
    group: NDArray[np.integer],
    user: NDArray[np.integer],
    category: NDArray[np.integer],
    low_share: float = LOW_ACTIVITY_SHARE,
) -> float | None:
    """Whether the low-activity members of a group like what its high-activity members like.

    ::

        p_L,g, p_H,g    share of each category in the purchases of low and of high members of g
        p_L, p_H        the same over all groups
        agreement     = mean over g of cos(p_L,g - p_L, p_H,g - p_H), weighted by low members

    What everybody likes is taken off first: without that, random groups agree as well.

    Args:
        group: int [n_users], or [n_users, k] all groups that a user is a member of; negative where
            a user has none.
        user: int [P] row of the buyer of each (purchase, category) pair, before the snapshot.
        category: int [P].
        low_share: Share of the users with a purchase, fewest purchases first, who are low.

    Returns:
        In [-1, 1], about 0 for random groups; None where no group has both kinds of members.

    References:
        ChoirRec, section 4.2.1 (consistent comparison between high- and low-activity users).
    """
    belongs = group if group.ndim == 2 else group[:, None]
    known = np.any(belongs >= 0, axis=1)[user]
    user, category = user[known], category[known]
    if len(user) == 0:
        return None
    counts = np.bincount(user, minlength=len(group))
    buyers = np.flatnonzero(counts > 0)
    by_activity = buyers[np.lexsort((buyers, counts[buyers]))]
    low = np.zeros(len(group), bool)
    low[by_activity[: round(low_share * len(buyers))]] = True

    n_groups, n_categories = int(belongs.max()) + 1, int(category.max()) + 1
    event, column = np.nonzero(belongs[user] >= 0)
    of, bought = belongs[user[event], column], category[event]
    shares = [
        _shares(of[part], bought[part], n_groups, n_categories)
        for part in (low[user[event]], ~low[user[event]])
    ]
    lows = belongs[buyers[low[buyers]]]
    members = np.bincount(lows[lows >= 0], minlength=n_groups)  # low ones of each group
    weight = members * (shares[0].sum(axis=1) > 0) * (shares[1].sum(axis=1) > 0)
    if not weight.any():
        return None
    everyone = [
        np.bincount(category[part], minlength=n_categories) / max(int(part.sum()), 1)
        for part in (low[user], ~low[user])
    ]
    cosine = _cosine(shares[0] - everyone[0], shares[1] - everyone[1])
    return float((cosine * weight).sum() / weight.sum())


def concentration(
    group: NDArray[np.integer], user: NDArray[np.integer], category: NDArray[np.integer], n: int
) -> tuple[float | None, float | None]:
    """Share of purchases in the ``n`` largest categories: mean over groups, and of everybody.

    Args:
        group: int [n_users], or [n_users, k] all groups that a user is a member of; negative where
            a user has none.
        user: int [P] row of the buyer of each (purchase, category) pair.
        category: int [P].
        n: Categories that are counted, each group's own.
    """
    belongs = group if group.ndim == 2 else group[:, None]
    known = np.any(belongs >= 0, axis=1)[user]
    user, category = user[known], category[known]
    if len(user) == 0:
        return None, None
    event, column = np.nonzero(belongs[user] >= 0)
    of = belongs[user[event], column]
    shares = _shares(of, category[event], int(of.max()) + 1, int(category.max()) + 1)
    shares = shares[shares.sum(axis=1) > 0]
    everybody = np.sort(np.bincount(category) / len(category))[::-1]
    top = np.sort(shares, axis=1)[:, ::-1][:, :n]
    return float(top.sum(axis=1).mean()), float(everybody[:n].sum())


def _shares(
    group: NDArray[np.integer], category: NDArray[np.integer], n_groups: int, n_categories: int
) -> Floats:
    """Share of each category in a group's purchases [groups, categories]; zeros without any."""
    flat = group.astype(np.int64) * n_categories + category
    counts = np.bincount(flat, minlength=n_groups * n_categories).reshape(n_groups, n_categories)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _cosine(a: Floats, b: Floats) -> Floats:
    """Cosine of each row of ``a`` with that of ``b``; 0 where one of them is 0."""
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 1e-12)
