"""Target attentions within and across the content and the behaviour of a sequence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from recbole_choir.model.layers.dot_pooling import dot_pooling
from recbole_choir.model.layers.target_attention import DotQuery


class BothWays(NamedTuple):
    """What the attentions return.

    Attributes:
        modal: ``[B, d_m]``, content weighed by content.
        modal_to_behaviour: ``[B, D]``, behaviour weighed by content.
        behaviour_to_modal: ``[B, d_m]``, content weighed by behaviour.
        weights: ``[B, 3, L]`` of the three; exactly 0 on padding. They carry no gradient.
    """

    modal: torch.Tensor
    modal_to_behaviour: torch.Tensor
    behaviour_to_modal: torch.Tensor
    weights: torch.Tensor


class BidirectionalAttention(nn.Module):
    """``sum_j softmax_j(<W q, k_j> / sqrt(d)) v_j`` three times, each with a W of its own.

    The fourth, behaviour by behaviour, is that of Base. One matrix stands for the query's and the
    key's projections, whose product is all that a score sees. That of the values is left to the
    layer that reads the result: both are linear.

    Args:
        modal: Width d_m of the content vectors.
        behaviour: Width D of the behaviour tokens.
        scale: Divide by the square root of the keys' width.

    References:
        SaviorRec (arXiv 2508.01375), figure of the architecture.
    """

    def __init__(self, modal: int, behaviour: int, scale: bool = True) -> None:
        super().__init__()
        self.modal = DotQuery(modal, scale)
        self.modal_to_behaviour = DotQuery(modal, scale)
        self.behaviour_to_modal = DotQuery(behaviour, scale)
        self.widths = (modal, behaviour)

    def forward(
        self,
        modal: torch.Tensor,
        behaviour: torch.Tensor,
        table: torch.Tensor,
        index: torch.Tensor,
        mask: torch.Tensor,
    ) -> BothWays:
        """Attend.

        Args:
            modal: Content of the candidates ``[B, d_m]``.
            behaviour: Their tokens ``[B, D]``.
            table: ``[n, d_m + D]``, content and token of an item side by side: one lookup.
            index: Rows ``[B, L]`` of the table that make up the sequence.
            mask: bool ``[B, L]``, True on valid slots; padding may stand anywhere.
        """
        d_m, width = self.widths
        no_content, no_token = modal.new_zeros(len(modal), d_m), modal.new_zeros(len(modal), width)
        queries = torch.stack(
            [
                torch.cat([self.modal(modal), no_token], dim=1),
                torch.cat([self.modal_to_behaviour(modal), no_token], dim=1),
                torch.cat([no_content, self.behaviour_to_modal(behaviour)], dim=1),
            ],
            dim=1,
        )  # [B, 3, d_m + D]
        pooled, weights = dot_pooling(queries, table, index, mask)
        return BothWays(pooled[:, 0, :d_m], pooled[:, 1, d_m:], pooled[:, 2, :d_m], weights)
