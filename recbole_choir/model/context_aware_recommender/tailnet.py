"""TailNet: Base with a session's learned preference between head and tail items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import nn

from recbole_choir.data import fields
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.layers.dot_pooling import masked_softmax
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.layers.left_aligned import align_left, last_valid
from recbole_choir.model.layers.mlp import linear
from recbole_choir.model.settings.tailnet import TailNetSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


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


class Session(NamedTuple):
    """What a history says, whatever the candidate.

    Attributes:
        interest: ``S`` ``[B, h]``; zeros for an empty history.
        r_head: ``R_head`` ``[B]``; .5 for an empty history. ``R_tail`` is 1 minus it.
    """

    interest: torch.Tensor
    r_head: torch.Tensor


class TailNet(Base):
    """Base plus an affinity of session and item, rectified for head and tail items.

    In four lines::

        v_j = GRU(x)_j,  p_j = v_j + 1[item j is tail]
        c = attention of p_L over p_j,  R_head = sigmoid(w^T c + b0),  R_tail = 1 - R_head
        S = W [attention of v_L over v_j; v_L]
        logit = z_Base + R_type(item) <S, W_e x_t>

    R knows the history and nothing of the candidate but its type. Only the affinity is rectified: a
    factor below 1 on the whole logit, which is negative where positives are rare, would raise the
    probability.

    Sourced (arXiv 2007.12329: its abstract, and summaries of the rest): the GRU, the ones-vector
    added for tail items, attention and sigmoid to one factor and 1 minus it, the global and the
    local interest. Reconstruction: a click-through model instead of a softmax over all items, hence
    the sum with Base's logit; the tail is the evaluation's, by training rows, where the paper takes
    all but the top fifth by clicks. ``tailnet_pure`` is nearer to the paper: the affinity and a
    bias alone.

    With an empty history the model is Base.

    Args:
        config: Settings, see ``properties/model/TailNet.yaml``.
        dataset: Has ``model_inputs`` with ``activity``.

    Raises:
        ConfigError: If a setting is wrong, or the dataset has no tail flags.

    References:
        TailNet (Liu and Zheng, 2020, arXiv 2007.12329); AKT-Rec Table 1; docs/baselines.md.
    """

    tail: torch.Tensor

    settings_class: ClassVar[type[TailNetSettings]] = TailNetSettings
    settings: TailNetSettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        activity = self.require_activity(dataset.model_inputs)
        self.register_buffer("tail", activity.tail_item, persistent=False)
        self.pure = self.settings.tailnet_pure
        if self.pure:  # nothing would train them
            del self.individual, self.user_table, self.user_bank, self.context_bank
            del self.history_attention
            self.bias = nn.Parameter(torch.zeros(()))
        hidden, width = self.settings.tailnet_hidden, self.item_encoder.width
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.preference = AdditiveAttention(hidden)
        self.factor = linear(hidden, 1)
        self.attention = AdditiveAttention(hidden)
        # No bias: no history and no item, no affinity.
        self.interest = nn.Parameter(linear(2 * hidden, hidden).weight.detach())
        self.candidate = nn.Parameter(linear(width, hidden).weight.detach())

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """What Base needs, and the tail flags."""
        return super().needs(config) | {"activity"}

    def session(self, interaction: Interaction, items: ItemTokens) -> Session:
        """Encode the histories of a batch."""
        (history,) = align_left(interaction[fields.HIST_ITEMS])  # [B, L]
        mask = history > 0
        states, _ = self.gru(items.lookup(history))  # [B, L, h]
        last = last_valid(states, mask)
        pooled = self.attention(last, states, mask)
        typed = states + self.tail[history].unsqueeze(-1)
        preference = self.preference(last_valid(typed, mask), typed, mask)
        r_head = torch.sigmoid(self.factor(preference).squeeze(-1))
        interest = torch.cat([pooled, last], dim=-1) @ self.interest.T
        return Session(interest, torch.where(mask.any(1), r_head, 0.5))

    def rectification(self, interaction: Interaction, r_head: torch.Tensor) -> torch.Tensor:
        """``R`` ``[B]`` of the candidates' type, given ``R_head`` ``[B]``."""
        return torch.where(self.tail[interaction[self.ITEM_ID]], 1.0 - r_head, r_head)

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        items = self.item_tokens(interaction)
        session = self.session(interaction, items)
        token = items.lookup(interaction[self.ITEM_ID])  # [B, D]
        affinity = (session.interest * (token @ self.candidate.T)).sum(-1)
        rectified = self.rectification(interaction, session.r_head) * affinity
        if self.pure:
            return rectified + self.bias
        features = self.encode(interaction, items)
        return self.individual(self.h0(interaction, features)) + rectified
