"""Everything a row may know of the past, computed once for all rows of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_choir.data.cross_statistics import cross_statistics, standardize_cross
from recbole_choir.data.fields import (
    CROSS_STATS,
    GROUP_STATS,
    ITEM_STATS,
    LIFTS,
    N_BUY,
    OWN_SCORES,
    SNAPSHOT,
    USER_STATS,
)
from recbole_choir.data.group_statistics import group_statistics, standardize_groups
from recbole_choir.data.history import HistoryPool
from recbole_choir.data.lifts import LiftSource, counted_until, neighbourhood_mass, soft_lifts
from recbole_choir.data.split import is_time_split, time_order
from recbole_choir.data.statistics import (
    ITEM_STAT_NAMES,
    STATS_CLIP,
    USER_STAT_NAMES,
    ActivityStatistics,
    Events,
    Standardizer,
    activity_statistics,
    user_activity,
)
from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.data.table.own_scores import OwnVectors, own_scores
from recbole_choir.data.table.soft_groups import SoftGroups
from recbole_choir.errors import ConfigError, DataError

logger = logging.getLogger("recbole_choir")

#: Standardised lifts and own scores are clipped here, so that a rare item cannot dominate a batch.
LIFT_CLIP = 6.0
#: Pointers into the pool of positives, and into that of all labelled events: int64 ``[N]``.
HIST_START, HIST_END = "hist_start", "hist_end"
LABELLED_START, LABELLED_END = "labelled_start", "labelled_end"


@dataclass
class RowInputs:
    """Rows in the order of time, and per row what is known strictly before it.

    Args:
        events: ``[N]`` all rows, in the order of time.
        parts: Positions of the training, validation and test rows.
        scope: ``all``: a row sees all earlier events; ``train``: earlier training rows alone.
        history: Pool of positives.
        labelled: Pool of all labelled events, or None.
        columns: Name -> ``[N]`` or ``[N, k]`` array, one entry per row and never one per slot.
        theta_act: 80th percentile of the positives per user in the training rows.
        scales: How ``USER_STATS`` and ``ITEM_STATS`` were standardised.
        stats_clip: Largest absolute value of a standardised statistic of a user, an item, a group
            or a pair of clusters; None: no clip. Lifts have :data:`LIFT_CLIP`.
        categories: ``[n_items, k]`` category ids that the statistics were counted with, or None.
    """

    events: Events
    parts: list[NDArray[np.int64]]
    scope: str
    history: HistoryPool
    labelled: HistoryPool | None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    theta_act: float = 1.0
    scales: dict[str, Standardizer] = field(default_factory=dict)
    categories: NDArray[np.integer] | None = None
    stats_clip: float | None = STATS_CLIP

    @classmethod
    def build(
        cls,
        events: Events,
        parts: Sequence[NDArray[np.int64]],
        history_scope: str = "auto",
        categories: NDArray[np.integer] | None = None,
        labelled_history: bool = False,
        past: Events | None = None,
        stats_clip: float | None = STATS_CLIP,
    ) -> RowInputs:
        """Compute pointers and statistics.

        Args:
            events: ``[N]`` all rows in ascending order of time.
            parts: Positions of the training, validation and test rows.
            history_scope: ``auto`` means ``all`` where the parts follow each other in time and
                ``train`` elsewhere (a random split): there, earlier events of other parts would
                carry held-out labels into training rows.
            categories: ``[n_items, k]`` category ids of each item, 0-padded, or None.
            labelled_history: Also keep a pool of all labelled events.
            past: Positives that are no rows (purchases of what was not shown). They belong to the
                histories and to what is counted of users, not to rates of items. With scope
                ``train`` only those up to the last training row.
            stats_clip: As the attribute.

        Raises:
            ConfigError: ``all`` is asked for where the split is not one in time.
            DataError: The rows are not in the order of time, or there is no training row.
        """
        if len(events) and bool((np.diff(events.time) < 0).any()):
            raise DataError("row inputs: expected rows in the order of time")
        if not len(parts[0]):
            raise DataError(f"row inputs: expected training rows, got none of {len(events)}")
        scope = _scope(history_scope, is_time_split([events.time[p] for p in parts]))
        counted = _counted(events, parts[0], scope)
        active = _with_past(
            counted, past, events.time[parts[0]].max() if scope == "train" else None
        )
        bought = active.take(active.label > 0)
        rows = cls(
            events=events,
            parts=list(parts),
            scope=scope,
            history=HistoryPool.build(bought.user, bought.item, bought.time),
            labelled=HistoryPool.build(counted.user, counted.item, counted.time, counted.label)
            if labelled_history
            else None,
            categories=categories,
            stats_clip=stats_clip,
        )
        columns = rows.columns
        columns[HIST_START], columns[HIST_END] = rows.history.pointers(events.user, events.time)
        if rows.labelled is not None:
            pointers = rows.labelled.pointers(events.user, events.time)
            columns[LABELLED_START], columns[LABELLED_END] = pointers
        stats = activity_statistics(counted, events, categories)
        if past is not None:
            user, n_buy = user_activity(active, events.user, events.time, categories)
            stats = ActivityStatistics(user, stats.item, n_buy)
        train = parts[0]
        for name, raw, names in (
            (USER_STATS, stats.user, USER_STAT_NAMES),
            (ITEM_STATS, stats.item, ITEM_STAT_NAMES),
        ):
            rows.scales[name] = Standardizer.fit(raw, train, names, stats_clip)
            columns[name] = rows.scales[name].apply(raw)
        columns[N_BUY] = stats.n_buy.astype(np.float32)
        rows.theta_act = _activity_threshold(rows.known_in_training(past))
        logger.info(
            "history and statistics: %d rows, %d positives in the pool, scope %s",
            len(events), len(bought), scope,
        )  # fmt: skip
        return rows

    @property
    def counted(self) -> Events:
        """Events that may be counted, in the order of time: all of them, or training rows alone."""
        return _counted(self.events, self.parts[0], self.scope)

    def known_in_training(self, past: Events | None = None) -> Events:
        """Training rows, and the ``past`` events up to the last of them, in the order of time."""
        trained = self.events.take(np.sort(self.parts[0]))
        return _with_past(trained, past, float(trained.time.max()))

    @property
    def first_validation_time(self) -> float | None:
        """Time of the first row that is evaluated; None where the split is not one in time."""
        if not is_time_split([self.events.time[p] for p in self.parts]):
            return None
        held_out = np.concatenate(self.parts[1:])
        return float(self.events.time[held_out].min()) if len(held_out) else None

    def attach_snapshots(self, groups: GroupTables) -> None:
        """Point each row to the newest snapshot strictly before it."""
        self.columns[SNAPSHOT] = groups.snapshot_of(self.events.time)
        has = float((self.columns[SNAPSHOT] > 0).mean())
        logger.info("semantic table: %.1f %% of the rows have a snapshot before them", 100 * has)

    def attach_group_statistics(
        self, groups: GroupTables, categories: NDArray[np.integer] | None, prior: float
    ) -> tuple[str, ...]:
        """Compute the as-of group statistics; :meth:`attach_snapshots` comes first.

        Args:
            groups: The joined tables.
            categories: As in :meth:`build`.
            prior: Pseudo-exposures m of the lift.

        Returns:
            The names of the columns.
        """
        stats = group_statistics(
            self.counted, self.events, self.columns[SNAPSHOT], groups.membership, categories, prior
        )
        self.columns[GROUP_STATS] = standardize_groups(stats, self.parts[0], self.stats_clip)
        return stats.names

    def attach_cross_statistics(
        self, groups: GroupTables, items: ItemTables, prior: float
    ) -> tuple[str, ...]:
        """Compute the as-of statistics of user and item clusters, as for the groups.

        Args:
            groups, items: The joined tables.
            prior: Pseudo-exposures m of the lift.

        Returns:
            The names of the columns.
        """
        stats = cross_statistics(
            self.counted,
            self.events,
            self.columns[SNAPSHOT],
            groups.membership,
            items.on_host(),
            self.categories,
            prior,
        )
        self.columns[CROSS_STATS] = standardize_cross(stats, self.parts[0], self.stats_clip)
        return stats.names

    def attach_lifts(
        self,
        groups: SoftGroups,
        snapshot_times: NDArray[np.float64],
        sources: Sequence[LiftSource],
        prior: float,
        refresh_days: float | None = None,
        past: Events | None = None,
        mass: bool = True,
    ) -> tuple[str, ...]:
        """Compute the lifts of the users' soft groups; :meth:`attach_snapshots` comes first.

        Args:
            groups: Weights at each snapshot.
            snapshot_times: ``[S]``.
            sources: What lifts are about.
            prior: m, pseudo-purchases at the population's share.
            refresh_days: See :func:`~.lifts.counted_until`.
            past: As in :meth:`build`: bought, though never a row.
            mass: Also a last column of :func:`~.lifts.neighbourhood_mass`.

        Returns:
            The names of the columns.
        """
        until = float(self.events.time[self.parts[0]].max()) if self.scope == "train" else None
        known = _with_past(self.counted, past, until)
        snapshot = self.columns[SNAPSHOT]
        bought = known.take(known.label > 0)
        moments = counted_until(self.events.time, snapshot, snapshot_times, refresh_days)
        lifts = soft_lifts(bought, self.events, snapshot, moments, groups, sources, prior)
        columns, names = standardize_cross(lifts, self.parts[0], LIFT_CLIP), lifts.names
        if mass:
            behind = neighbourhood_mass(bought, self.events, snapshot, moments, groups)
            columns = np.hstack([columns, standardize_cross(behind, self.parts[0], LIFT_CLIP)])
            names += behind.names
        self.columns[LIFTS] = columns
        return names

    def attach_own_scores(self, spaces: Sequence[OwnVectors]) -> tuple[str, ...]:
        """Compute the users' own as-of scores of the items; :meth:`attach_snapshots` comes first.

        Args:
            spaces: Vectors of users and items at each snapshot.

        Returns:
            The names of the columns.
        """
        scores = own_scores(self.events, self.columns[SNAPSHOT], spaces)
        self.columns[OWN_SCORES] = standardize_cross(scores, self.parts[0], LIFT_CLIP)
        return scores.names

    def of_part(self, part: int) -> dict[str, NDArray[Any]]:
        """The columns of one part's rows, in the part's order."""
        at = self.parts[part]
        whole = len(at) > 0 and len(at) == int(at[-1]) - int(at[0]) + 1 and _consecutive(at)
        rows = slice(int(at[0]), int(at[-1]) + 1) if whole else at
        return {name: values[rows] for name, values in self.columns.items()}

    def to(self, device: torch.device | str) -> RowInputs:
        """Move the pools to ``device``, in place."""
        self.history = self.history.to(device)
        if self.labelled is not None:
            self.labelled = self.labelled.to(device)
        return self


def _counted(events: Events, train: NDArray[np.int64], scope: str) -> Events:
    return events if scope == "all" else events.take(np.sort(train))


def _scope(wanted: str, in_time: bool) -> str:
    if wanted == "auto":
        return "all" if in_time else "train"
    if wanted == "all" and not in_time:
        raise ConfigError(
            "history_scope: expected train or auto where the split is not one in time, got all"
            " (held-out labels would reach training rows)"
        )
    return wanted


def _activity_threshold(train: Events) -> float:
    """80th percentile of positives per user with a training row, at least 1 (docs/gaps.md C5)."""
    bought = np.bincount(train.user, weights=train.label)
    seen = np.bincount(train.user) > 0
    return max(1.0, float(np.percentile(bought[seen], 80)))


def _with_past(events: Events, past: Events | None, until: float | None) -> Events:
    """Events and the past ones up to a time, in the order of time."""
    if past is None:
        return events
    if until is not None:
        past = past.take(past.time <= until)
    order = time_order(np.concatenate([events.time, past.time]))
    return Events(
        *(
            np.concatenate([getattr(events, name), getattr(past, name)])[order]
            for name in ("user", "item", "time", "label")
        )
    )


def _consecutive(at: NDArray[np.int64]) -> bool:
    return bool((np.diff(at) == 1).all())
