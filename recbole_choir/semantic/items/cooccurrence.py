"""Which items are chosen together: pairs within a window of one user's positives, counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames.frames import ITEM_ID, TIMESTAMP, USER_ID, Frames
from recbole_choir.semantic.frames.hashing import hash_of, mixed

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]

#: Events looked at in one go: memory is this times the window, whatever the number of events.
_CHUNK: Final = 1 << 19

HELD_OUT: Final = 0.1
#: More held-out pairs than this make a measure dear, not better.
MAX_HELD_OUT: Final = 5000


class Pairs(NamedTuple):
    """Unordered pairs of rows, each once, sorted by (``first``, ``second``)."""

    first: Ints  # [P], the smaller row
    second: Ints  # [P]
    users: Ints  # [P], how many chose both within the window

    def take(self, chosen: NDArray[np.bool_] | Ints) -> Pairs:
        """Some of the pairs: a mask [P], or increasing indices."""
        return Pairs(*(column[chosen] for column in self))


def cooccurring(
    frames: Frames, item_ids: NDArray[np.object_], window: int, chunk: int = _CHUNK
) -> Pairs:
    """Pairs of items that one user chose at most ``window`` positives apart.

    ::

        c_ij = number of users with a positive of i and one of j at most `window` positives apart

    A user counts once for a pair, so that nobody makes a pair frequent alone. Positives with equal
    time stamps have no order; they stand in one given by a hash, not in that of their ids, which
    would make neighbours of ids that are alike. Memory and time are linear in events.

    Args:
        frames: What is known before a moment.
        item_ids: object [n] ids that rows of the pairs stand for; other items are skipped before
            distances are counted.
        window: Positives apart, at least 1.
        chunk: Events looked at in one go.

    Returns:
        Pairs of rows of ``item_ids``; none of a row with itself.

    Raises:
        ConfigError: ``window`` is less than 1.

    References:
        AKT-Rec, section 3.1.1; docs/gaps.md A12.
    """
    if window < 1:
        raise ConfigError(f"window: expected a number >= 1, got {window}")
    user, item = _sequences(frames, item_ids)
    n = len(item_ids)
    keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start, stop in _blocks(user, chunk):
        key, count = _count(user[start:stop], item[start:stop], n, window)
        keys.append(key)
        counts.append(count)
    key, of = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(of.reshape(-1), np.concatenate(counts), minlength=len(key))
    return Pairs(key // max(n, 1), key % max(n, 1), total.astype(np.int64))


def frequent(pairs: Pairs, min_count: int, max_pairs: int | None = None) -> Pairs:
    """The pairs that co-occur often.

    Where none does so ``min_count`` times, the largest smaller number with pairs is taken, with a
    log line. Of more than ``max_pairs`` the most frequent are kept; ties at the cut by a hash.
    """
    if len(pairs.users) == 0:
        return pairs
    reached = int(pairs.users.max())
    if reached < min_count:
        logger.warning(
            "co-occurrence: no pair of items has %d users, min_count is lowered to %d",
            *(min_count, reached),
        )
    chosen = pairs.take(pairs.users >= min(min_count, reached))
    if max_pairs is None or len(chosen.users) <= max_pairs:
        return chosen
    tie = mixed(chosen.first.astype(np.uint64) << np.uint64(32) ^ chosen.second.astype(np.uint64))
    order = np.lexsort((tie, -chosen.users))[:max_pairs]
    return chosen.take(np.sort(order))


def hold_out(
    pairs: Pairs, seed: int, share: float = HELD_OUT, most: int = MAX_HELD_OUT
) -> tuple[Pairs, Pairs]:
    """Split pairs at random into those to train on and those to measure by.

    Returns:
        Training and held-out pairs; none are held out of fewer than ``1 / share``.
    """
    n = len(pairs.users)
    held = np.zeros(n, bool)
    n_held = min(int(n * share), most)
    held[np.random.default_rng([seed, 1]).permutation(n)[:n_held]] = True
    return pairs.take(~held), pairs.take(held)


def _sequences(frames: Frames, item_ids: NDArray[np.object_]) -> tuple[Ints, Ints]:
    """Users and items of the positives, sorted by user and time: int64 [E] each."""
    positives = frames.positives
    row = pd.Index(item_ids).get_indexer(pd.Index(positives[ITEM_ID].to_numpy(object)))
    known = row >= 0
    user, names = pd.factorize(positives[USER_ID].to_numpy(object)[known])
    item = row[known].astype(np.int64)
    time = positives[TIMESTAMP].to_numpy(np.float64)[known]
    tie = mixed(hash_of(item_ids)[item] ^ mixed(hash_of(names))[user])
    order = np.lexsort((item, tie, time, user))
    return user[order].astype(np.int64), item[order]


def _blocks(user: Ints, chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges of about ``chunk`` events that hold whole users."""
    ends = np.append(np.flatnonzero(user[1:] != user[:-1]) + 1, len(user))
    start = 0
    while start < len(user):
        # at least one user, however many events that may be
        first, last = np.searchsorted(ends, (start, start + chunk), side="right")
        stop = int(ends[max(first, last - 1)])
        yield start, stop
        start = stop


def _count(user: Ints, item: Ints, n: int, window: int) -> tuple[Ints, Ints]:
    """Keys ``first * n + second`` of the pairs in whole users' events, and users of each."""
    keys, users = [], []
    for shift in range(1, min(window, len(user) - 1) + 1):
        a, b = item[:-shift], item[shift:]
        wanted = (user[:-shift] == user[shift:]) & (a != b)
        keys.append((np.minimum(a, b) * n + np.maximum(a, b))[wanted])
        users.append(user[:-shift][wanted])
    if not keys:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    key, who = np.concatenate(keys), np.concatenate(users)
    order = np.lexsort((who, key))
    key, who = key[order], who[order]
    new = np.ones(len(key), bool)
    new[1:] = (key[1:] != key[:-1]) | (who[1:] != who[:-1])  # a user counts once
    return np.unique(key[new], return_counts=True)
