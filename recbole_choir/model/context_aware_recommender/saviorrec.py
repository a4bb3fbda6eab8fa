"""SaviorRec: Base+MM with behaviour-adapted content vectors and attention in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import nn

from recbole_choir.data import fields
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.errors import ConfigError
from recbole_choir.model.base_recommender import Features
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM
from recbole_choir.model.layers.attention_meter import AttentionMeter
from recbole_choir.model.layers.code_embedding import CodeEmbedding
from recbole_choir.model.layers.content import ContentProjection
from recbole_choir.model.layers.dot_pooling import SOFTMAX, Scoring, dot_pooling
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.layers.target_attention import CosineQuery, DotQuery, inverse_length
from recbole_choir.model.settings.saviorrec import SaviorRecSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


class CodebookDelta(CodeEmbedding):
    """``delta_i = FusionMLP([A^1[sid_1]; ..; A^M[sid_M]])`` with a zero codebook a level.

    No biases and GELU: delta is exactly zero at first and for unknown codes, and yet the codebooks
    get a gradient. ReLU, whose slope at zero is zero, would keep them there for ever, and so would
    a zero last layer.

    Args:
        codes: ``[S + 1, n, M]``, 0 for unknown, else the code + 1.
        n_codes: K of each level.
        size: Width of a level's codebook.
        hidden: Hidden width of the MLP.
        out: Width of delta.

    References:
        SaviorRec (arXiv 2508.01375), figure of the architecture, MBA block.
    """

    def __init__(
        self, codes: torch.Tensor, n_codes: Sequence[int], size: int, hidden: int, out: int
    ) -> None:
        super().__init__(codes, n_codes, size)
        for level in self.levels:
            nn.init.zeros_(level.weight)  # type: ignore[arg-type]
        first, last = (
            nn.Linear(a, b, bias=False) for a, b in ((self.width, hidden), (hidden, out))
        )
        nn.init.xavier_normal_(first.weight)
        nn.init.xavier_normal_(last.weight)
        self.fusion = nn.Sequential(first, nn.GELU(), last)
        self.width = out

    def embed(self, keys: torch.Tensor) -> torch.Tensor:
        """``delta`` ``[u, out]`` of codes ``[u, M]``."""
        return self.fusion(super().embed(keys))


class ModalEmbedding(nn.Module):
    """``t~_i = W_t t_i + delta_i``, the same for the candidate and the history.

    Args:
        items: Content vectors and codes by (snapshot, item); both frozen.
        size: Width d_m.
        level_size, hidden: See :class:`CodebookDelta`.
        with_delta: False: ``t~ = W_t t``.
    """

    def __init__(
        self, items: ItemTables, size: int, level_size: int, hidden: int, with_delta: bool = True
    ) -> None:
        super().__init__()
        self.width = size
        self.content = ContentProjection(items, size)
        self.delta: CodebookDelta | None = None
        if with_delta:
            self.delta = CodebookDelta(items.item_codes, items.n_codes, level_size, hidden, size)

    def forward(self, ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        """``t~`` ``[..., d_m]`` of ids at snapshots, both ``[...]``."""
        content = self.content(ids, snapshot)
        return content if self.delta is None else content + self.delta(ids, snapshot)

    def whole(self) -> torch.Tensor:
        """``t~`` ``[S + 1, n, d_m]`` of the whole vocabulary at all snapshots."""
        content = self.content.whole()
        return content if self.delta is None else content + self.delta.whole()


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


class SaviorRec(BaseMM):
    """Content vectors adapted through their semantic ids, and four target attentions.

    In three lines::

        t~_i = W_t t_i + FusionMLP([A^1[sid_1]; A^2[sid_2]; A^3[sid_3]]),  A = 0 at first     (MBA)
        weights and values of each attention:  t~, t~ | t~, x | x, t~ | x, x       (bidirectional)
        tower input = [Base+MM's; the first three; t~ of the candidate]

    x is the item's token, the behavioural side; the fourth attention is the one Base+MM has. The
    content vectors and ids are frozen, and the same that Base+MM and AKTRec read.

    Sourced (arXiv 2508.01375, abstract and figure): zero-initialised codebooks a level, their
    concatenation through a fusion MLP, its sum with the content vector, shared weights for
    candidate and history, the four attentions with projections of their own. Reconstruction: all
    sizes, GELU and no biases in the MLP (see :class:`CodebookDelta`), projections folded into one
    matrix an attention, and BCE as the only loss here. Its encoder, trained on pairs of items with
    a contrastive loss, is the aligned item input of the semantic table, shared by all models. A
    third party's code sums the levels and has two attentions; the figure is followed instead.

    With both switches off the model is Base+MM.

    Args:
        config: Settings, see ``properties/model/SaviorRec.yaml``.
        dataset: Has ``model_inputs`` with ``groups`` and ``items``.

    Raises:
        ConfigError: If a setting is wrong, or the dataset has no item tables.

    References:
        SaviorRec (2025, arXiv 2508.01375); AKT-Rec Table 1; docs/baselines.md.
    """

    settings_class: ClassVar[type[SaviorRecSettings]] = SaviorRecSettings
    settings: SaviorRecSettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings
        self.modal: ModalEmbedding | None = None
        self.attention: BidirectionalAttention | None = None
        if not (s.savior_mba or s.savior_attention):
            return
        items = dataset.model_inputs.items
        if items is None:  # never: BaseMM has refused it
            raise ConfigError("SaviorRec: expects a semantic table with items")
        size = s.savior_modal_size
        self.modal = ModalEmbedding(
            items,
            size,
            s.savior_level_size,
            s.savior_fusion_hidden,
            s.savior_mba,
        )
        width = size
        if s.savior_attention:
            behaviour = self.item_encoder.width
            self.attention = BidirectionalAttention(
                size, behaviour, self.history_attention.att_type, self.history_attention.scale
            )
            width += 2 * size + behaviour
        self.further = FurtherInputs(width, self.widths[0], self.h0_width)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """The user groups and the item tables."""
        s = cls.settings_class.from_config(config)
        own = s.savior_mba or s.savior_attention
        return frozenset({"groups", "items"}) if own else super().needs(config)

    def modal_inputs(
        self,
        interaction: Interaction,
        items: ItemTokens,
        features: Features,
        modal: ModalEmbedding,
    ) -> torch.Tensor:
        """``[t~_t; Modal; Modal2Behav; Behav2Modal]`` ``[B, .]`` of a batch, as far as they are on.

        Args:
            interaction, items, features: A batch, its item lookups and its encoded features.
            modal: Makes ``t~``.
        """
        snapshot, history = self._snapshot(interaction), interaction[fields.HIST_ITEMS]
        target = modal(interaction[self.ITEM_ID], snapshot)  # [B, d_m]
        if self.attention is None:
            return target
        table, index = self._side_by_side(items, history, snapshot, modal)
        ways = self.attention(target, features.item_token, table, index, history > 0)
        return torch.cat([target, *ways[:3]], dim=-1)

    def _side_by_side(
        self,
        items: ItemTokens,
        history: torch.Tensor,
        snapshot: torch.Tensor,
        modal: ModalEmbedding,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``[t~; x]`` ``[n, d_m + D]`` of items and the rows ``[B, L]`` of the histories in it."""
        table, index = items.rows(history)
        if items.table is not None and self.item_encoder.varies:  # all items at all snapshots
            content = modal.whole().flatten(0, 1)
        else:
            table = items.lookup(history).flatten(0, 1)  # [B L, D]
            index = torch.arange(history.numel(), device=history.device).view(history.shape)
            content = modal(history, snapshot.unsqueeze(1).expand_as(history)).flatten(0, 1)
        return torch.cat([content, table], dim=-1), index

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        items = self.item_tokens(interaction)
        features = self.encode(interaction, items)
        if self.modal is None:
            return self.individual(features.concat())
        further = self.modal_inputs(interaction, items, features, self.modal)
        return self.individual(features.concat(), self.further(further))
