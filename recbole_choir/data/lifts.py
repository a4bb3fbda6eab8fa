"""How much more than the population a user's neighbourhood buys the target item, type, category.

User-neighbourhood collaborative filtering, told to a model as a few numbers a row. Not in
ChoirRec's paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir.data.cross_statistics import CrossStatistics
from recbole_choir.data.fields import LIFT_MASS
from recbole_choir.data.statistics import SECONDS_A_DAY, Events, expand_categories
from recbole_choir.data.table.soft_groups import SoftGroups, lookup
from recbole_choir.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LiftSource:
    """What a lift is about.

    Args:
        name: ``item``, or the item field.
        ids: ``[n_items, k]`` values of the field of each item, 0-padded; None: the item itself.
    """

    name: str
    ids: NDArray[np.integer] | None

    def pairs(self, items: Ints) -> tuple[Ints, Ints]:
        """Positions in ``items`` and what stands there: one pair a value of the field."""
        if self.ids is None:
            return np.arange(len(items), dtype=np.int64), items
        return expand_categories(items, self.ids)

    def size(self, n_items: int) -> int:
        """How many things there are, 0 included."""
        return n_items if self.ids is None else int(self.ids.max(initial=0)) + 1


def counted_until(
    time: Floats, snapshot: NDArray[np.integer], snapshot_times: Floats, refresh_days: float | None
) -> Floats:
    """Time up to which a row's lifts count events; never later than the row.

    Args:
        time: ``[N]`` times of the rows.
        snapshot: ``[N]`` newest snapshot strictly before each, 0 for none.
        snapshot_times: ``[S]``.
        refresh_days: None: as of the snapshot. Otherwise counts are renewed every so many days
            after the snapshot, the neighbours are not.

    Returns:
        ``[N]``; ``-inf`` without a snapshot.

    Raises:
        ConfigError: ``refresh_days`` is not positive.
    """
    start = np.append(-np.inf, snapshot_times)[snapshot]
    if refresh_days is None:
        return start
    if not refresh_days > 0:
        raise ConfigError(f"lift_refresh_days: expected a number above 0, got {refresh_days!r}")
    out, some = start.copy(), snapshot > 0
    step = refresh_days * SECONDS_A_DAY
    grown = start[some] + np.floor((time[some] - start[some]) / step) * step
    out[some] = np.minimum(grown, time[some])  # rounding never leads past the row
    return out


def soft_lifts(
    bought: Events,
    rows: Events,
    snapshot: NDArray[np.integer],
    until: Floats,
    groups: SoftGroups,
    sources: Sequence[LiftSource],
    prior: float = 300.0,
) -> CrossStatistics:
    """Compare what a row's neighbourhood bought before a moment with the population.

    ::

        lift = log( ((sum_v w_uv x_vi + m p_i) / (sum_v w_uv n_v + m)) / p_i )

    x_vi are v's purchases of i, n_v all of v's, p_i the population's share of i without u's own
    purchases; w_uu = 0, so that no purchase of u's enters its own lifts. 0 means as the population:
    for a user without weights, and for what nobody else has bought. An item with several values of
    a field gets the mean of their lifts.

    Args:
        bought: Positives that may be counted, in any order.
        rows: The rows to describe; their labels are not read.
        snapshot: ``[N]`` newest snapshot strictly before each row, 0 for none.
        until: ``[N]`` of :func:`counted_until`: purchases strictly before it are counted.
        groups: Weights at each snapshot.
        sources: What lifts are made of, one column each.
        prior: m, pseudo-purchases at the population's share. 300 keeps a neighbourhood of one or
            two buyers near zero.

    Returns:
        Raw lifts ``[N, sources]``, zero and unknown for rows without a snapshot and items without
        a value; standardise with :func:`~.cross_statistics.standardize_cross`.

    References:
        User-based collaborative filtering (Herlocker et al., 1999), as shares with a prior.
    """
    shape = (len(rows), len(sources))
    values, known = np.zeros(shape), np.zeros(shape, dtype=bool)
    n_items = int(max(bought.item.max(initial=0), rows.item.max(initial=0))) + 1
    for s, at, before in _moments(bought, snapshot, until):
        for column, source in enumerate(sources):
            counts = _counts(before, source, (groups.n_users, source.size(n_items)))
            where, what = source.pairs(rows.item[at])
            lift = _lift(counts, groups, s, rows.user[at][where], what, prior)
            total = np.bincount(where, weights=lift, minlength=len(at))
            n = np.bincount(where, minlength=len(at))
            values[at, column] = total / np.maximum(n, 1)
            known[at, column] = n > 0
    return CrossStatistics(values, known, tuple(f"lift_{source.name}" for source in sources))


def neighbourhood_mass(
    bought: Events,
    rows: Events,
    snapshot: NDArray[np.integer],
    until: Floats,
    groups: SoftGroups,
) -> CrossStatistics:
    """How much lies behind a row's lifts: ``log1p(sum_v w_uv n_v)``, one column.

    A user that no snapshot knows has lifts of 0, as one whose neighbours buy like everybody else
    has. This tells the two apart, which activity as of the row does not: whoever has come since the
    newest snapshot is active and has no neighbourhood.

    Args:
        bought, rows, snapshot, until, groups: As in :func:`soft_lifts`.

    Returns:
        ``[N, 1]``, known in every row: 0 without a snapshot or weights.
    """
    values = np.zeros((len(rows), 1))
    for s, at, before in _moments(bought, snapshot, until):
        by_user = np.bincount(before.user, minlength=groups.n_users).astype(np.float64)
        values[at, 0] = np.log1p(groups.masses(s, by_user)[rows.user[at]])
    return CrossStatistics(values, np.ones(values.shape, dtype=bool), (LIFT_MASS,))


def _moments(
    bought: Events, snapshot: NDArray[np.integer], until: Floats
) -> Iterator[tuple[int, Ints, Events]]:
    """A pass a moment of counting (snapshots and refreshes), never one a row.

    Yields:
        Snapshot, the rows of the moment, and what was bought strictly before it.
    """
    bought = bought.take(np.argsort(bought.time, kind="stable"))
    for s in (int(s) for s in np.unique(snapshot) if s > 0):
        of_snapshot = np.flatnonzero(snapshot == s)
        for moment in np.unique(until[of_snapshot]):
            at = of_snapshot[until[of_snapshot] == moment]
            yield s, at, bought.take(np.arange(np.searchsorted(bought.time, moment, "left")))


def _counts(events: Events, source: LiftSource, shape: tuple[int, int]) -> csr_matrix:
    """Purchases of each user of each thing."""
    at, what = source.pairs(events.item)
    counts = csr_matrix((np.ones(len(at)), (events.user[at], what)), shape=shape)
    counts.sum_duplicates()
    return counts


def _lift(
    counts: csr_matrix, groups: SoftGroups, snapshot: int, user: Ints, what: Ints, prior: float
) -> Floats:
    by_user = np.asarray(counts.sum(axis=1)).reshape(-1)
    by_what = np.asarray(counts.sum(axis=0)).reshape(-1)
    others = by_what[what] - lookup(counts, user, what)
    everything = by_user.sum() - by_user[user]
    weighted = groups.sums(snapshot, counts, user, what)
    mass = groups.masses(snapshot, by_user)[user]
    out = np.zeros(len(user))
    some = others > 0
    share = others[some] / everything[some]
    out[some] = np.log((weighted[some] + prior * share) / (mass[some] + prior) / share)
    return out
