"""BaseMM: Base with content vectors and semantic ids as ordinary features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from recbole_choir.data import fields
from recbole_choir.errors import ConfigError
from recbole_choir.model.base_recommender import ChoirRecommender, Features
from recbole_choir.model.layers.channel import Channel
from recbole_choir.model.layers.code_embedding import CodeEmbedding
from recbole_choir.model.layers.content import ContentProjection
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.layers.keyed_part import KeyedPart
from recbole_choir.model.layers.snapshot_tokens import SnapshotItemEncoder, SnapshotTokens
from recbole_choir.model.settings.base_mm import BaseMMSettings, WithContent
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_choir.data.schema import ModelInputs


class BaseMM(ChoirRecommender):
    """The papers' Base+MM: what AKTRec knows of semantics, in Base's architecture.

    An item's token, of the target and of the history alike, is Base's followed by ``Linear(t_i)``
    of its frozen content vector and an embedding of its code at each level, both as of the row's
    snapshot. The user's codes join its features in the same way. All else is Base, so that a gain
    of AKTRec over this model is one of its architecture and not of its inputs.

    Args:
        config: Settings; ``use_content`` and ``use_codes`` switch the two off; ``use_cross_stats``
            adds the as-of statistics of row and clusters, which AKTRec's fusion gate reads: the
            control for what AKTRec gains by these inputs alone.
        dataset: Has ``model_inputs`` with ``groups`` and ``items``.

    Raises:
        ConfigError: If the dataset has no item tables.

    References:
        docs/baselines.md; AKT-Rec 4.1.3.
    """

    settings_class: ClassVar[type[WithContent]] = BaseMMSettings
    settings: WithContent
    item_encoder: SnapshotItemEncoder

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.individual = Channel(self.h0_width, self.widths, self.dropout_prob)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """The user groups and the item tables, and the cross statistics where they are used."""
        s = cls.settings_class.from_config(config)
        if _cross_stats(s):
            return frozenset({"groups", "items", "cross_stats"})
        return frozenset({"groups", "items"} if s.use_content or s.use_codes else ())

    def _build_encoders(self, config: ConfigLike, inputs: ModelInputs) -> None:
        self.reads_tables = bool(self.needs(config))
        if self.reads_tables and (inputs.items is None or inputs.groups is None):
            raise ConfigError(
                f"{type(self).__name__}: expects a semantic table with items (semantic_table: auto "
                "or a folder), got a dataset without one"
            )
        super()._build_encoders(config, inputs)
        self.use_cross_stats = _cross_stats(self.settings)
        if self.use_cross_stats:
            self.context_width += len(inputs.schema.cross_stat_names)
            self.h0_width += len(inputs.schema.cross_stat_names)
        self.user_codes: CodeEmbedding | None = None
        if self.settings.use_codes and inputs.groups is not None:
            groups = inputs.groups
            self.user_codes = self._code_part(groups.user_codes, groups.n_codes)
            self.user_width += self.user_codes.width
            self.h0_width += self.user_codes.width

    def _code_part(self, codes: torch.Tensor, n_codes: list[int]) -> CodeEmbedding:
        return CodeEmbedding(codes, n_codes, self.embedding_size, self.embedding_std)

    def _build_item_encoder(self, config: ConfigLike, inputs: ModelInputs) -> SnapshotItemEncoder:
        schema, items = inputs.schema, inputs.items
        parts: list[KeyedPart] = []
        if items is not None and self.settings.use_content:
            parts.append(ContentProjection(items, self.embedding_size))
        if items is not None and self.settings.use_codes:
            parts.append(self._code_part(items.item_codes, items.n_codes))
        return SnapshotItemEncoder(
            schema.n_items,
            schema.item_attrs,
            inputs.item_features,
            self.embedding_size,
            self.embedding_std,
            parts,
            n_snapshots=1 if items is None else items.item_codes.shape[0],
        )

    def _snapshot(self, interaction: Interaction) -> torch.Tensor:
        """Newest snapshot before each row ``[B]``; 0 throughout where no table is read."""
        if not self.reads_tables:
            return torch.zeros_like(interaction[self.ITEM_ID])
        return interaction[fields.SNAPSHOT]

    def item_tokens(self, interaction: Interaction, extra_lookups: int = 0) -> SnapshotTokens:
        """Prepare item lookups of this batch, each at its row's snapshot."""
        n = interaction[fields.HIST_ITEMS].numel() + interaction[self.ITEM_ID].numel()
        return self.item_encoder.tokens_at(n + extra_lookups, self._snapshot(interaction))

    def encode(self, interaction: Interaction, items: ItemTokens) -> Features:
        """Encode the features of Base, the user's codes behind its id."""
        user_id = interaction[self.USER_ID]
        user = self.user_table(user_id)
        if self.user_codes is not None:
            codes = self.user_codes(user_id, self._snapshot(interaction))
            user = torch.cat([user, codes], dim=-1)
        return self.assemble(interaction, items, user, items.lookup(interaction[self.ITEM_ID]))

    def encode_context(self, interaction: Interaction) -> torch.Tensor:
        """Context fields ``[B, .]`` of a batch, the cross statistics behind them."""
        context = super().encode_context(interaction)
        if not self.use_cross_stats:
            return context
        return torch.cat([context, self.statistics(interaction, fields.CROSS_STATS)], dim=-1)

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        return self.individual(self.encode(interaction, self.item_tokens(interaction)).concat())


def _cross_stats(settings: WithContent) -> bool:
    return isinstance(settings, BaseMMSettings) and settings.use_cross_stats
