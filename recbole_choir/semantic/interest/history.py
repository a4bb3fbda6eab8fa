"""Users' positives as one pool of whole numbers, and the samples of next-item training in it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.semantic.frames.frames import ITEM_ID, TIMESTAMP, USER_ID, Frames
from recbole_choir.semantic.frames.hashing import hash_of, mixed

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Objects = NDArray[np.object_]

#: Share of the users with a sample who are kept back to stop training and to measure it.
HELD_OUT: Final = 0.1


@dataclass(frozen=True)
class Histories:
    """Positives sorted by user and time: one pool, one range a user.

    Args:
        user_ids: object [U], sorted.
        first: int64 [U + 1]: user u's events are ``first[u] .. first[u + 1] - 1`` of the pool.
        item: int64 [E], row of each event's item.
        time: float64 [E].
        known: int64 [E], the user's first event of the same time: ``first[u] .. known[e] - 1`` are
            the events strictly before event e.
    """

    user_ids: Objects
    first: Ints
    item: Ints
    time: NDArray[np.float64]
    known: Ints

    @property
    def user(self) -> Ints:
        """Row of each event's user: int64 [E]."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.first))


def read_histories(frames: Frames, item_ids: Objects) -> Histories:
    """The positives of ``frames`` whose item is one of ``item_ids``.

    Nothing depends on the order of rows: users are sorted by id, events by user, time and a hash.
    Positives of other items (they have no vector) are left out and counted in the log.

    Args:
        frames: Events strictly before ``frames.time``.
        item_ids: object [I]; an event's item is a row of it.
    """
    user_ids = np.sort(frames.users[USER_ID].to_numpy(dtype=object))
    rows = frames.positives
    user = row_of(user_ids, rows[USER_ID].to_numpy(dtype=object))
    item = row_of(item_ids, rows[ITEM_ID].to_numpy(dtype=object))
    time = rows[TIMESTAMP].to_numpy(dtype=np.float64)
    kept = (user >= 0) & (item >= 0)
    if not kept.all():
        logger.info(
            "interest: %d of %d positives left out, their item has no vector",
            *(int((~kept).sum()), len(kept)),
        )
    user, item, time = user[kept], item[kept], time[kept]
    # Positives of one moment have no order: a hash gives them one. That of the ids would have the
    # newest of a long basket be those with the largest ids.
    tie = mixed(hash_of(item_ids)[item] ^ mixed(hash_of(user_ids))[user])
    order = np.lexsort((item, tie, time, user))
    user, item, time = user[order], item[order], time[order]
    first = np.searchsorted(user, np.arange(len(user_ids) + 1)).astype(np.int64)
    new = np.ones(len(user), dtype=bool)
    new[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    known = np.maximum.accumulate(np.where(new, np.arange(len(user)), 0)).astype(np.int64)
    return Histories(user_ids, first, item, time, known)


@dataclass(frozen=True)
class Windows:
    """Stretches of the pool that are read at once; each predicts the targets that follow it.

    Every event of the pool is a target exactly once, predicted from events strictly before it:
    all events of one basket from what came before the basket.

    Args:
        user: int64 [W].
        begin, end: int64 [W], events ``begin .. end - 1`` are read; none where they are equal.
        target: int64 [W + 1], events ``target[w] .. target[w + 1] - 1`` are predicted, each from
            ``begin[w] .. known[e] - 1``.
    """

    user: Ints
    begin: Ints
    end: Ints
    target: Ints

    @property
    def n_targets(self) -> Ints:
        """Targets of each window: int64 [W]."""
        return np.diff(self.target)


def windows(histories: Histories, length: int) -> Windows:
    """Cut the pool into windows of at most ``length`` events.

    Predictions see at least ``length - length // 2 + 1`` events where there are that many, and at
    most ``length``. Neighbouring windows overlap, so that an event is read about twice.

    Args:
        histories: The pool.
        length: Longest history, at least 1.
    """
    stride = max(1, length // 2)
    user = histories.user
    start = histories.first[user]
    at = (histories.known - start) // stride  # [E] the window of each target within its user
    new = np.ones(len(user), dtype=bool)
    new[1:] = (user[1:] != user[:-1]) | (at[1:] != at[:-1])
    opening = np.flatnonzero(new)
    target = np.append(opening, len(user)).astype(np.int64)
    base = start[opening]
    begin = np.maximum(base, base + at[opening] * stride - (length - stride + 1))
    # what the window's last target may know
    end = histories.known[target[1:] - 1] if len(opening) else opening
    return Windows(user[opening], begin, np.maximum(end, begin), target)


def newest(histories: Histories, length: int) -> tuple[Ints, Ints]:
    """Ranges of the newest ``length`` events of every user: begin and end, int64 [U]."""
    end = histories.first[1:]
    return np.maximum(histories.first[:-1], end - length), end


def held_out_users(user_ids: Objects, candidates: Ints, seed: int) -> Ints:
    """The rows among ``candidates`` that are kept back: a tenth, at least one of two or more.

    Chosen by a hash of the id, so that neither the order of users nor users elsewhere matter much.

    Args:
        user_ids: object [U].
        candidates: int64 [n], distinct rows.
        seed: Another seed, other users.
    """
    if len(candidates) < 2:
        return candidates[:0]
    n = max(1, round(HELD_OUT * len(candidates)))
    salt = mixed(np.array([seed % 2**64], dtype=np.uint64))
    order = np.argsort(mixed(hash_of(user_ids[candidates]) ^ salt), kind="stable")
    return np.sort(candidates[order[:n]])


def ranges(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All numbers of the ranges ``begin[i] .. end[i] - 1``, and which i each belongs to."""
    sizes = end - begin
    owner = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return begin[owner] + within, owner


def row_of(known: Objects, ids: Objects) -> Ints:
    """Row of ``known`` of each id, -1 where it is not there: int64 [n]."""
    return pd.Index(known).get_indexer(pd.Index(ids)).astype(np.int64)
