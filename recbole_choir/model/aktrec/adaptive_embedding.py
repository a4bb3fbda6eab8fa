"""Cluster-guided adaptive embedding: what an id shares with its cluster and what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.model.aktrec.cluster_embedding import ClusterEmbedding
from recbole_choir.model.layers.activity_gate import ActivityGate
from recbole_choir.model.layers.field_embedding import FieldEmbedding
from recbole_choir.model.layers.side_tables import SideTables
from recbole_choir.model.layers.stand_in import StandIn


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

    Ids without a training row have ``d := 0`` and ``c`` of :class:`StandIn`, and their ``r`` is the
    gate's by their activity, as that of any other id. The padding id is the zero vector, always.

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
        AKT-Rec 3.2.1, Eq. 6; docs/paper-gaps.md A2; PAPER_GAPS A8, A22.
    """

    def __init__(
        self,
        n: int,
        size: int,
        std: float,
        cluster: ClusterEmbedding | None = None,
        use_individual: bool = True,
        tables: SideTables | None = None,
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
        self.stand_in: StandIn | None = None
        uses_cluster = cluster is not None and (self.gate is not None or self.constant > 0)
        if uses_cluster and tables is not None:
            stand_in = StandIn(tables.side, size)
            self.stand_in = stand_in if stand_in.needed else None

    def refresh(self) -> None:
        """Compute anew what stands in for ids that no training row has."""
        if self.stand_in is not None and self.cluster is not None and not self.cluster.varies:
            self.stand_in.refresh(self.cluster.whole().detach())

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
        if self.stand_in is None:
            return self._fuse(c, d, r, None, None)
        return self._fuse(c, d, r, self.stand_in.seen[ids], self.stand_in.row[ids])

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
        if self.stand_in is None:
            return self._fuse(c, d, r, None, None).fused
        return self._fuse(c, d, r, self.stand_in.seen, self.stand_in.row).fused

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
        if self.stand_in is not None and c is not None and seen is not None and row is not None:
            if not (self.cluster is not None and self.cluster.varies):
                c = self.stand_in.replace(c, row)
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
