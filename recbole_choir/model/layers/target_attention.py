"""Target attention over a sequence of items, and its masked mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.model.layers.attention_meter import AttentionMeter
from recbole_choir.model.layers.dot_pooling import (
    SOFTMAX,
    Scoring,
    dot_pooling,
    masked_mean_weights,
    masked_softmax,
)
from recbole_choir.model.layers.lookup import gather_rows
from recbole_choir.model.layers.mlp import linear
from recbole_choir.model.settings.shared import AttType

#: Forms of target attention, see :class:`TargetAttention`.
ATT_TYPES: Final[tuple[str, ...]] = get_args(AttType)
#: Smallest length that a token is divided by: tokens that decay has shrunk to nothing get a cosine
#: near 0 and bounded gradients. A fresh token is about .3 long.
EPS: Final = 1e-3


class Attended(NamedTuple):
    """What attention returns.

    Attributes:
        pooled: ``[B, 2, D]``: the candidate-conditioned interest ``s``, then the masked mean ``m``.
        weights: ``[B, L]``: attention weights, exactly 0 on padding. Each row with a valid slot
            sums to 1, except in the forms that do not normalise. They carry no gradient.
    """

    pooled: torch.Tensor
    weights: torch.Tensor


def inverse_length(x: torch.Tensor) -> torch.Tensor:
    """``1 / sqrt(|x|^2 + EPS^2)`` ``[..., 1]`` of vectors ``[..., D]``."""
    return (x.square().sum(-1, keepdim=True) + EPS**2).rsqrt()


class DotQuery(nn.Module):
    """The query ``W_q x_t / sqrt(D)`` of dot-product attention, ``score_j = <query, x_j>``.

    ``W_q`` starts as the identity. With tokens as short as embeddings start, all scores are then
    close to 0 and the attention is close to a mean; it stays one unless tokens grow
    (``docs/results.md``).

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


class CosineQuery(nn.Module):
    """The query of ``score_j = g (cos(W_q x_t, x_j) - c)``, whatever the length of tokens.

    ``W_q`` starts as the identity, so that at first an item attends most to itself.

    Args:
        width: D.
        gain: ``g`` at the start, learned; one over the temperature. 10: an item's own repeat has
            100 times the weight of an item at cosine .5.
        shift: ``c`` at the start, learned: the cosine at which a sigmoid gives .5. None: there is
            no shift, as a softmax does not see it.
    """

    def __init__(self, width: int, gain: float = 10.0, shift: float | None = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))
        self.gain = nn.Parameter(torch.tensor(float(gain)))
        self.shift = None if shift is None else nn.Parameter(torch.tensor(float(shift)))

    def forward(self, target: torch.Tensor) -> torch.Tensor:
        """``g W_q x_t / |W_q x_t|`` of targets ``[B, D]``."""
        x = F.linear(target, self.weight)
        return x * (inverse_length(x) * self.gain)

    def bias(self) -> torch.Tensor | None:
        """``-g c``, a scalar; None without a shift."""
        return None if self.shift is None else -self.gain * self.shift


class MLPScore(nn.Module):
    """``score_j = MLP([x_t; x_j; x_t - x_j; x_t * x_j])``, DIN's attention unit.

    Tokens come in at unit root mean square: embeddings start so short that products of them would
    be invisible next to the biases, and the unit would be a constant.

    The first layer is rearranged by its linearity: ``(W1 + W3) x_t + (W2 - W3 + W4 diag(x_t)) x_j``
    is one matrix per row, so no ``[B, L, 4 D]`` tensor is made and a quarter of the work remains.

    Args:
        width: D.
        hidden: Widths of the hidden layers.

    References:
        ChoirRec 4.4.1 [23]; docs/baselines.md.
    """

    def __init__(self, width: int, hidden: Sequence[int] = (80, 40)) -> None:
        super().__init__()
        self.first = linear(4 * width, hidden[0])
        widths = [*hidden, 1]
        self.rest = nn.ModuleList(linear(a, b) for a, b in pairwise(widths))

    def forward(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Score keys ``[B, L, D]`` for queries ``[B, D]``: ``[B, L]``."""
        root = query.shape[-1] ** 0.5
        query = query * (inverse_length(query) * root)
        keys = keys * (inverse_length(keys) * root)
        w_query, w_key, w_gap, w_product = self.first.weight.chunk(4, dim=1)  # each [h, D]
        own = F.linear(query, w_query + w_gap, self.first.bias)  # [B, h]
        per_row = (w_key - w_gap).T + query.unsqueeze(2) * w_product.T  # [B, D, h]
        x = torch.baddbmm(own.unsqueeze(1), keys, per_row)  # [B, L, h]
        for layer in self.rest:
            x = layer(F.relu(x))
        return x.squeeze(-1)


class TargetAttention(nn.Module):
    """Pool a sequence for a candidate: attention-weighted sum ``s`` and masked mean ``m``.

    ``s = sum_j w_j x_j`` with one of these weights:

    - ``sigmoid`` (default): ``w_j = sigmoid(g (cos(W_q x_t, x_j) - c))``, not normalised, as DIN
      pools: how much of the history is like the candidate survives. ``g`` from 10 and ``c`` from
      .5, both learned. Chosen on validation of three datasets (docs/results.md).
    - ``cosine``: ``softmax_j(g cos(W_q x_t, x_j))``.
    - ``dot``: ``softmax_j(<W_q x_t, x_j> / sqrt(D))``, AKT-Rec's Eq. 8 to the letter. It starts as
      a mean and mostly stays one.
    - ``mlp``: softmax over DIN's activation unit. ``mlp_sum``: the unit's output is the weight, not
      normalised, as in DIN.

    Args:
        width: D, of the candidate's and the sequence's tokens.
        att_type: The form.
        hidden: Hidden widths of ``mlp`` and ``mlp_sum``.
        scale: Divide the products of ``dot`` by ``sqrt(D)``.

    Attributes:
        fused: Whether the forms of dot products take one node with a backward pass of its own;
            False: plain operations with the same values, which can be exported.

    Raises:
        ConfigError: For another ``att_type``.

    References:
        ChoirRec 4.4.1 and AKT-Rec 3.2.2 cite DIN (Zhou et al., 2018, 4.3: no softmax, so that the
        intensity of interests is kept); AKT-Rec Eq. 8; docs/baselines.md.
    """

    def __init__(
        self,
        width: int,
        att_type: str = "sigmoid",
        hidden: Sequence[int] = (80, 40),
        scale: bool = True,
    ) -> None:
        super().__init__()
        if att_type not in ATT_TYPES:
            raise ConfigError(
                f"att_type: expected one of {', '.join(ATT_TYPES)}, got {att_type!r}"
                f"{nearest(att_type, ATT_TYPES)}"
            )
        self.att_type, self.scale = att_type, scale
        #: How weights come from logits.
        self.kind = {"sigmoid": "sigmoid", "mlp_sum": "linear"}.get(att_type, "softmax")
        self.fused = True
        if att_type == "dot":
            self.query: nn.Module = DotQuery(width, scale)
        elif att_type in ("sigmoid", "cosine"):
            self.query = CosineQuery(width, shift=0.5 if att_type == "sigmoid" else None)
        else:
            self.score = MLPScore(width, hidden)
        self.meter = AttentionMeter()

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
        if self.att_type in ("mlp", "mlp_sum"):
            out = self._by_mlp(query, table, index, mask)
        else:
            scoring = SOFTMAX
            if isinstance(self.query, CosineQuery):
                bias = self.query.bias()
                bias = None if bias is None else bias.view(1)
                scoring = Scoring(self.kind == "softmax", inverse_length(table), bias)
            q = self.query(query)
            out = Attended(*dot_pooling(q, table, index, mask, scoring, self.fused))
        if self.training:
            self.meter.add(out.weights, mask, self.kind)
        return out

    def _by_mlp(
        self, query: torch.Tensor, table: torch.Tensor, index: torch.Tensor, mask: torch.Tensor
    ) -> Attended:
        keys = gather_rows(table, index)  # [B, L, D]
        scores = self.score(query, keys)
        weights = masked_softmax(scores, mask) if self.att_type == "mlp" else scores * mask
        both = torch.stack([weights, masked_mean_weights(mask, keys.dtype)], dim=1)
        return Attended(torch.bmm(both, keys), weights.detach())


def use_plain_attention(model: nn.Module, plain: bool = True) -> None:
    """Have a model attend by plain operations, which exporters know, or by the fused node again.

    The values are the same up to the order of additions.
    """
    for module in model.modules():
        if hasattr(module, "fused") and isinstance(module.fused, bool):
            module.fused = not plain
