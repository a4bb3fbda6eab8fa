"""InfoNCE whose positives carry no gradient, as one node of the graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

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
        AKT-Rec Eq. 4; PAPER_GAPS A3.
    """
    x = F.normalize(anchor, dim=-1, eps=NORM_EPS) / temperature
    y = F.normalize(positive, dim=-1, eps=NORM_EPS)
    return _WeightedInfoNCE.apply(x, y, weight, excluded)
