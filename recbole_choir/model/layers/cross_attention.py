"""Target attention whose weights come from one sequence and whose values from another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from recbole_choir.model.layers.dot_pooling import masked_softmax
from recbole_choir.model.layers.target_attention import DotQuery


class CrossAttended(NamedTuple):
    """What it returns.

    Attributes:
        pooled: ``[B, D_v]``; zeros for an empty sequence.
        weights: ``[B, L]``; exactly 0 on padding.
    """

    pooled: torch.Tensor
    weights: torch.Tensor


class CrossAttention(nn.Module):
    """``sum_j softmax_j(<W q, k_j> / sqrt(D)) v_j``.

    One matrix stands for the query's and the key's projections, whose product is all that a score
    sees. That of the values is left to the layer that reads the result: both are linear.

    Args:
        width: D, of query and keys.
        scale: Divide by ``sqrt(D)``.
    """

    def __init__(self, width: int, scale: bool = True) -> None:
        super().__init__()
        self.query = DotQuery(width, scale)

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> CrossAttended:
        """Attend.

        Args:
            query: ``[B, D]``.
            keys: ``[B, L, D]``.
            values: ``[B, L, D_v]``.
            mask: bool ``[B, L]``, True on valid slots; padding may stand anywhere.
        """
        # Written [B, 1, D] x [B, D, L]: keys x query is seven times slower on the CPU.
        scores = torch.bmm(self.query(query).unsqueeze(1), keys.transpose(1, 2)).squeeze(1)
        weights = masked_softmax(scores, mask)
        return CrossAttended(torch.bmm(weights.unsqueeze(1), values).squeeze(1), weights)
