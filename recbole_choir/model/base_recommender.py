"""The abstract base of all models of this package: one encoding of the features for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import ContextRecommender
from recbole.utils import InputType, ModelType
from torch import nn

from recbole_choir.data import fields
from recbole_choir.data.schema import Field
from recbole_choir.errors import ConfigError
from recbole_choir.model.layers.attention_meter import attention_figures, reset_attention
from recbole_choir.model.layers.field_embedding import (
    FeatureTable,
    FieldBank,
    FieldEmbedding,
    ItemEncoder,
    ItemTokens,
)
from recbole_choir.model.layers.target_attention import Attended, TargetAttention
from recbole_choir.model.settings.shared import SharedSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_choir.data.activity import Activity
    from recbole_choir.data.schema import ModelInputs


class Features(NamedTuple):
    """The encoded features of a batch.

    Attributes:
        user: ``[B, .]``: user id, user attributes, as-of activity statistics ``a_u``.
        item_token: ``[B, D]``: ``x_t``, the item's id and attributes.
        item_stats: ``[B, p_i]``: as-of popularity ``a_i``.
        context: ``[B, .]``: context fields; width 0 where there are none.
        history: ``[B, 2 D]``: attention-weighted sum ``s`` and masked mean ``m``.
    """

    user: torch.Tensor
    item_token: torch.Tensor
    item_stats: torch.Tensor
    context: torch.Tensor
    history: torch.Tensor

    def concat(self) -> torch.Tensor:
        """``h0 = [e_u; user attributes; a_u; x_t; a_i; context; s; m]`` ``[B, .]``."""
        return torch.cat(list(self), dim=-1)


class ChoirRecommender(ContextRecommender):
    """Base class of the models of this package.

    It encodes every feature the same way for all of them, so that two models differ in their
    architecture alone. A subclass builds its layers in ``__init__`` and defines ``forward``.

    Args:
        config: RecBole's configuration, or anything that can be read like a dict.
        dataset: Has ``model_inputs`` (:class:`recbole_choir.data.schema.ModelInputs`).

    Raises:
        ConfigError: If the dataset has no ``model_inputs`` or a setting is wrong.

    References:
        ChoirRec 4.4.1 (individual channel); docs/baselines.md.
    """

    #: The class of the model's settings: a subclass of :class:`SharedSettings`.
    settings_class: ClassVar[type[SharedSettings]] = SharedSettings
    type = ModelType.CONTEXT
    input_type = InputType.POINTWISE
    reads_model_inputs = True
    #: What a reader of the run's record must know, such as an input that the dataset cannot give.
    notes: tuple[str, ...] = ()

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        # Not ContextRecommender.__init__: it would build RecBole's embedding tables and
        # first-order weights for every loaded field, which nothing here reads and which would
        # double the model (the sequence fields would even get tables of their own).
        super(ContextRecommender, self).__init__()
        inputs = getattr(dataset, "model_inputs", None)
        if inputs is None:
            raise ConfigError(
                f"{type(self).__name__}: expected a dataset with model_inputs (a ChoirDataset), "
                f"got {type(dataset).__name__}"
            )
        self.inputs_schema = inputs.schema
        # Group ids and group statistics mean nothing with another table: checkpoints name theirs.
        self.table_fingerprint: str | None = getattr(inputs.groups, "fingerprint", None)
        self.history_length = int(inputs.history_length)
        self.USER_ID = config["USER_ID_FIELD"]
        self.ITEM_ID = config["ITEM_ID_FIELD"]
        self.LABEL = config["LABEL_FIELD"]
        self.device = config["device"]
        s = self.settings = self.settings_class.from_config(config)
        self.embedding_size = s.embedding_size
        self.embedding_std = s.embedding_init_std
        self.widths = scaled_widths(s.mlp_hidden_size, s.tower_width_multiplier)
        self.dropout_prob = s.dropout_prob
        self._build_encoders(config, inputs)

    def _build_encoders(self, config: ConfigLike, inputs: ModelInputs) -> None:
        schema, d, std = inputs.schema, self.embedding_size, self.embedding_std
        self.user_table = self._build_user_table(config, inputs)
        self.user_features = FeatureTable(schema.user_attrs, inputs.user_features, "user")
        self.user_bank = FieldBank(schema.user_attrs, d, std)
        self.item_encoder = self._build_item_encoder(config, inputs)
        self.context_bank = FieldBank(schema.contexts, d, std)
        self.history_attention = self._build_attention(config)
        self.context_width = self.context_bank.width
        self.user_width = d + self.user_bank.width + len(schema.user_stat_names)
        self.item_width = self.item_encoder.width + len(schema.item_stat_names)
        self.h0_width = (
            self.user_width + self.item_width + self.context_width + 2 * self.item_encoder.width
        )

    def _build_user_table(self, config: ConfigLike, inputs: ModelInputs) -> nn.Module:
        """What embeds a user's id, of width ``embedding_size``."""
        spec = Field(self.USER_ID, "token", inputs.schema.n_users)
        return FieldEmbedding(spec, self.embedding_size, self.embedding_std)

    def _build_item_encoder(self, config: ConfigLike, inputs: ModelInputs) -> ItemEncoder:
        """What makes item tokens."""
        schema, d, std = inputs.schema, self.embedding_size, self.embedding_std
        return ItemEncoder(schema.n_items, schema.item_attrs, inputs.item_features, d, std)

    def _build_attention(self, config: ConfigLike) -> TargetAttention:
        """A target attention over item tokens with weights of its own."""
        s = self.settings
        return TargetAttention(self.item_encoder.width, s.att_type, s.att_hidden_size, s.att_scale)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """What a dataset must provide beyond the rows.

        Of ``groups`` (clusters of users), ``group_stats``, ``lifts`` (of soft groups),
        ``own_scores`` (the user's own, a control), ``items`` (semantic ids and vectors of items),
        ``clusters`` (what AKT-Rec reads of both, and the cross statistics) and ``activity``
        (training rows and tail flags by id, which need no semantic table).

        Args:
            config: The run's configuration.
        """
        return frozenset()

    def id_tables(self) -> dict[str, torch.Tensor]:
        """Vectors of single ids, ``user`` and ``item`` -> ``[n_ids, d]`` by internal id.

        For what looks at how ids are trained. A table that the model has not is left out; a model
        that keeps its ids elsewhere says so here.
        """
        tables = {
            "user": getattr(self, "user_table", None),
            "item": getattr(self.item_encoder, "id_table", None),
        }
        return {k: t.weight for k, t in tables.items() if isinstance(t, FieldEmbedding)}

    def item_tokens(self, interaction: Interaction, extra_lookups: int = 0) -> ItemTokens:
        """Prepare item lookups of this batch: target, history, ``extra_lookups`` more."""
        n = interaction[fields.HIST_ITEMS].numel() + interaction[self.ITEM_ID].numel()
        return self.item_encoder.tokens(n + extra_lookups)

    def user_values(self, interaction: Interaction) -> list[torch.Tensor]:
        """The users' own attribute values, one tensor per field of the schema."""
        return self.user_features(interaction[self.USER_ID])

    def attend_history(
        self, interaction: Interaction, item_token: torch.Tensor, items: ItemTokens
    ) -> Attended:
        """Target attention over the row's history; valid slots are those with an item."""
        history = interaction[fields.HIST_ITEMS]  # [B, L]
        return self.history_attention(item_token, *items.rows(history), history > 0)

    def encode(self, interaction: Interaction, items: ItemTokens) -> Features:
        """Encode the features that all models share.

        Args:
            interaction: A batch.
            items: The batch's item lookups, see :meth:`item_tokens`.
        """
        user = self.user_table(interaction[self.USER_ID])
        return self.assemble(interaction, items, user, items.lookup(interaction[self.ITEM_ID]))

    def assemble(
        self,
        interaction: Interaction,
        items: ItemTokens,
        user_id: torch.Tensor,
        item_token: torch.Tensor,
    ) -> Features:
        """Put the encoded user id ``[B, .]`` and item token ``[B, D]`` among the other features."""
        user = [user_id, *self.user_bank(self.user_values(interaction))]
        user.append(self.statistics(interaction, fields.USER_STATS))
        pooled = self.attend_history(interaction, item_token, items).pooled
        return Features(
            torch.cat(user, dim=-1),
            item_token,
            self.statistics(interaction, fields.ITEM_STATS),
            self.encode_context(interaction),
            pooled.flatten(1),
        )

    def statistics(self, interaction: Interaction, name: str) -> torch.Tensor:
        """Statistics ``[B, p]`` of a batch field; width 0 where the schema has none of them."""
        names = {
            fields.USER_STATS: self.inputs_schema.user_stat_names,
            fields.ITEM_STATS: self.inputs_schema.item_stat_names,
            fields.GROUP_STATS: self.inputs_schema.group_stat_names,
            fields.CROSS_STATS: self.inputs_schema.cross_stat_names,
            fields.LIFTS: self.inputs_schema.lift_names,
            fields.OWN_SCORES: self.inputs_schema.own_score_names,
        }[name]
        if not names:
            return self._no_columns(interaction)
        return interaction[name].to(next(self.parameters()).dtype)

    def _no_columns(self, interaction: Interaction) -> torch.Tensor:
        """A part of the input that is not there: ``[B, 0]``."""
        return next(self.parameters()).new_zeros(interaction[self.USER_ID].shape[0], 0)

    def encode_context(self, interaction: Interaction) -> torch.Tensor:
        """Context fields ``[B, .]`` of a batch."""
        if not self.context_bank.fields:
            return self._no_columns(interaction)
        values = []
        for spec in self.context_bank.fields:
            value = interaction[spec.name]
            if spec.kind == "float" and value.dim() == 2:
                value = value[:, 0]  # RecBole stores a numerical feature as (value, index)
            values.append(value)
        return torch.cat(self.context_bank(values), dim=-1)

    def require_activity(self, inputs: ModelInputs) -> Activity:
        """Return the training rows and tail flags by id.

        Raises:
            ConfigError: If the dataset was built for a model that does not need them.
        """
        if inputs.activity is None:
            raise ConfigError(
                f"{type(self).__name__}: expected a dataset with activity (tail flags by training "
                "rows), got one built for another model"
            )
        return inputs.activity

    def require_group_stats(self) -> int:
        """Return the number of group statistics.

        Raises:
            ConfigError: If the dataset has none.
        """
        n = len(self.inputs_schema.group_stat_names)
        if n == 0:
            raise ConfigError(
                f"{type(self).__name__}: use_group_stats expects the dataset's group statistics "
                "(group_stats: True), got group_stats: False"
            )
        return n

    def require_soft(self, what: str) -> int:
        """Return the number of ``lifts`` or ``own_scores``.

        Raises:
            ConfigError: If the dataset has none.
        """
        schema = self.inputs_schema
        n = len({"lifts": schema.lift_names, "own_scores": schema.own_score_names}[what])
        if n == 0:
            raise ConfigError(
                f"{type(self).__name__}: use_{what} expects a dataset with {what} of soft groups "
                "(semantic_recipe: soft), got one without"
            )
        return n

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        raise TypeError(f"{type(self).__name__} defines no forward: use one of its subclasses")

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """Mean binary cross-entropy with logits over all rows of the batch, a scalar."""
        return self.bce(self.forward(interaction), interaction)

    def bce(self, logit: torch.Tensor, interaction: Interaction) -> torch.Tensor:
        """Mean binary cross-entropy of logits ``[B]`` with the batch's labels (Eq. 12)."""
        return F.binary_cross_entropy_with_logits(logit, interaction[self.LABEL].to(logit.dtype))

    def on_epoch_start(self, epoch: int) -> None:
        """Start counting what the attentions do in this epoch."""
        reset_attention(self)

    def epoch_diagnostics(self) -> dict[str, float]:
        """What the model did over the epoch's training rows so far.

        Of each attention ``attention_entropy_<name>``, its mean entropy over the largest possible
        (1: a plain mean), and ``attention_logit_sd_<name>``, the mean standard deviation of a row's
        logits; over rows with more than five events, one step in sixteen.
        """
        return attention_figures(self)

    def predict(self, interaction: Interaction) -> torch.Tensor:
        """Probability ``[B]`` of a positive label (ChoirRec Eq. 1)."""
        return torch.sigmoid(self.forward(interaction))


def scaled_widths(widths: tuple[int, ...], multiplier: float) -> tuple[int, ...]:
    """Multiply layer widths, rounded, at least 1: a tower of another cost as a control."""
    return tuple(max(1, round(w * multiplier)) for w in widths)
