"""What stands in for an id that no training row has."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data.clusters.tables import ClusterSide


class StandIn(nn.Module):
    """Mean cluster embedding of the heads of an unseen id's cluster.

    An id without a training row keeps whatever its vectors started from. Instead it gets the mean
    ``c`` of the heads of its cluster in the newest snapshot, or of all its members with a training
    row where it has no head; without any it keeps its own.

    Args:
        side: Clusters of the users, or of the items.
        size: Width m.

    References:
        docs/paper-gaps.md A2.
    """

    seen: torch.Tensor
    row: torch.Tensor
    members: torch.Tensor
    offsets: torch.Tensor
    means: torch.Tensor

    def __init__(self, side: ClusterSide, size: int) -> None:
        super().__init__()
        home, seen = side.home.cpu().numpy(), side.seen.cpu().numpy()
        belongs = side.belongs[-1].cpu().numpy().astype(np.int64)  # [n, k]
        head = seen & ~side.tail.cpu().numpy()
        unseen = ~seen
        unseen[0] = False  # padding is zero anyway
        self.needed = bool(unseen.any())
        has_head = np.zeros(side.n_clusters, dtype=bool)
        has_head[belongs[head].reshape(-1)] = True
        asked = np.zeros(side.n_clusters, dtype=bool)
        asked[home[unseen]] = True
        asked[0] = has_head[0] = False
        enters = asked[belongs] & seen[:, None] & (head[:, None] | ~has_head[belongs])  # [n, k]
        member, column = np.nonzero(enters)
        cluster = belongs[member, column]
        member = member[np.argsort(cluster, kind="stable")]
        clusters, sizes = np.unique(cluster, return_counts=True)
        number = np.zeros(side.n_clusters, dtype=np.int64)  # 0: nobody stands in
        number[clusters] = np.arange(1, len(clusters) + 1)
        self._keep("seen", seen)
        self._keep("row", np.where(unseen, number[home], 0).astype(np.int64))
        self._keep("members", member.astype(np.int64))
        self._keep("offsets", np.append(0, np.cumsum(sizes)[:-1]).astype(np.int64)[: len(sizes)])
        self._keep("means", np.zeros((len(clusters) + 1, size), dtype=np.float32))

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values), persistent=False)

    @torch.no_grad()
    def refresh(self, c: torch.Tensor) -> None:
        """Compute the means anew from ``c`` ``[n, m]`` of the whole vocabulary."""
        if self.needed and self.members.shape[0]:
            means = F.embedding_bag(self.members, c, self.offsets, mode="mean")
            self.means[1:] = means.to(self.means.dtype)

    def replace(self, c: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """``c`` ``[..., m]`` with the means in place where an id has one.

        Args:
            c: Cluster embeddings of some ids.
            row: Rows ``[...]`` of these ids: ``self.row[ids]``.
        """
        means = self.means[row].to(c.dtype)
        return torch.where((row > 0).unsqueeze(-1), means, c)
