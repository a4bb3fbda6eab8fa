"""Behaviour of a user's cluster that is relevant to the candidate: hard retrieval by its code."""

from __future__ import annotations

import torch
from torch import nn

from recbole_choir.data.clusters.tables import ClusterBehaviour
from recbole_choir.data.table.item_tables import ItemTables


class ClusterSequence(nn.Module):
    """What members of the user's cluster chose among items with the candidate's first code.

    An array lookup: the lists were made beforehand, from events before each snapshot.

    Args:
        behaviour: The lists, by user cluster and code.
        items: First codes of items at each snapshot.

    References:
        AKT-Rec 3.2.2 (hard retrieval on the top-level semantic id); PAPER_GAPS A17.
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
