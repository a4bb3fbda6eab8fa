"""What AKT-Rec reads of the clusters of users and items, as tensors that live once."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_choir.data.clusters.behaviour import ClusterBehaviour
from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.fields import ITEM_STATS, USER_STATS
from recbole_choir.data.rows import RowInputs
from recbole_choir.data.statistics import (
    ITEM_STAT_NAMES,
    USER_STAT_NAMES,
    item_activity,
    user_activity,
)
from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.item_tables import ItemTables

logger = logging.getLogger("recbole_choir")


@dataclass
class Clusters:
    """Both sides, and the behaviour of the user clusters.

    Args:
        users, items: The sides.
        behaviour: The cluster behaviour sequences.
    """

    users: ClusterSide
    items: ClusterSide
    behaviour: ClusterBehaviour

    @classmethod
    def build(
        cls,
        groups: GroupTables,
        items: ItemTables,
        rows: RowInputs,
        tail_user: NDArray[np.bool_],
        tail_item: NDArray[np.bool_],
        sequence_length: int = 50,
        min_support: int = 3,
    ) -> Clusters:
        """Compute everything from the joined tables and the rows.

        What belongs to a snapshot is counted from events strictly before its time, of those that
        the rows may count (``rows.scope``); what is fitted is fitted on the training rows.

        Args:
            groups: Clusters of the users.
            items: Clusters of the items.
            rows: The rows, with their statistics.
            tail_user, tail_item: bool ``[n_users]`` and ``[n_items]``: as the evaluator's segments
                have them (A21).
            sequence_length: L_c, items of a cluster behaviour sequence.
            min_support: Members that must have chosen an item of such a sequence.

        Returns:
            The clusters, on the host.

        References:
            AKT-Rec 3.2; docs/gaps.md A3, A4, A15, A17, A18, A21, A22.
        """
        counted = rows.counted
        times = groups.snapshot_times.cpu().numpy()
        train = rows.events.take(rows.parts[0])
        n_users, n_items = groups.user_group.shape[1], items.item_cluster.shape[1]
        user, time = _each_snapshot(n_users, times)
        user_stats, _ = user_activity(counted, user, time, rows.categories)
        item, time = _each_snapshot(n_items, times)
        item_stats = item_activity(counted, item, time)
        users = ClusterSide.build(
            groups.user_group,
            groups.user_codes,
            groups.n_groups,
            _by_snapshot(rows.scales[USER_STATS].apply(user_stats), n_users),
            np.bincount(train.user, minlength=n_users),
            tail_user,
            groups.group_level,
            _by_snapshot(user_stats[:, USER_STAT_NAMES.index("log_exposures")], n_users),
        )
        clusters = cls(
            users=users,
            items=ClusterSide.build(
                items.item_cluster,
                items.item_codes,
                items.n_clusters,
                _by_snapshot(rows.scales[ITEM_STATS].apply(item_stats), n_items),
                np.bincount(train.item, minlength=n_items),
                tail_item,
                items.cluster_level,
                _by_snapshot(item_stats[:, ITEM_STAT_NAMES.index("log_exposures")], n_items),
            ),
            behaviour=ClusterBehaviour.build(
                counted.take(counted.label > 0),
                users.belongs.cpu().numpy(),
                items.item_codes[..., 0].cpu().numpy(),
                times,
                groups.n_groups,
                items.n_codes[0],
                sequence_length,
                min_support,
            ),
        )
        clusters._report(groups, items, rows)
        return clusters

    def _report(self, groups: GroupTables, items: ItemTables, rows: RowInputs) -> None:
        """Log how many rows have a cluster behaviour sequence, and how long it is."""
        snapshot = torch.from_numpy(groups.snapshot_of(rows.events.time))
        user, item = torch.from_numpy(rows.events.user), torch.from_numpy(rows.events.item)
        top = items.item_codes[snapshot, item, 0]
        length = self.behaviour.length_of(self.users.cluster[snapshot, user], top)
        has = int((length > 0).sum())
        logger.info(
            "cluster behaviour: %d of %d rows have a sequence, of %.1f items in the mean;"
            " the others have an empty one",
            has, len(length), float(length.sum()) / max(1, has),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Clusters:
        """The same on ``device``."""
        return Clusters(self.users.to(device), self.items.to(device), self.behaviour.to(device))


def _each_snapshot(
    n: int, times: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and times to ask for: one id before everything, then all ids at each snapshot."""
    ids = np.append(0, np.tile(np.arange(n), len(times)))
    return ids, np.append(-np.inf, np.repeat(times, n))


def _by_snapshot(values: NDArray[np.floating], n: int) -> torch.Tensor:
    """What :func:`_each_snapshot` asked, ``[1 + S n, ...]``, as float32 ``[S + 1, n, ...]``."""
    rest = values[1:].reshape(-1, n, *values.shape[1:])
    first = np.broadcast_to(values[:1], (1, *rest.shape[1:]))
    return torch.from_numpy(np.concatenate([first, rest]).astype(np.float32))
