"""Asymmetric transfer between head and tail ids of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from recbole_choir.data.clusters.tables import ClusterSide
from recbole_choir.model.layers.first_occurrence import Distinct
from recbole_choir.model.layers.info_nce import weighted_info_nce


class Transfer(NamedTuple):
    """What a transfer step returns.

    Attributes:
        loss: ``L_trans`` of one side, a scalar.
        n_ids: Distinct ids of the batch, a scalar.
        n_paired: Those with a partner of the opposite class.
    """

    loss: torch.Tensor
    n_ids: torch.Tensor
    n_paired: torch.Tensor


class AsymmetricTransfer(nn.Module):
    """``L_trans = lambda1 L_info(c_head, sg(c_tail)) + lambda2 L_info(c_tail, sg(c_head))``.

    Anchors are the distinct ids of a batch that have a partner: an id of the opposite class, drawn
    from their cluster's list over the whole vocabulary. Negatives of an anchor are the partners of
    the other anchors of its class, but for those in its own cluster or its partner's. Each of the
    two terms is a mean over its anchors; without any it is 0, connected to the graph.

    Draws come from a generator of its own, on the host: the same numbers on every device. Its state
    is saved with the weights, so that a resumed run draws what it would have drawn.

    Args:
        lambda1, lambda2: Weights of head anchors and of tail anchors.
        temperature: tau. .1 (PAPER_GAPS A3).
        detach_negatives: Stop the gradient of the negatives as well as that of the positive: a live
            negative would let the tails' term push heads away (PAPER_GAPS A5).
        max_anchors: At most so many anchors of a batch, drawn at random: the cost grows with their
            square.
        seed: Of the draws.

    References:
        AKT-Rec 3.2.1, Eq. 4; PAPER_GAPS A3 to A6.
    """

    def __init__(
        self,
        lambda1: float = 0.01,
        lambda2: float = 0.1,
        temperature: float = 0.1,
        detach_negatives: bool = True,
        max_anchors: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.lambda1, self.lambda2 = lambda1, lambda2
        self.temperature = temperature
        self.detach_negatives = detach_negatives
        self.max_anchors = max_anchors
        self.generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> torch.Tensor:
        """State of the generator, for the checkpoint."""
        return self.generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Restore the state of the generator."""
        self.generator.set_state(state.cpu())

    def forward(
        self, batch: Distinct, side: ClusterSide, c: Callable[[torch.Tensor], torch.Tensor]
    ) -> Transfer:
        """``L_trans`` of the users, or of the items, of a batch.

        Args:
            batch: Their distinct ids.
            side: Classes, clusters and partners.
            c: From ids ``[A]`` to their cluster embeddings ``[A, m]``.
        """
        n = batch.ids.shape[0]
        draws = torch.rand(2, n, generator=self.generator, dtype=torch.float64)
        draws = draws.to(batch.ids.device, non_blocking=True)
        paired = batch.first & (side.partner_end > side.partner_start)[batch.ids]
        anchor, valid, uniform = batch.ids, paired, draws[1]
        if n > self.max_anchors:
            # Anchors first, in random order; what is left over is cut off.
            order = torch.where(paired, draws[0], 2.0).argsort(stable=True)[: self.max_anchors]
            anchor, valid, uniform = anchor[order], valid[order], uniform[order]
        partner = side.draw_partners(anchor, uniform)
        with torch.autocast(anchor.device.type, enabled=False):
            loss = self._loss(anchor, partner, valid, side, c)
        return Transfer(loss, batch.first.sum(), paired.sum())

    def _loss(
        self,
        anchor: torch.Tensor,
        partner: torch.Tensor,
        valid: torch.Tensor,
        side: ClusterSide,
        c: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        x = c(anchor)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_negatives):
            y = c(partner)
        tail, home, partner_home = side.tail[anchor], side.home[anchor], side.home[partner]
        belongs = side.belongs[-1][partner]
        member = torch.where(belongs > 0, belongs, -1).unsqueeze(0)  # [1, A, k] of each negative
        # No negative: what is no partner, a partner of the other class, a member of the anchor's
        # own cluster or of its positive's.
        kind = torch.where(valid, tail.to(torch.int8), 2)
        excluded = kind.unsqueeze(1) != kind
        for cluster in (home, partner_home):
            excluded |= cluster.unsqueeze(1) == partner_home
            excluded |= (cluster[:, None, None] == member).any(2)
        is_tail, is_head = valid & tail, valid & ~tail
        heads, tails = is_head.sum().clamp_min(1), is_tail.sum().clamp_min(1)
        weight = is_head * (self.lambda1 / heads) + is_tail * (self.lambda2 / tails)
        return weighted_info_nce(x, y, weight.to(x.dtype), excluded, self.temperature)
