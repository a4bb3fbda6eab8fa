"""The auxiliary losses: transfer between head and tail ids of a cluster, and orthogonality.

``L_trans`` of Eq. 4 with its InfoNCE, ``L_ortho`` of Eq. 5, and what both did over an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.model.layers.first_occurrence import Distinct
from recbole_choir.model.layers.host_generator import HostGenerator

NORM_EPS = 1e-6


class _WeightedInfoNCE(torch.autograd.Function):
    """``sum_i w_i (log sum_j exp(x_i y_j) - x_i y_i)``, j over i itself and all not excluded.

    Left to autograd, mask and softmax make some fifteen passes over ``[A, A]`` matrices; here they
    are a few, and the backward pass is products with the one matrix that is kept. As the positive
    of its own anchor, y is a constant.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, excluded: torch.Tensor
    ) -> torch.Tensor:
        own = (x * y).sum(-1, keepdim=True)  # [A, 1]
        # The positive is added apart, since only it stays detached. What does not count holds its
        # place until after the exponential, which is five times slower on -inf.
        left_out = excluded.clone().fill_diagonal_(True)
        p = torch.where(left_out, own, x @ y.T)  # [A, A]
        largest = p.amax(1, keepdim=True)
        p.sub_(largest).exp_().masked_fill_(left_out, 0.0)
        positive = (own - largest).exp()
        total = p.sum(1, keepdim=True) + positive  # at least 1, the largest term
        weight = weight.unsqueeze(1)
        ctx.save_for_backward(x, y, p, weight, total, positive)
        return (weight * (total.log() + largest - own)).sum()

    @staticmethod
    def backward(
        ctx: Any, grad: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        x, y, p, weight, total, positive = ctx.saved_tensors
        scale = grad * weight / total
        d_x = scale * (p @ y + (positive - total) * y)
        d_y = p.T @ (scale * x) if ctx.needs_input_grad[1] else None
        return d_x, d_y, None, None


def weighted_info_nce(
    anchor: torch.Tensor,
    positive: torch.Tensor,
    weight: torch.Tensor,
    excluded: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """``sum_i w_i L_info(c_i, sg(c_i+))`` with the other anchors' positives as negatives.

    ``L_info = -log(exp(s_ii) / (exp(s_ii) + sum_j exp(s_ij)))`` with ``s_ij`` the cosine over tau.

    Args:
        anchor: ``c`` of the anchors ``[A, m]``.
        positive: ``c`` of their partners ``[A, m]``. A gradient reaches them as negatives alone;
            detach them for none at all.
        weight: w ``[A]``; 0 leaves an anchor out.
        excluded: bool ``[A, A]``: partner j is no negative of anchor i. The diagonal is not read.
        temperature: tau.

    Returns:
        A scalar.

    References:
        AKT-Rec Eq. 4; docs/gaps.md A3.
    """
    x = F.normalize(anchor, dim=-1, eps=NORM_EPS) / temperature
    y = F.normalize(positive, dim=-1, eps=NORM_EPS)
    return _WeightedInfoNCE.apply(x, y, weight, excluded)


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


class AsymmetricTransfer(HostGenerator):
    """``L_trans = lambda1 L_info(c_head, sg(c_tail)) + lambda2 L_info(c_tail, sg(c_head))``.

    Anchors are the distinct ids of a batch that have a partner: an id of the opposite class, drawn
    from their cluster's list over the whole vocabulary. Negatives of an anchor are the partners of
    the other anchors of its class, but for those in its own cluster or its partner's. Each of the
    two terms is a mean over its anchors; without any it is 0, connected to the graph.

    It draws from a generator of its own, see :class:`HostGenerator`.

    Args:
        lambda1, lambda2: Weights of head anchors and of tail anchors.
        temperature: tau. .1 (docs/gaps.md A3).
        detach_negatives: Stop the gradient of the negatives as well as that of the positive: a live
            negative would let the tails' term push heads away (docs/gaps.md A5).
        max_anchors: At most so many anchors of a batch, drawn at random: the cost grows with their
            square.
        seed: Of the draws.

    References:
        AKT-Rec 3.2.1, Eq. 4; docs/gaps.md A3 to A6.
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
        super().__init__(seed)
        self.lambda1, self.lambda2 = lambda1, lambda2
        self.temperature = temperature
        self.detach_negatives = detach_negatives
        self.max_anchors = max_anchors

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
        draws = self.uniform(2, n, device=batch.ids.device)
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


EPS = 1e-8  # added to squared norms: bounds the gradient of a vector that vanishes


def squared_cosine(c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """``(c^T d / (||c|| ||d||))^2`` ``[B]`` of vectors ``[B, m]``; 0 where one is zero.

    References:
        AKT-Rec Eq. 5; docs/gaps.md A7.
    """
    dot = (c * d).sum(-1)
    return dot.square() / ((c.square().sum(-1) + EPS) * (d.square().sum(-1) + EPS))


def soft_orthogonality(
    pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """``L_ortho``: mean of Eq. 5 over the distinct users and items of a batch.

    Args:
        pairs: For each side ``(c, d, weight)``: ``[B, m]`` twice, and ``[B]`` with 1 on one row of
            each id, else 0.

    References:
        AKT-Rec Eq. 5; docs/gaps.md A7 (target users and items, not the history's).
    """
    total = torch.stack([(weight * squared_cosine(c, d)).sum() for c, d, weight in pairs]).sum()
    count = torch.stack([weight.sum() for _, _, weight in pairs]).sum()
    return total / count.clamp_min(1.0)


class TransferMeter(nn.Module):
    """Sums over the steps of an epoch; read once, at its end."""

    totals: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # steps, L_trans, L_ortho, then ids and paired ids of users and of items
        zeros = torch.zeros(7, dtype=torch.float64)
        self.register_buffer("totals", zeros, persistent=False)

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.totals.zero_()

    @torch.no_grad()
    def add(
        self, users: Transfer | None, items: Transfer | None, ortho: torch.Tensor | None
    ) -> None:
        """Count a step; what a setting switched off is None."""
        none = self.totals.new_zeros(())
        row = [self.totals.new_ones(()), none, none if ortho is None else ortho]
        for part in (users, items):
            if part is not None:
                row[1] = row[1] + part.loss
            row += [none, none] if part is None else [part.n_ids, part.n_paired]
        self.totals += torch.stack([value.to(self.totals.dtype) for value in row])

    def report(self) -> dict[str, float]:
        """Mean losses per step and shares of ids with a partner; what was off is left out.

        ``loss_trans`` has its lambda1 and lambda2 in it, ``loss_ortho`` not its lambda (Eq. 12).
        """
        steps, trans, ortho, *pairs = self.totals.tolist()
        figures: dict[str, float] = {}
        if steps and (pairs[0] or pairs[2]):
            figures["loss_trans"] = trans / steps
        if steps and ortho:
            figures["loss_ortho"] = ortho / steps
        for name, ids, paired in (("users", *pairs[:2]), ("items", *pairs[2:])):
            if ids:
                figures[f"frac_paired_{name}"] = paired / ids
        return figures
