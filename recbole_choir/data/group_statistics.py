"""What a row's group did with the target item and its categories, as of the row.

Not in ChoirRec's paper: it tells apart what the architecture gains from what the groups know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.asof import AsOfIndex
from recbole_choir.data.statistics import Events, expand_categories, population_rate

Floats = NDArray[np.float64]

ITEM_COLUMNS = ("item_log_exposures", "item_log_positives", "item_lift")
CATEGORY_COLUMNS = ("category_log_exposures", "category_log_positives", "category_lift")
#: Standardised values are clipped here, so that a rare group cannot dominate a batch.
CLIP = 6.0


@dataclass(frozen=True)
class Membership:
    """Which groups each user belongs to in one snapshot, and how much.

    Hard groups have k = 1 and weight 1; soft groups give several groups with weights.

    Args:
        index: ``[n_users, k]`` rows of the group arrays, 0 for none.
        weight: ``[n_users, k]`` float64; ignored where ``index`` is 0.
    """

    index: NDArray[np.integer]
    weight: Floats

    @classmethod
    def hard(cls, group: NDArray[np.integer]) -> Membership:
        """One group a user: ``group`` is ``[n_users]``, 0 for none."""
        return cls(np.asarray(group)[:, None], np.ones((len(group), 1)))


@dataclass(frozen=True)
class GroupStatistics:
    """Raw group statistics of rows.

    Args:
        values: ``[N, 6]`` (``[N, 3]`` without categories); zero where ``known`` is False.
        known: ``[N]`` whether the row has a snapshot and its user a group in it.
        names: Names of the columns.
    """

    values: Floats
    known: NDArray[np.bool_]
    names: tuple[str, ...]


def group_statistics(
    events: Events,
    rows: Events,
    snapshot: NDArray[np.integer],
    membership: Callable[[int], Membership],
    categories: NDArray[np.integer] | None = None,
    prior: float = 20.0,
) -> GroupStatistics:
    """Count a group's events with the target item and its categories, strictly before the row.

    Members are those of the row's snapshot, which lies strictly before the row; their events are
    counted up to the row. The row's own user is left out of every count, of the population's too
    (the overall rate alone, towards which the population's rate is smoothed, keeps everybody).
    With r the population's smoothed rate, ``lift = log(((pos + m r) / (exp + m)) / r)``. An item
    with several categories gets the mean of its categories' counts.

    Args:
        events: What may be counted: all rows, or the training rows alone.
        rows: The rows to describe; their labels are not read.
        snapshot: ``[N]`` newest snapshot strictly before each row, 0 for none.
        membership: From a snapshot's number (1..S) to its groups.
        categories: ``[n_items, k]`` category ids, 0-padded, or None.
        prior: m, pseudo-exposures of the lift. 20 keeps groups of a few rows near zero.

    Returns:
        Raw statistics; pass them to :func:`standardize_groups`.
    """
    groups = {int(s): membership(int(s)) for s in np.unique(snapshot) if s > 0}
    known = np.zeros(len(rows), dtype=bool)
    for s, members in groups.items():
        at = np.flatnonzero(snapshot == s)
        known[at] = ((members.index > 0) & (members.weight > 0))[rows.user[at]].any(axis=1)

    rate = population_rate(events, rows.time)
    names = ITEM_COLUMNS if categories is None else ITEM_COLUMNS + CATEGORY_COLUMNS
    blocks = [_block(events, rows, snapshot, groups, known, rate, prior, None)]
    if categories is not None:
        blocks.append(_block(events, rows, snapshot, groups, known, rate, prior, categories))
    return GroupStatistics(np.concatenate(blocks, axis=1), known, names)


def standardize_groups(
    stats: GroupStatistics, train: NDArray[np.integer] | NDArray[np.bool_] | slice
) -> NDArray[np.float32]:
    """Standardise over the training rows with a group, clip at +-6, zero elsewhere: float32."""
    mask = np.zeros(len(stats.known), dtype=bool)
    mask[train] = True
    mask &= stats.known
    if not mask.any():
        return np.zeros(stats.values.shape, dtype=np.float32)
    fitted = stats.values[mask]
    scale = fitted.std(axis=0)
    out = (stats.values - fitted.mean(axis=0)) / np.where(scale > 1e-8, scale, 1.0)
    return np.where(stats.known[:, None], np.clip(out, -CLIP, CLIP), 0.0).astype(np.float32)


@dataclass(frozen=True)
class _Pairs:
    """Events, or rows, beside what they are about: an item, or one of its categories.

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


def _block(
    events: Events,
    rows: Events,
    snapshot: NDArray[np.integer],
    groups: dict[int, Membership],
    known: NDArray[np.bool_],
    rate: Floats,
    prior: float,
    categories: NDArray[np.integer] | None,
) -> Floats:
    """Columns log exposures, log positives and lift for items, or for categories: [N, 3]."""
    wanted = np.flatnonzero(known)
    asked = _Pairs.of(rows.take(wanted), categories)
    # In the order of time, which every index below needs, and so that a prefix is a period.
    by_time = np.argsort(events.time, kind="stable")
    done = _Pairs.of(events.take(by_time), categories)
    width = int(max(done.what.max(initial=0), asked.what.max(initial=0))) + 1

    own = _counts(done, asked, done.user * width + done.what, asked.user * width + asked.what)
    everyone = _counts(done, asked, done.what, asked.what) - own  # [P, 2]
    group = np.zeros_like(own)
    for s, members in groups.items():
        here = np.flatnonzero(snapshot[wanted[asked.at]] == s)
        if not len(here):
            continue
        query = asked.take(here)
        before = done.take(slice(0, int(np.searchsorted(done.time, query.time.max()))))
        # The user's own events entered with the product of both weights of every shared group.
        same = np.where(members.index > 0, members.weight, 0.0)[query.user]
        total = _weighted(members, before, query, width)
        group[here] = np.maximum(total - own[here] * (same**2).sum(axis=1, keepdims=True), 0.0)

    per_row = np.maximum(np.bincount(asked.at, minlength=len(wanted)), 1)[:, None]
    group = _add(group, asked.at, len(wanted)) / per_row
    everyone = _add(everyone, asked.at, len(wanted)) / per_row
    out = np.zeros((len(rows), 3))
    base = (everyone[:, 1] + prior * rate[wanted]) / (everyone[:, 0] + prior)
    lift = np.log((group[:, 1] + prior * base) / (group[:, 0] + prior) / base)
    out[wanted] = np.stack([np.log1p(group[:, 0]), np.log1p(group[:, 1]), lift], axis=1)
    return out


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
    if members.index.shape[1] == 1 and bool((members.weight == 1).all()):
        group = members.index[:, 0].astype(np.int64)
        keep = np.flatnonzero(group[done.user] > 0)
        done = done.take(keep)
        # Every user asked for has a group here: rows without one were left out before.
        return _counts(
            done,
            asked,
            group[done.user] * width + done.what,
            group[asked.user] * width + asked.what,
        )
    member = (members.index > 0) & (members.weight > 0)  # [n_users, k]
    e, slot = np.nonzero(member[done.user])
    done = done.take(e)
    q, q_slot = np.nonzero(member[asked.user])
    query = asked.take(q)
    found = _counts(
        done,
        query,
        members.index[done.user, slot].astype(np.int64) * width + done.what,
        members.index[query.user, q_slot].astype(np.int64) * width + query.what,
        members.weight[done.user, slot],
    )
    return _add(found * members.weight[query.user, q_slot][:, None], q, len(asked.at))


def _add(values: Floats, at: NDArray[np.integer], n: int) -> Floats:
    """Add the rows of ``values`` [P, 2] into ``n`` bins."""
    return np.stack([np.bincount(at, weights=values[:, c], minlength=n) for c in (0, 1)], axis=1)
