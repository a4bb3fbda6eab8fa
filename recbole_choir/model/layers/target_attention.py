"""Target attention over a sequence of items, and its masked mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.errors import ConfigError
from recbole_choir.model.layers.dot_pooling import (
    dot_pooling,
    masked_mean_weights,
    masked_softmax,
)
from recbole_choir.model.layers.lookup import gather_rows
from recbole_choir.model.layers.mlp import linear


class Attended(NamedTuple):
    """What attention returns.

    Attributes:
        pooled: ``[B, 2, D]``: the candidate-conditioned interest ``s``, then the masked mean ``m``.
        weights: ``[B, L]``: attention weights; exactly 0 on padding, each row with a valid slot
            sums to 1.
    """

    pooled: torch.Tensor
    weights: torch.Tensor


class DotQuery(nn.Module):
    """The query ``W_q x_t / sqrt(D)`` of dot-product attention, ``score_j = <query, x_j>``.

    ``W_q`` starts as the identity, so that at first an item attends most to itself.

    Args:
        width: D.
        scale: Divide by ``sqrt(D)``.
    """

    def __init__(self, width: int, scale: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))
        self.factor = width**-0.5 if scale else 1.0

    def forward(self, target: torch.Tensor) -> torch.Tensor:
        """Project targets ``[B, D]``."""
        return F.linear(target, self.weight) * self.factor


class MLPScore(nn.Module):
    """``score_j = MLP([x_t; x_j; x_t - x_j; x_t * x_j])``, DIN's attention unit.

    The first layer is rearranged by its linearity: ``(W1 + W3) x_t + (W2 - W3 + W4 diag(x_t)) x_j``
    is one matrix per row, so no ``[B, L, 4 D]`` tensor is made and a quarter of the work remains.

    Args:
        width: D.
        hidden: Widths of the hidden layers.

    References:
        ChoirRec 4.4.1 [23]; BASELINES section 1 (hidden 80, 40).
    """

    def __init__(self, width: int, hidden: Sequence[int] = (80, 40)) -> None:
        super().__init__()
        self.first = linear(4 * width, hidden[0])
        widths = [*hidden, 1]
        self.rest = nn.ModuleList(linear(a, b) for a, b in pairwise(widths))

    def forward(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Score keys ``[B, L, D]`` for queries ``[B, D]``: ``[B, L]``."""
        w_query, w_key, w_gap, w_product = self.first.weight.chunk(4, dim=1)  # each [h, D]
        own = F.linear(query, w_query + w_gap, self.first.bias)  # [B, h]
        per_row = (w_key - w_gap).T + query.unsqueeze(2) * w_product.T  # [B, D, h]
        x = torch.baddbmm(own.unsqueeze(1), keys, per_row)  # [B, L, h]
        for layer in self.rest:
            x = layer(F.relu(x))
        return x.squeeze(-1)


class TargetAttention(nn.Module):
    """Pool a sequence for a candidate: attention-weighted sum and masked mean.

    Args:
        width: D, of the candidate's and the sequence's tokens.
        att_type: ``dot`` (default: as good as ``mlp`` on public data and cheaper) or ``mlp``.
        hidden: Hidden widths of ``mlp``.
        scale: Divide dot products by ``sqrt(D)``.

    Raises:
        ConfigError: For another ``att_type``.

    References:
        ChoirRec 4.4.1; BASELINES section 1.
    """

    def __init__(
        self,
        width: int,
        att_type: str = "dot",
        hidden: Sequence[int] = (80, 40),
        scale: bool = True,
    ) -> None:
        super().__init__()
        if att_type not in ("dot", "mlp"):
            raise ConfigError(f"att_type: expected dot or mlp, got {att_type!r}")
        self.att_type = att_type
        if att_type == "dot":
            self.query = DotQuery(width, scale)
        else:
            self.score = MLPScore(width, hidden)

    def forward(
        self, query: torch.Tensor, table: torch.Tensor, index: torch.Tensor, mask: torch.Tensor
    ) -> Attended:
        """Attend.

        Args:
            query: Token of the candidate ``[B, D]``.
            table: Tokens ``[n, D]``.
            index: Rows ``[B, L]`` of the table that make up the sequence.
            mask: bool ``[B, L]``, True on valid slots; padding may stand anywhere.
        """
        if self.att_type == "dot":
            return Attended(*dot_pooling(self.query(query), table, index, mask))
        keys = gather_rows(table, index)  # [B, L, D]
        weights = masked_softmax(self.score(query, keys), mask)  # [B, L]
        both = torch.stack([weights, masked_mean_weights(mask, keys.dtype)], dim=1)
        return Attended(torch.bmm(both, keys), weights)
