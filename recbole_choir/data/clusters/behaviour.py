"""What the members of a user cluster chose before a snapshot, by the item's top-level code."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_choir.data.asof import AsOfIndex, combine_keys
from recbole_choir.data.statistics import Events
from recbole_choir.errors import DataError

Ints = NDArray[np.int64]


@dataclass
class ClusterBehaviour:
    """What the members of a user cluster chose, by the top-level code of the item (A17).

    Args:
        offsets: int64 ``[G * (K_1 + 1) + 1]``: the items of key ``g * (K_1 + 1) + code`` lie in
            ``items[offsets[key] : offsets[key + 1]]``; code 0 (unknown) has none.
        items: int64 ``[T + 1]`` internal item ids, by last time ascending; the last one is the
            padding 0.
        n_top: K_1.
        length: L_c, the longest list.

    References:
        AKT-Rec 3.2.2 (hard retrieval on the top-level semantic id); docs/gaps.md A17.
    """

    offsets: torch.Tensor
    items: torch.Tensor
    n_top: int
    length: int

    @classmethod
    def build(
        cls,
        positives: Events,
        user_cluster: NDArray[np.integer],
        item_top: NDArray[np.integer],
        snapshot_times: NDArray[np.float64],
        n_clusters: int,
        n_top: int,
        length: int = 50,
        min_support: int = 3,
    ) -> ClusterBehaviour:
        """List, for each cluster and top-level code, the items that its members chose most often.

        Everything in the lists of snapshot s comes from positives strictly before its time, and a
        row reads the newest snapshot strictly before it: neither the row nor anything after it can
        be in its list.

        Args:
            positives: ``[E]`` chosen events; labels are not read.
            user_cluster: ``[S + 1, n_users]`` cluster row of each user, or ``[S + 1, n_users, k]``
                all rows that it is a member of; a row stands for one snapshot, 0 for none.
            item_top: ``[S + 1, n_items]`` first code of each item, 0 for unknown.
            snapshot_times: float64 ``[S]``, ascending.
            n_clusters: G, rows including the empty one.
            n_top: K_1, codewords of the first level.
            length: L_c: so many items of a list are kept, those with the most positives (ties by
                id). 50 as in the user's own history.
            min_support: Distinct members that must have chosen an item. 3, so that each member
                finds items that at least two others chose.

        Returns:
            The lists, ordered by the item's last positive before the snapshot (ties by id).

        Raises:
            DataError: ``length`` or ``min_support`` is not positive.
        """
        if min(length, min_support) < 1:
            raise DataError(
                "cluster behaviour: expected length and min_support of at least 1,"
                f" got {length} and {min_support}"
            )
        pairs = _Pairs.of(positives)
        belongs = user_cluster if user_cluster.ndim == 3 else user_cluster[..., None]
        keys, items = [], []
        for s, time in enumerate(snapshot_times, 1):
            count, last = pairs.before(float(time))
            group, code = belongs[s][pairs.user], item_top[s][pairs.item]  # [P, k], [P]
            at, column = np.nonzero(((count > 0) & (code > 0))[:, None] & (group > 0))
            chosen = _chosen(group[at, column], pairs.item[at], count[at], last[at], min_support)
            key = chosen.group * (n_top + 1) + item_top[s][chosen.item]
            kept = _most_chosen(key, chosen, length)
            keys.append(key[kept])
            items.append(chosen.item[kept])
        key = np.concatenate([np.zeros(0, dtype=np.int64), *keys])
        # Cluster rows of different snapshots differ, but need not come in the snapshots' order.
        order = np.argsort(key, kind="stable")
        lengths = np.bincount(key, minlength=n_clusters * (n_top + 1))
        item = np.concatenate([np.zeros(0, dtype=np.int64), *items])[order]
        return cls(
            offsets=torch.from_numpy(np.append(0, np.cumsum(lengths)).astype(np.int64)),
            items=torch.from_numpy(np.append(item, 0).astype(np.int64)),
            n_top=int(n_top),
            length=max(1, int(lengths.max(initial=0))),
        )

    def gather(self, cluster: torch.Tensor, top_code: torch.Tensor) -> torch.Tensor:
        """Look up the behaviour of clusters that shares a candidate's top-level code.

        Args:
            cluster: ``[B]`` cluster row of each row's user, 0 for none.
            top_code: ``[B]`` first code of each row's candidate, 0 for unknown.

        Returns:
            int64 ``[B, L_c]`` internal item ids, oldest first, padded with 0 on the right.
        """
        key = cluster.long() * (self.n_top + 1) + top_code.long()  # [B]
        start, end = self.offsets[key], self.offsets[key + 1]
        at = start[:, None] + torch.arange(self.length, device=start.device)  # [B, L_c]
        at.masked_fill_(at >= end[:, None], self.items.shape[0] - 1)  # the padding slot
        return self.items.index_select(0, at.view(-1)).view(at.shape)

    def length_of(self, cluster: torch.Tensor, top_code: torch.Tensor) -> torch.Tensor:
        """Items ``[B]`` (int64) of the lists that :meth:`gather` returns."""
        key = cluster.long() * (self.n_top + 1) + top_code.long()
        return self.offsets[key + 1] - self.offsets[key]

    def to(self, device: torch.device | str) -> ClusterBehaviour:
        """The same on ``device``."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                values[name] = value.to(device)
        return ClusterBehaviour(**values)


@dataclass(frozen=True)
class _Pairs:
    """Distinct (user, item) of the positives, with the times of each pair.

    Args:
        user, item: int64 ``[P]``.
        first: ``[P + 1]`` where a pair's times begin in ``time``, and the end.
        time: float64 ``[E]``, ascending within a pair.
    """

    user: Ints
    item: Ints
    first: Ints
    time: NDArray[np.float64]

    @classmethod
    def of(cls, positives: Events) -> _Pairs:
        index = AsOfIndex(combine_keys(positives.user, positives.item), positives.time)
        at = index.order[index.first[:-1]]
        return cls(positives.user[at], positives.item[at], index.first, index.time)

    def before(self, time: float) -> tuple[Ints, NDArray[np.float64]]:
        """Positives of each pair strictly before ``time``, and the last of them: each [P]."""
        earlier = np.append(0, np.cumsum(self.time < time))
        count = earlier[self.first[1:]] - earlier[self.first[:-1]]
        last = np.full(len(count), -np.inf)
        some = count > 0
        last[some] = self.time[(self.first[:-1] + count - 1)[some]]
        return count, last


@dataclass(frozen=True)
class _Chosen:
    """Items that enough members of a cluster chose.

    Args:
        group, item: int64 ``[C]`` distinct pairs, ascending.
        count: ``[C]`` positives of all members.
        last: ``[C]`` time of the last of them.
    """

    group: Ints
    item: Ints
    count: Ints
    last: NDArray[np.float64]


def _chosen(
    group: NDArray[np.integer],
    item: Ints,
    count: Ints,
    last: NDArray[np.float64],
    min_support: int,
) -> _Chosen:
    """Join pairs of (member, item) to pairs of (cluster, item)."""
    key = combine_keys(group, item)
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(first):
        none = np.zeros(0, dtype=np.int64)
        return _Chosen(none, none, none, np.zeros(0))
    support = np.diff(np.append(first, len(key)))
    keep = support >= min_support
    at = order[first[keep]]
    return _Chosen(
        group[at].astype(np.int64),
        item[at],
        np.add.reduceat(count[order], first)[keep],
        np.maximum.reduceat(last[order], first)[keep],
    )


def _most_chosen(key: Ints, chosen: _Chosen, length: int) -> Ints:
    """Positions of the first ``length`` of each key by count, in the order (key, last time)."""
    order = np.lexsort((chosen.item, -chosen.count, key))
    ordered = key[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    rank = np.arange(len(key)) - np.repeat(first, np.diff(np.append(first, len(key))))
    kept = order[rank < length]
    return kept[np.lexsort((chosen.item[kept], chosen.last[kept], key[kept]))]
