"""Target attentions within and across the content and the behaviour of a sequence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from recbole_choir.model.layers.attention_meter import AttentionMeter
from recbole_choir.model.layers.dot_pooling import SOFTMAX, Scoring, dot_pooling
from recbole_choir.model.layers.target_attention import CosineQuery, DotQuery, inverse_length


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
    """``sum_j w_j v_j`` three times, each with a query of its own.

    The weights have the forms of
    :class:`recbole_choir.model.layers.target_attention.TargetAttention`; that of the figure is
    ``dot``, ``softmax_j(<W q, k_j> / sqrt(d))``. The fourth attention, behaviour by behaviour, is
    that of Base. One matrix stands for the query's and the key's projections, whose product is all
    that a score sees. That of the values is left to the layer that reads the result: both are
    linear.

    Args:
        modal: Width d_m of the content vectors.
        behaviour: Width D of the behaviour tokens.
        att_type: ``sigmoid`` (the models' common default), ``cosine`` or ``dot``; ``mlp`` counts as
            ``cosine`` and ``mlp_sum`` as ``sigmoid``: DIN's unit wants query and keys of one space.
        scale: Divide products of ``dot`` by the square root of the keys' width.

    Attributes:
        fused: As of target attention.

    References:
        SaviorRec (arXiv 2508.01375), figure of the architecture.
    """

    def __init__(
        self, modal: int, behaviour: int, att_type: str = "sigmoid", scale: bool = True
    ) -> None:
        super().__init__()
        self.kind = "sigmoid" if att_type in ("sigmoid", "mlp_sum") else "softmax"
        self.cosine = att_type != "dot"
        self.fused = True
        shift = 0.5 if self.kind == "sigmoid" else None

        def query(width: int) -> nn.Module:
            return CosineQuery(width, shift=shift) if self.cosine else DotQuery(width, scale)

        self.modal = query(modal)
        self.modal_to_behaviour = query(modal)
        self.behaviour_to_modal = query(behaviour)
        self.widths = (modal, behaviour)
        self.meters = nn.ModuleDict(
            {n: AttentionMeter() for n in ("modal", "modal_to_behaviour", "behaviour_to_modal")}
        )

    def _scoring(self, table: torch.Tensor) -> Scoring:
        """How the three score rows ``[n, d_m + D]`` of the table."""
        if not self.cosine:
            return SOFTMAX
        d_m = self.widths[0]
        content, token = inverse_length(table[:, :d_m]), inverse_length(table[:, d_m:])
        scale = torch.cat([content, content, token], dim=1)  # [n, 3]
        ways = (self.modal, self.modal_to_behaviour, self.behaviour_to_modal)
        biases = [way.bias() for way in ways if isinstance(way, CosineQuery)]
        there = [bias for bias in biases if bias is not None]
        return Scoring(self.kind == "softmax", scale, torch.stack(there) if there else None)

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
        scoring = self._scoring(table)
        pooled, weights = dot_pooling(queries, table, index, mask, scoring, self.fused)
        if self.training:
            for way, meter in enumerate(self.meters.values()):
                meter.add(weights[:, way], mask, self.kind)  # type: ignore[operator]
        return BothWays(pooled[:, 0, :d_m], pooled[:, 1, d_m:], pooled[:, 2, :d_m], weights)
