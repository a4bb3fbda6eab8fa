"""What a row's user and its cluster did with the cluster of the target item, as of the row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.counting import Floats, Membership, about_counts, own_counts
from recbole_choir.data.group_statistics import GroupStatistics, standardize_groups
from recbole_choir.data.members import belongs_to
from recbole_choir.data.statistics import STATS_CLIP, Events, population_rate

#: User cluster x item cluster, the user's own events left out.
CLUSTER_COLUMNS: Final = (
    "cross_cluster_log_exposures",
    "cross_cluster_log_positives",
    "cross_cluster_lift",
)
#: What the user's own past shares with the candidate.
OWN_KINDS: Final = ("cluster", "code_1", "code_2", "category")
#: f_cross of Eq. 10 (docs/gaps.md A19), with the exposures and the lift next to the clicks.
A19_COLUMNS: Final = (
    *CLUSTER_COLUMNS,
    "cross_own_code_1_log_positives",
    "cross_own_code_2_log_positives",
    "cross_own_category_log_positives",
)


def own_columns(kind: str) -> tuple[str, str]:
    """Names of the user's own exposures and positives of a kind of :data:`OWN_KINDS`."""
    return f"cross_own_{kind}_log_exposures", f"cross_own_{kind}_log_positives"


@dataclass(frozen=True)
class ItemClusters:
    """Where items belong at each snapshot, as arrays on the host.

    Args:
        cluster: ``[S + 1, n_items]`` cluster row, 0 for none.
        codes: ``[S + 1, n_items, M]``, 0 for unknown.
        level: ``[G]`` how many codes a cluster stands for; None: a cluster's members are the items
            that have it as theirs, and no others.
    """

    cluster: NDArray[np.integer]
    codes: NDArray[np.integer]
    level: NDArray[np.integer] | None = None

    def belongs(self, snapshot: int) -> NDArray[np.int64]:
        """All clusters ``[n_items, k]`` that each item is a member of, 0 for none."""
        return belongs_to(self.cluster[snapshot], self.codes[snapshot], self.level)

    def prefix(self, snapshot: int, level: int) -> NDArray[np.int64]:
        """A number ``[n_items]`` for the first ``level`` codes; 0 where one is unknown."""
        out = np.zeros(self.codes.shape[1], dtype=np.int64)
        whole = np.ones(len(out), dtype=bool)
        for code in self.codes[snapshot, :, :level].T.astype(np.int64):
            out = out * (int(code.max(initial=0)) + 1) + code
            whole &= code > 0
        return np.where(whole, out, 0)


@dataclass(frozen=True)
class CrossStatistics:
    """Raw statistics of rows.

    Args:
        values: ``[N, q]``; zero where ``known`` is False.
        known: ``[N, q]`` whether the row has what the column is about.
        names: Names of the columns.
    """

    values: Floats
    known: NDArray[np.bool_]
    names: tuple[str, ...]


def cross_statistics(
    events: Events,
    rows: Events,
    snapshot: NDArray[np.integer],
    membership: Callable[[int], Membership],
    items: ItemClusters,
    categories: NDArray[np.integer] | None = None,
    prior: float = 20.0,
) -> CrossStatistics:
    """Count events about the target item's cluster, strictly before the row.

    Memberships of users and items are those of the row's snapshot, which lies strictly before the
    row; events are counted up to the row. A cluster's members are all ids that begin with its
    prefix (:mod:`recbole_choir.prefix_groups`), on both sides.

    ========================================== ===================================================
    column                                     counted
    ========================================== ===================================================
    ``cross_cluster_*``                        other members of the user's cluster, on items of the
                                               candidate's cluster: log1p exposures, log1p
                                               positives, lift over all other users
    ``cross_own_cluster_*``                    the user itself, on the candidate's item cluster
    ``cross_own_code_1_*``, ``.._code_2_*``    the user itself, on items that share the candidate's
                                               first code, its first two codes
    ``cross_own_category_*``                   the user itself, on the candidate's categories (mean
                                               over them); needs no snapshot
    ========================================== ===================================================

    Of these, :data:`A19_COLUMNS` are f_cross of Eq. 10: ``cross_cluster_*`` and the user's own
    positives by first code, first two codes and category. The other columns are not in the paper.
    Columns of a level or of categories that there are none of are left out.

    Args:
        events: What may be counted: all rows, or the training rows alone.
        rows: The rows to describe; their labels are not read.
        snapshot: ``[N]`` newest snapshot strictly before each row, 0 for none.
        membership: From a snapshot's number (1..S) to the clusters of its users.
        items: Clusters and codes of the items.
        categories: ``[n_items, k]`` category ids, 0-padded, or None.
        prior: m, pseudo-exposures of the lift.

    Returns:
        Raw statistics; pass them to :func:`standardize_cross`. O((E + N) log E) a snapshot.

    References:
        AKT-Rec 3.2.3, Eq. 10; docs/gaps.md A19.
    """
    kinds = [
        kind
        for kind in OWN_KINDS
        if not (kind == "category" and categories is None)
        and not (kind == "code_2" and items.codes.shape[2] < 2)
    ]
    names = CLUSTER_COLUMNS + tuple(n for kind in kinds for n in own_columns(kind))
    values = np.zeros((len(rows), len(names)))
    known = np.zeros((len(rows), len(names)), dtype=bool)

    def put(column: str, at: NDArray[np.int64], block: Floats) -> None:
        place = slice(names.index(column), names.index(column) + block.shape[1])
        values[at, place], known[at, place] = block, True

    # In the order of time, so that a prefix is a period.
    events = events.take(np.argsort(events.time, kind="stable"))
    rate = population_rate(events, rows.time)
    for s in (int(s) for s in np.unique(snapshot) if s > 0):
        in_snapshot = np.flatnonzero(snapshot == s)
        last = rows.time[in_snapshot].max()
        before = events.take(np.arange(np.searchsorted(events.time, last, "left")))

        cluster = items.cluster[s].astype(np.int64)
        at = in_snapshot[cluster[rows.item[in_snapshot]] > 0]
        query, members = rows.take(at), membership(s)
        belongs = items.belongs(s)
        counts = about_counts(
            before, query, snapshot[at], {s: members}, belongs, asks=cluster[:, None]
        )
        put(own_columns("cluster")[0], at, np.log1p(counts.own))
        known_user = members.known[query.user]
        put(CLUSTER_COLUMNS[0], at[known_user], counts.columns(rate[at], prior)[known_user])

        for level, kind in enumerate(k for k in kinds if k.startswith("code")):
            code = items.prefix(s, level + 1)
            at = in_snapshot[code[rows.item[in_snapshot]] > 0]
            own = own_counts(before, rows.take(at), code[:, None])
            put(own_columns(kind)[0], at, np.log1p(own))
    if categories is not None:
        has = np.count_nonzero(categories, axis=1) > 0
        at = np.flatnonzero(has[rows.item])
        own = own_counts(events, rows.take(at), categories)
        put(own_columns("category")[0], at, np.log1p(own))
    return CrossStatistics(values, known, names)


def standardize_cross(
    stats: CrossStatistics,
    train: NDArray[np.integer] | NDArray[np.bool_] | slice,
    clip: float | None = STATS_CLIP,
) -> NDArray[np.float32]:
    """Standardise each column over the training rows that have it, clip, zero elsewhere.

    Args:
        stats: Raw statistics of rows.
        train: The training rows.
        clip: Largest absolute value, in standard deviations; None: no clip.

    Returns:
        float32 ``[N, q]``.
    """
    columns = []
    for c, name in enumerate(stats.names):
        one = GroupStatistics(stats.values[:, c : c + 1], stats.known[:, c], (name,))
        columns.append(standardize_groups(one, train, clip))
    return np.concatenate(columns, axis=1)
