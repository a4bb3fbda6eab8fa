"""Cluster-guided adaptive embedding: what an id shares with its cluster and what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.schema import Field
from recbole_choir.model.aktrec.activity_gate import ActivityGate
from recbole_choir.model.aktrec.cluster_embedding import ClusterEmbedding
from recbole_choir.model.layers.field_embedding import FieldEmbedding


class ClusterBuffers(nn.Module):
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


class HeadMeans(nn.Module):
    """Mean cluster embedding of the heads of an unseen id's cluster.

    An id without a training row keeps whatever its vectors started from. Instead it gets the mean
    ``c`` of the heads of its cluster in the newest snapshot, or of all its members with a training
    row where it has no head; without any it keeps its own.

    Args:
        side: Clusters of the users, or of the items.
        size: Width m.

    References:
        docs/gaps.md A2.
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
        """Compute the means from ``c`` ``[n, m]`` of the whole vocabulary."""
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


class Adaptive(NamedTuple):
    """The embedding of some ids and what it is made of.

    Attributes:
        fused: ``e`` ``[..., m]``.
        cluster, individual: ``c`` and ``d`` ``[..., m]``; None where there is none.
    """

    fused: torch.Tensor
    cluster: torch.Tensor | None
    individual: torch.Tensor | None


class AdaptiveEmbedding(nn.Module):
    """``e = r c + (1 - r) d`` with ``r = G_1(f_act)``.

    Ids without a training row have ``d := 0`` and ``c`` of :class:`HeadMeans`, and their ``r`` is
    the gate's by their activity, as that of any other id. The padding id is the zero vector.

    Args:
        n: Vocabulary size with the padding id 0.
        size: Width m.
        std: Standard deviation of the initial ``d``.
        cluster: ``c``; None: ``e = d``.
        use_individual: False: ``e = c``.
        tables: Activity at each snapshot and which ids have training rows; only None with
            ``cluster`` None.
        gate: ``learned``, or r as a constant.
        gate_hidden: Hidden widths of G_1.
        gate_size: 1, or m for one gate a dimension.
        unseen_gate: ``gate``: see above; ``one``: r := 1 for ids without a training row. Trained
            ids may have an r of a few hundredths, and their ``c`` hardly moves then: at r = 1 such
            a vector enters at a weight that nothing in training had.

    References:
        AKT-Rec 3.2.1, Eq. 6; docs/gaps.md A2, A8, A22.
    """

    def __init__(
        self,
        n: int,
        size: int,
        std: float,
        cluster: ClusterEmbedding | None = None,
        use_individual: bool = True,
        tables: ClusterBuffers | None = None,
        gate: float | str = "learned",
        gate_hidden: Sequence[int] = (16,),
        gate_size: int = 1,
        unseen_gate: str = "gate",
    ) -> None:
        super().__init__()
        self.width = size
        self.cluster = cluster
        self.tables = tables
        self.individual: FieldEmbedding | None = None
        if use_individual:
            self.individual = FieldEmbedding(Field("id", "token", n), size, std)
        both = cluster is not None and use_individual
        self.gate: ActivityGate | None = None
        if both and gate == "learned" and tables is not None:
            self.gate = ActivityGate(tables.stats.shape[-1], gate_hidden, gate_size)
        self.unseen_is_one = unseen_gate == "one"
        self.constant = 1.0 if gate == "learned" else float(gate)
        self.varies = self.gate is not None or (cluster is not None and cluster.varies)
        # With r fixed at 0 the cluster is switched off, and nothing can stand in for d.
        self.head_means: HeadMeans | None = None
        uses_cluster = cluster is not None and (self.gate is not None or self.constant > 0)
        if uses_cluster and tables is not None:
            head_means = HeadMeans(tables.side, size)
            self.head_means = head_means if head_means.needed else None

    def refresh(self) -> None:
        """Compute again what stands in for ids that no training row has."""
        if self.head_means is not None and self.cluster is not None and not self.cluster.varies:
            self.head_means.refresh(self.cluster.whole().detach())

    def gate_at(self, snapshot: int) -> torch.Tensor:
        """``r`` ``[n, 1 or m]`` of the whole vocabulary by its activity at one snapshot."""
        if self.gate is None or self.tables is None:
            raise TypeError("gate_at: this embedding has no gate")
        return self.gate(self.tables.stats[snapshot])

    def forward(self, ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        """``e`` ``[..., m]`` of ids, by their activity at snapshots, both ``[...]``."""
        activity = None
        if self.gate is not None and self.tables is not None:
            activity = self.tables.stats[snapshot, ids]
        return self.parts(ids, snapshot, activity).fused

    def parts(
        self, ids: torch.Tensor, snapshot: torch.Tensor, activity: torch.Tensor | None
    ) -> Adaptive:
        """Eq. 6 for ids by a given activity.

        Args:
            ids, snapshot: ``[...]``.
            activity: ``f_act`` ``[..., p]``; not read without a learned gate.
        """
        c = None if self.cluster is None else self.cluster(ids, snapshot)
        d = None if self.individual is None else self.individual(ids)
        r = None if self.gate is None or activity is None else self.gate(activity)
        if self.head_means is None:
            return self._fuse(c, d, r, None, None)
        return self._fuse(c, d, r, self.head_means.seen[ids], self.head_means.row[ids])

    def at(self, snapshot: int) -> torch.Tensor:
        """``e`` ``[n, m]`` of the whole vocabulary, by its activity at one snapshot."""
        c = None if self.cluster is None else self.cluster.at(snapshot)
        return self._vocabulary(c, None if self.gate is None else self.gate_at(snapshot))

    def whole(self) -> torch.Tensor:
        """``e`` ``[S + 1, n, m]`` of the whole vocabulary; ``[n, m]`` where it does not vary."""
        c = None if self.cluster is None else self.cluster.whole()
        r = None
        if self.gate is not None and self.tables is not None:
            r = self.gate(self.tables.stats)  # [S + 1, n, 1 or m]
        return self._vocabulary(c, r)

    def _vocabulary(self, c: torch.Tensor | None, r: torch.Tensor | None) -> torch.Tensor:
        d = None if self.individual is None else self.individual.whole()
        if self.head_means is None:
            return self._fuse(c, d, r, None, None).fused
        return self._fuse(c, d, r, self.head_means.seen, self.head_means.row).fused

    def _fuse(
        self,
        c: torch.Tensor | None,
        d: torch.Tensor | None,
        r: torch.Tensor | None,
        seen: torch.Tensor | None,
        row: torch.Tensor | None,
    ) -> Adaptive:
        """``e = r c + (1 - r) d``, with the stand-in where an id is not seen."""
        gate: torch.Tensor | float = self.constant if r is None else r
        if self.head_means is not None and c is not None and seen is not None and row is not None:
            if not (self.cluster is not None and self.cluster.varies):
                c = self.head_means.replace(c, row)
            known = seen.unsqueeze(-1)  # [..., 1]
            if d is not None:
                d = d * known
                if self.unseen_is_one:
                    gate = torch.where(known, gate, 1.0)
        if c is None:
            if d is None:
                raise TypeError("an adaptive embedding needs a cluster or an individual part")
            return Adaptive(d, None, d)
        if d is None:
            return Adaptive(c, c, None)
        return Adaptive(gate * c + (1 - gate) * d, c, d)
