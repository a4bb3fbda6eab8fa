"""One side of the clusters as buffers beside the model."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import nn

from recbole_choir.data.clusters.tables import ClusterSide


class SideTables(nn.Module):
    """The tables of :class:`~recbole_choir.data.clusters.side.ClusterSide` on the model's device.

    They are not saved: they belong to the semantic table and the rows, not to the weights.

    Args:
        side: Clusters of the users, or of the items.
    """

    cluster: torch.Tensor
    belongs: torch.Tensor
    stats: torch.Tensor
    tail: torch.Tensor
    seen: torch.Tensor
    home: torch.Tensor

    def __init__(self, side: ClusterSide) -> None:
        super().__init__()
        self.n_clusters = int(side.n_clusters)
        self._names = [
            f.name for f in fields(side) if isinstance(getattr(side, f.name), torch.Tensor)
        ]
        for name in self._names:
            self.register_buffer(name, getattr(side, name), persistent=False)

    @property
    def side(self) -> ClusterSide:
        """The same tables as the dataclass, on the device they are on now."""
        tables = {name: self.get_buffer(name) for name in self._names}
        return ClusterSide(n_clusters=self.n_clusters, **tables)

    @property
    def n_snapshots(self) -> int:
        """S + 1, "no snapshot yet" included."""
        return int(self.cluster.shape[0])

    def cluster_of(self, snapshot: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Cluster row ``[B]`` (int64) that ids read at snapshots, both ``[B]``; 0 for none."""
        return self.cluster[snapshot, ids].long()

    def clusters_of(self, snapshot: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """All cluster rows ``[B, k]`` (int64) that ids are members of at snapshots; 0 for none."""
        return self.belongs[snapshot, ids].long()
