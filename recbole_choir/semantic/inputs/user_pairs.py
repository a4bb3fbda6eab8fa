"""Pairs of users who chose the same items: the positives of the alignment of users (Eq. 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recbole_choir.semantic.inputs.base import idf
from recbole_choir.semantic.items.cooccurrence import Pairs

Ints = NDArray[np.int64]


def user_pairs(
    users: NDArray[np.integer], items: NDArray[np.integer], n_users: int, draws: int, seed: int
) -> Pairs:
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
        draws: Pairs to draw, with replacement.
        seed: Of the draws.

    Returns:
        The pairs that were drawn, each once, with the number of times; none where no two users
        share an item.

    References:
        AKT-Rec, section 3.1.1, Eq. 1, applied to users.
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
    if len(reach) == 0 or reach[-1] <= 0 or draws < 1:
        return Pairs(*(np.zeros(0, np.int64) for _ in range(3)))
    rng = np.random.default_rng([seed, 3])
    at = np.searchsorted(reach, rng.random(draws) * reach[-1], side="right")
    at = np.minimum(at, np.flatnonzero(weight > 0)[-1])  # rounding may point past the end
    start, count = first[of_event[at]], size[of_event[at]]
    # one of the others: a step of 1 .. count - 1 around the item's users
    step = 1 + (rng.random(draws) * (count - 1)).astype(np.int64)
    other = start + (at - start + np.minimum(step, count - 1)) % count
    low, high = np.minimum(user[at], user[other]), np.maximum(user[at], user[other])
    pair, count = np.unique(low * n_users + high, return_counts=True)
    return Pairs(pair // n_users, pair % n_users, count.astype(np.int64))
