"""The cluster view of a batch: averages of both sides and the cluster's behaviour."""

from __future__ import annotations

import torch
from torch import nn

from recbole_choir.data.clusters.behaviour import ClusterBehaviour
from recbole_choir.data.clusters.tables import Clusters
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.model.aktrec.cluster_average import ClusterAverage, VocabularyAt
from recbole_choir.model.layers.lookup import gather_rows


class ClusterSequence(nn.Module):
    """What members of the user's cluster chose among items with the candidate's first code.

    An array lookup: the lists were made beforehand, from events before each snapshot.

    Args:
        behaviour: The lists, by user cluster and code.
        items: First codes of items at each snapshot.

    References:
        AKT-Rec 3.2.2 (hard retrieval on the top-level semantic id); docs/gaps.md A17.
    """

    offsets: torch.Tensor
    items: torch.Tensor
    top: torch.Tensor

    def __init__(self, behaviour: ClusterBehaviour, items: ItemTables) -> None:
        super().__init__()
        self.n_top = behaviour.n_top
        self.length = behaviour.length
        self.register_buffer("offsets", behaviour.offsets, persistent=False)
        self.register_buffer("items", behaviour.items, persistent=False)
        top = items.item_codes[..., 0].contiguous()
        self.register_buffer("top", top, persistent=False)

    def forward(
        self, cluster: torch.Tensor, snapshot: torch.Tensor, item: torch.Tensor
    ) -> torch.Tensor:
        """Items ``[B, L_c]``, oldest first, 0-padded.

        Args:
            cluster: Cluster row ``[B]`` of each row's user, 0 for none.
            snapshot, item: ``[B]`` of each row.
        """
        tables = ClusterBehaviour(self.offsets, self.items, self.n_top, self.length)
        return tables.gather(cluster, self.top[snapshot, item])


class ClusterView(nn.Module):
    """``H_G(u)`` and ``H_G(i)`` of Eq. 9 and the items of ``S_G(u),i``.

    Args:
        clusters: Both sides, and the behaviour of the user clusters.
        items: First codes of the items.
        widths: Columns of a user's and of an item's features.
        mode, weight, keep: See :class:`ClusterAverage`.
        use_sequence: Whether there is a cluster sequence.

    References:
        AKT-Rec 3.2.2.
    """

    def __init__(
        self,
        clusters: Clusters,
        items: ItemTables,
        widths: tuple[int, int],
        mode: str,
        weight: str,
        keep: float,
        use_sequence: bool,
    ) -> None:
        super().__init__()
        self.live = mode == "grad"
        self.moving = mode == "ema"
        self.users = ClusterAverage(clusters.users, widths[0], mode, weight, keep)
        self.items = ClusterAverage(clusters.items, widths[1], mode, weight, keep)
        self.sequence: ClusterSequence | None = None
        if use_sequence:
            self.sequence = ClusterSequence(clusters.behaviour, items)

    def refresh(self, users_at: VocabularyAt, items_at: VocabularyAt) -> None:
        """Compute the averages; see :meth:`ClusterAverage.refresh`."""
        self.users.refresh(users_at)
        self.items.refresh(items_at)

    def averages(
        self,
        user_cluster: torch.Tensor,
        item_cluster: torch.Tensor,
        users_at: VocabularyAt,
        items_at: VocabularyAt,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``H_G(u)`` and ``H_G(i)`` of a batch, each ``[B, .]``.

        Args:
            user_cluster, item_cluster: Cluster rows ``[B]``, 0 for none: zeros.
            users_at, items_at: Features of all users and items at a snapshot; read in mode
                ``grad`` in training.
        """
        if self.live and self.training:
            users, items = self.users.compute(users_at), self.items.compute(items_at)
            return gather_rows(users, user_cluster), gather_rows(items, item_cluster)
        return self.users.lookup(user_cluster), self.items.lookup(item_cluster)
