"""Pairs of users who chose the same items: the positives of the alignment of users (Eq. 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recbole_choir.semantic.inputs.base import idf

Ints = NDArray[np.int64]


def user_pairs(
    users: NDArray[np.integer], items: NDArray[np.integer], n_users: int, n_pairs: int, seed: int
) -> Ints:
    """Draw pairs of users through the items that both chose.

    ::

        event (u, i)    drawn with probability ~ idf_i / sum of idf over u's items
        partner v       drawn alike from the other users of i

    So every user is drawn alike often, whatever was chosen, and a pair is the likelier the more
    items it shares and the rarer these are: an item of n users gives each pair of them weight
    idf / (n - 1). What everybody chose pairs nobody. No user x user matrix is made: memory and time
    are linear in events and pairs.

    Args:
        users: int [E] row of each positive's user, in any order.
        items: int [E] row of its item.
        n_users: Users in all.
        n_pairs: Pairs to draw, with replacement: a pair drawn twice counts twice.
        seed: Of the draws.

    Returns:
        int64 [n_pairs, 2] of different users; [0, 2] where no two share an item.
    """
    # each (user, item) once, sorted by item, then user
    key = np.unique(np.asarray(items, np.int64) * n_users + np.asarray(users, np.int64))
    item, user = np.divmod(key, n_users)
    new = np.ones(len(key), bool)
    new[1:] = item[1:] != item[:-1]
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(key)))  # users of each item
    of_event = np.repeat(np.arange(len(first)), size)
    weight = np.where(size > 1, idf(len(np.unique(user)), size), 0.0)[of_event]
    total = np.bincount(user, weight, minlength=n_users)
    weight = np.divide(weight, total[user], out=np.zeros_like(weight), where=total[user] > 0)
    reach = np.cumsum(weight)
    if len(reach) == 0 or reach[-1] <= 0 or n_pairs < 1:
        return np.zeros((0, 2), np.int64)
    rng = np.random.default_rng([seed, 3])
    at = np.searchsorted(reach, rng.random(n_pairs) * reach[-1], side="right")
    at = np.minimum(at, np.flatnonzero(weight > 0)[-1])  # rounding may point past the end
    start, count = first[of_event[at]], size[of_event[at]]
    # one of the others: a step of 1 .. count - 1 around the item's users
    step = 1 + (rng.random(n_pairs) * (count - 1)).astype(np.int64)
    other = start + (at - start + np.minimum(step, count - 1)) % count
    return np.stack([user[at], user[other]], axis=1)
