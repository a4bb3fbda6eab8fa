"""What a row's group did with the target item and its categories, as of the row.

Not in ChoirRec's paper: it tells apart what the architecture gains from what the groups know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.asof import asof_sum, combine_keys
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
    # Pairs (event, what) and (row, what); for items every row is one pair.
    e_at, e_what = _pairs(events.item, categories)
    counted = np.stack([np.ones(len(e_at)), events.label[e_at].astype(np.float64)], axis=1)
    e_user, e_time = events.user[e_at], events.time[e_at]

    wanted = np.flatnonzero(known)
    q_at, q_what = _pairs(rows.item[wanted], categories)
    q_row = wanted[q_at]
    q_user, q_time = rows.user[q_row], rows.time[q_row]

    own = asof_sum(
        combine_keys(e_user, e_what), e_time, combine_keys(q_user, q_what), q_time, counted
    )  # [P, 2]
    everyone = asof_sum(e_what, e_time, q_what, q_time, counted) - own
    group = np.zeros_like(own)
    for s, members in groups.items():
        here = np.flatnonzero(snapshot[q_row] == s)
        if not len(here):
            continue
        before = np.flatnonzero(e_time < q_time[here].max())
        total = _weighted(
            members, e_user[before], e_what[before], e_time[before], counted[before],
            q_user[here], q_what[here], q_time[here],
        )  # fmt: skip
        # The user's own events entered with the product of both weights of every shared group.
        same = np.where(members.index > 0, members.weight, 0.0)[q_user[here]]
        group[here] = np.maximum(total - own[here] * (same**2).sum(axis=1, keepdims=True), 0.0)

    per_row = np.maximum(np.bincount(q_at, minlength=len(wanted)), 1)[:, None]
    group, everyone = (_add(v, q_at, len(wanted)) / per_row for v in (group, everyone))
    out = np.zeros((len(rows), 3))
    base = (everyone[:, 1] + prior * rate[wanted]) / (everyone[:, 0] + prior)
    lift = np.log((group[:, 1] + prior * base) / (group[:, 0] + prior) / base)
    out[wanted] = np.stack([np.log1p(group[:, 0]), np.log1p(group[:, 1]), lift], axis=1)
    return out


def _weighted(
    members: Membership,
    e_user: NDArray[np.int64],
    e_what: NDArray[np.int64],
    e_time: Floats,
    counted: Floats,
    q_user: NDArray[np.int64],
    q_what: NDArray[np.int64],
    q_time: Floats,
) -> Floats:
    """Sum over shared groups of the member's weight times the querying user's weight: [Q, 2]."""
    member = (members.index > 0) & (members.weight > 0)  # [n_users, k]
    e, slot = np.nonzero(member[e_user])
    e_group = members.index[e_user[e], slot]
    q, q_slot = np.nonzero(member[q_user])
    q_group = members.index[q_user[q], q_slot]
    found = asof_sum(
        combine_keys(e_group, e_what[e]),
        e_time[e],
        combine_keys(q_group, q_what[q]),
        q_time[q],
        counted[e] * members.weight[e_user[e], slot][:, None],
    )
    return _add(found * members.weight[q_user[q], q_slot][:, None], q, len(q_user))


def _add(values: Floats, at: NDArray[np.integer], n: int) -> Floats:
    """Add the rows of ``values`` [P, 2] into ``n`` bins."""
    return np.stack([np.bincount(at, weights=values[:, c], minlength=n) for c in (0, 1)], axis=1)


def _pairs(
    items: NDArray[np.int64], categories: NDArray[np.integer] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if categories is None:
        return np.arange(len(items), dtype=np.int64), items
    return expand_categories(items, categories)
