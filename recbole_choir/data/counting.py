"""Counts of events about the same thing, strictly before each row: own, everybody's, a group's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.asof import AsOfIndex
from recbole_choir.data.statistics import Events, expand_categories

Floats = NDArray[np.float64]
#: Groups of each snapshot.
Memberships = Mapping[int, "Membership"]


@dataclass(frozen=True)
class Membership:
    """Which groups each user belongs to in one snapshot, and how much, and which it asks.

    A user's events count for every group it belongs to. A group that small siblings back off to has
    members who ask a deeper group of their own, so the two differ.

    Args:
        index: ``[n_users, k]`` rows of the group arrays, 0 for none; each group once a user.
        weight: ``[n_users, k]`` float64; ignored where ``index`` is 0.
        read: ``[n_users]`` the one group whose counts a user's rows see, 0 for none; None where
            they see all groups that the user belongs to, by weight.
    """

    index: NDArray[np.integer]
    weight: Floats
    read: NDArray[np.integer] | None = None

    @classmethod
    def hard(cls, group: NDArray[np.integer]) -> Membership:
        """One group a user: ``group`` is ``[n_users]``, 0 for none."""
        return cls(np.asarray(group)[:, None], np.ones((len(group), 1)))

    @classmethod
    def nested(cls, index: NDArray[np.integer], read: NDArray[np.integer]) -> Membership:
        """Whole members of each group in ``index`` ``[n_users, k]``, who see ``read`` alone."""
        return cls(np.asarray(index), np.ones(np.shape(index)), np.asarray(read))

    @property
    def asked(self) -> tuple[NDArray[np.integer], Floats]:
        """Groups ``[n_users, j]`` whose counts a user's rows see, and how much of each."""
        if self.read is None:
            return self.index, self.weight
        return self.read[:, None], np.ones((len(self.read), 1))

    @property
    def known(self) -> NDArray[np.bool_]:
        """Users ``[n_users]`` whose rows see a group."""
        index, weight = self.asked
        return np.asarray(np.any((index > 0) & (weight > 0), axis=1))

    def with_itself(self) -> Floats:
        """How much of a user's own events is in what its rows see: ``[n_users]``."""
        index, weight = self.asked
        own = (self.index[:, :, None] == index[:, None, :]) & (self.index > 0)[:, :, None]
        return (own * self.weight[:, :, None] * weight[:, None, :]).sum(axis=(1, 2))


@dataclass(frozen=True)
class _Pairs:
    """Events, or rows, with what they are about: an item, or one of its categories.

    Args:
        at: ``[P]`` position of the event or row.
        user, what, time: ``[P]``.
        label: ``[P]``; read of events only.
    """

    at: NDArray[np.int64]
    user: NDArray[np.int64]
    what: NDArray[np.int64]
    time: Floats
    label: NDArray[np.float32]

    @classmethod
    def of(cls, events: Events, categories: NDArray[np.integer] | None) -> _Pairs:
        if categories is None:
            at = np.arange(len(events), dtype=np.int64)
            return cls(at, events.user, events.item, events.time, events.label)
        at, what = expand_categories(events.item, categories)
        return cls(at, events.user[at], what, events.time[at], events.label[at])

    def take(self, keep: NDArray[np.integer] | slice) -> _Pairs:
        return _Pairs(
            self.at[keep], self.user[keep], self.what[keep], self.time[keep], self.label[keep]
        )


@dataclass(frozen=True)
class AboutCounts:
    """Exposures and positives about what a row asks for, strictly before it.

    Args:
        own: ``[N, 2]`` of the row's user.
        everyone: ``[N, 2]`` of all other users.
        group: ``[N, 2]`` of the other members of the user's groups, weighted.
    """

    own: Floats
    everyone: Floats
    group: Floats

    def columns(self, rate: Floats, prior: float) -> Floats:
        """``[N, 3]``: log1p of the group's exposures and positives, and its lift.

        With r the population's rate, smoothed by ``prior`` rows at ``rate``,
        ``lift = log(((pos + m r) / (exp + m)) / r)``.

        Args:
            rate: ``[N]`` overall rate of positives as of the row.
            prior: m, pseudo-exposures.
        """
        base = (self.everyone[:, 1] + prior * rate) / (self.everyone[:, 0] + prior)
        lift = np.log((self.group[:, 1] + prior * base) / (self.group[:, 0] + prior) / base)
        counts = [np.log1p(self.group[:, 0]), np.log1p(self.group[:, 1])]
        return np.stack([*counts, lift], axis=1)


def about_counts(
    events: Events,
    rows: Events,
    snapshot: NDArray[np.integer],
    groups: Memberships,
    categories: NDArray[np.integer] | None,
    asks: NDArray[np.integer] | None = None,
) -> AboutCounts:
    """Count the events about each row's item, or about its categories, strictly before it.

    Members are those of the row's snapshot; their events are counted up to the row. The row's own
    user is left out of ``everyone`` and ``group``. An item with several categories gets the mean
    of its categories' counts; one without any gets zeros.

    Args:
        events: What may be counted, in any order.
        rows: The rows to describe; their labels are not read.
        snapshot: ``[N]`` newest snapshot strictly before each row; one that ``groups`` lacks means
            no group.
        groups: Groups of each snapshot.
        categories: ``[n_items, k]`` what an item is about, 0-padded; None: the item itself.
        asks: ``[n_items, j]`` what of it a row asks for; all of it by default.
    """
    asked = _Pairs.of(rows, categories if asks is None else asks)
    # In the order of time, which every index below needs, and so that a prefix is a period.
    by_time = np.argsort(events.time, kind="stable")
    done = _Pairs.of(events.take(by_time), categories)
    width = int(max(done.what.max(initial=0), asked.what.max(initial=0))) + 1

    own = _own(done, asked, width)
    everyone = _counts(done, asked, done.what, asked.what) - own  # [P, 2]
    group = np.zeros_like(own)
    for s, members in groups.items():
        here = np.flatnonzero(snapshot[asked.at] == s)
        if not len(here):
            continue
        query = asked.take(here)
        before = done.take(slice(0, int(np.searchsorted(done.time, query.time.max()))))
        # The user's own events entered with the product of both weights of every shared group.
        same = members.with_itself()[query.user, None]
        total = _weighted(members, before, query, width)
        group[here] = np.maximum(total - own[here] * same, 0.0)
    return AboutCounts(*(_mean(c, asked, len(rows)) for c in (own, everyone, group)))


def own_counts(events: Events, rows: Events, categories: NDArray[np.integer]) -> Floats:
    """Exposures and positives of the row's own user, as in :func:`about_counts`: ``[N, 2]``."""
    asked, done = _Pairs.of(rows, categories), _Pairs.of(events, categories)
    width = int(max(done.what.max(initial=0), asked.what.max(initial=0))) + 1
    return _mean(_own(done, asked, width), asked, len(rows))


def _own(done: _Pairs, asked: _Pairs, width: int) -> Floats:
    return _counts(done, asked, done.user * width + done.what, asked.user * width + asked.what)


def _mean(counts: Floats, asked: _Pairs, n_rows: int) -> Floats:
    """Mean over what each row asks for: from ``[P, 2]`` to ``[N, 2]``."""
    return (
        _add(counts, asked.at, n_rows)
        / np.maximum(np.bincount(asked.at, minlength=n_rows), 1)[:, None]
    )


def _counts(
    done: _Pairs,
    asked: _Pairs,
    done_key: NDArray[np.int64],
    asked_key: NDArray[np.int64],
    weight: Floats | None = None,
) -> Floats:
    """Exposures and positives with each query's key, strictly before it: [Q, 2]."""
    index = AsOfIndex(done_key, done.time)
    start, end = index.bounds(asked_key, asked.time)
    label = done.label if weight is None else done.label * weight
    exposures = (
        (end - start).astype(np.float64) if weight is None else index.sum(weight, start, end)
    )
    return np.stack([exposures, index.sum(label, start, end)], axis=1)


def _weighted(members: Membership, done: _Pairs, asked: _Pairs, width: int) -> Floats:
    """Sum over shared groups of the member's weight times the querying user's weight: [Q, 2]."""
    belongs = (members.index > 0) & (members.weight > 0)  # [n_users, k]
    e, slot = np.nonzero(belongs[done.user])
    done = done.take(e)
    index, weight = members.asked
    sees = (index > 0) & (weight > 0)  # [n_users, j]
    q, q_slot = np.nonzero(sees[asked.user])
    query = asked.take(q)
    whole = bool((members.weight == 1).all())  # plain counts need no cumulative weights
    found = _counts(
        done,
        query,
        members.index[done.user, slot].astype(np.int64) * width + done.what,
        index[query.user, q_slot].astype(np.int64) * width + query.what,
        None if whole else members.weight[done.user, slot],
    )
    return _add(found * weight[query.user, q_slot][:, None], q, len(asked.at))


def _add(values: Floats, at: NDArray[np.integer], n: int) -> Floats:
    """Add the rows of ``values`` [P, 2] into ``n`` bins."""
    return np.stack([np.bincount(at, weights=values[:, c], minlength=n) for c in (0, 1)], axis=1)
