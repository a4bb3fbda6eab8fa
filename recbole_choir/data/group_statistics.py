"""What a row's group did with the target item and its categories, as of the row.

Not in ChoirRec's paper: it tells apart what the architecture gains from what the groups know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.counting import Membership, about_counts
from recbole_choir.data.statistics import (
    STATS_CLIP,
    Events,
    clip_statistics,
    population_rate,
)

Floats = NDArray[np.float64]

ITEM_COLUMNS = ("item_log_exposures", "item_log_positives", "item_lift")
CATEGORY_COLUMNS = ("category_log_exposures", "category_log_positives", "category_lift")


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

    Members are those of the row's snapshot, which lies strictly before the row, and all of them: a
    prefix that small groups back off to counts those as well who read a deeper group
    (:mod:`recbole_choir.prefix_groups`). Their events are counted up to the row. The row's own user
    is left out of every count, of the population's too (the overall rate alone, towards which the
    population's rate is smoothed, keeps everybody). With r the population's smoothed rate,
    ``lift = log(((pos + m r) / (exp + m)) / r)``. An item with several categories gets the mean of
    its categories' counts.

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
        known[at] = members.known[rows.user[at]]

    rate = population_rate(events, rows.time)
    names = ITEM_COLUMNS if categories is None else ITEM_COLUMNS + CATEGORY_COLUMNS
    values = np.zeros((len(rows), len(names)))
    at = np.flatnonzero(known)
    for first, about in enumerate((None,) if categories is None else (None, categories)):
        counts = about_counts(events, rows.take(at), snapshot[at], groups, about)
        values[at, 3 * first : 3 * first + 3] = counts.columns(rate[at], prior)
    return GroupStatistics(values, known, names)


def standardize_groups(
    stats: GroupStatistics,
    train: NDArray[np.integer] | NDArray[np.bool_] | slice,
    clip: float | None = STATS_CLIP,
) -> NDArray[np.float32]:
    """Standardise over the training rows with a group, clip, zero elsewhere: float32.

    Args:
        stats: Raw statistics of rows.
        train: The training rows.
        clip: Largest absolute value, in standard deviations, so that a rare group cannot dominate a
            batch; None: no clip.
    """
    mask = np.zeros(len(stats.known), dtype=bool)
    mask[train] = True
    mask &= stats.known
    if not mask.any():
        return np.zeros(stats.values.shape, dtype=np.float32)
    fitted = stats.values[mask]
    scale = fitted.std(axis=0)
    out = (stats.values - fitted.mean(axis=0)) / np.where(scale > 1e-8, scale, 1.0)
    return np.where(stats.known[:, None], clip_statistics(out, clip), np.float32(0))
