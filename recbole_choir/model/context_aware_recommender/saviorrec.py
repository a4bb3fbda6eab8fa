"""SaviorRec: Base+MM with behaviour-adapted content vectors and attention in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from recbole_choir.data import fields
from recbole_choir.errors import ConfigError
from recbole_choir.model.base_recommender import Features
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM
from recbole_choir.model.layers.bidirectional_attention import BidirectionalAttention
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.layers.modal_embedding import ModalEmbedding
from recbole_choir.model.settings.saviorrec import SaviorRecSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


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
        SaviorRec (2025, arXiv 2508.01375); AKT-Rec Table 1; BASELINES 6.
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
