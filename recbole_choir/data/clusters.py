"""What AKT-Rec reads of the clusters of users and items, as tensors that live once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch


def _moved(table: Any, device: torch.device | str) -> dict[str, Any]:
    values = {f.name: getattr(table, f.name) for f in fields(table)}
    return {n: v.to(device) if hasattr(v, "to") else v for n, v in values.items()}


@dataclass
class ClusterSide:
    """Clusters of the users, or of the items.

    A cluster row stands for one cluster in one snapshot; row 0 is the empty cluster.

    Args:
        cluster: int32 ``[S + 1, n]`` cluster row of each id, 0 for none.
        n_clusters: G, rows including the empty one.
        stats: float32 ``[S + 1, n, p]`` activity as of each snapshot's time, standardised as the
            batch field of the same name is (``USER_STATS`` or ``ITEM_STATS``); index 0 holds that
            of an id without events.
        tail: bool ``[n]`` tail ids by their training rows (A21); the padding id is not.
        seen: bool ``[n]`` ids with a training row.
        home: int64 ``[n]`` cluster row in the newest snapshot, 0 for none: what the transfer loss
            calls the same cluster.
        partner_start, partner_end: int64 ``[n]`` range in ``partner_ids`` of the ids of the
            opposite class (head or tail) in the id's cluster (or in its prefix, A4); equal where
            there is none.
        partner_ids: int64 ``[P]``.
        partner_cum: float64 ``[P + 1]`` cumulative weight: sqrt of the training rows for heads, 1
            for tails (A3).

    References:
        AKT-Rec 3.2.1, Eq. 4 and 3.2.2, Eq. 9; PAPER_GAPS A3, A4, A18, A21.
    """

    cluster: torch.Tensor
    n_clusters: int
    stats: torch.Tensor
    tail: torch.Tensor
    seen: torch.Tensor
    home: torch.Tensor
    partner_start: torch.Tensor
    partner_end: torch.Tensor
    partner_ids: torch.Tensor
    partner_cum: torch.Tensor

    def to(self, device: torch.device | str) -> ClusterSide:
        """The same on ``device``."""
        return ClusterSide(**_moved(self, device))


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
        AKT-Rec 3.2.2 (hard retrieval on the top-level semantic id); PAPER_GAPS A17.
    """

    offsets: torch.Tensor
    items: torch.Tensor
    n_top: int
    length: int

    def to(self, device: torch.device | str) -> ClusterBehaviour:
        """The same on ``device``."""
        return ClusterBehaviour(**_moved(self, device))


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

    def to(self, device: torch.device | str) -> Clusters:
        """The same on ``device``."""
        return Clusters(**_moved(self, device))
