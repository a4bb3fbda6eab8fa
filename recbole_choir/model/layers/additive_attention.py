"""Attention of a sequence's last state over all its states."""

from __future__ import annotations

import torch
from torch import nn

from recbole_choir.model.layers.dot_pooling import masked_softmax
from recbole_choir.model.layers.mlp import linear


class AdditiveAttention(nn.Module):
    """``sum_j beta_j v_j`` with ``beta = softmax_j(q^T sigmoid(W1 v_L + W2 v_j + b))``.

    Args:
        width: Of the states.

    References:
        TailNet (arXiv 2007.12329); the attention of STAMP and SR-GNN.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.last = linear(width, width)  # its bias is b
        self.each = nn.Parameter(linear(width, width).weight.detach())
        self.query = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.query, std=width**-0.5)

    def forward(self, last: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool.

        Args:
            last: ``v_L`` ``[B, D]``.
            states: ``[B, L, D]``.
            mask: bool ``[B, L]``, True on valid slots.

        Returns:
            ``[B, D]``; the zero vector for a row without a valid slot.
        """
        hidden = torch.sigmoid(self.last(last).unsqueeze(1) + states @ self.each.T)
        beta = masked_softmax(hidden @ self.query, mask)  # [B, L]
        return torch.bmm(beta.unsqueeze(1), states).squeeze(1)
