"""ColdTransformer: Base whose user embeddings are adapted by positive and negative feedback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from recbole_choir.data import fields
from recbole_choir.data.history import LABELLED_ITEMS
from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.layers.dot_pooling import masked_mean_weights
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.layers.left_aligned import align_left
from recbole_choir.model.layers.lookup import gather_rows
from recbole_choir.model.layers.mlp import MLP, linear
from recbole_choir.model.layers.sequence_transformer import SequenceTransformer
from recbole_choir.model.settings.coldtransformer import ColdTransformerSettings
from recbole_choir.settings.base import ConfigLike, read

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

POSITIVES_ONLY = (
    "ColdTransformer: the dataset's negatives are sampled, none was observed: its fused sequence "
    "holds positives only, with one constant label encoding"
)


class ColdTransformer(Base):
    """Embedding adaption (EA) by a sequence of labelled behaviour (LE).

    In three lines::

        z_j = W x_j + P_j + E_label[y_j]         the user's last exposures before the row, labelled
        c   = mean of TransformerEncoder(z)
        V'  = V + EA([V; c])                     for each field of the user: id and attributes

    ``V'`` stands in V's place and c joins the input of Base's tower. EA and c's weights start at
    zero, so that the model starts as Base. It adapts all users, in training as in evaluation.

    The sequence holds what was shown and its label, strictly before the row. Where a dataset's
    negatives are sampled nothing was shown: the sequence is then the positives with a constant
    label, which the log and the record say. The sequence is more than Base knows:
    ``ct_adaptation: False`` gives it to Base without EA, as a control.

    Sourced (SIGIR 2022, abstract; the beginning of a blog): the two parts, the fused sequence of
    positive and negative feedback with label encodings, the context vector that adapts the user's
    embedding, two towers. Reconstruction: the form of EA, all sizes, BCE as the only loss, and
    Base's head, which is the default so that only EA and LE differ from Base.
    ``ct_head: two_tower`` decouples user and item as the paper does.

    Args:
        config: Settings, see ``properties/model/ColdTransformer.yaml``.
        dataset: Has ``model_inputs``.

    Raises:
        ConfigError: If a setting is wrong, or the batches would lack the labelled history.

    References:
        Cold-Transformer (Li et al., SIGIR 2022, 10.1145/3477495.3531797); ChoirRec Table 1;
        docs/baselines.md.
    """

    settings_class: ClassVar[type[ColdTransformerSettings]] = ColdTransformerSettings
    settings: ColdTransformerSettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.positives_only = bool(dataset.model_inputs.sampled_negatives)
        if self.positives_only:
            self.notes = (POSITIVES_ONLY,)
            self.logger.warning(POSITIVES_ONLY)
        elif not read(config, "labelled_history", True):
            raise ConfigError(
                "ColdTransformer: expected labelled_history: True (it reads negative feedback), "
                "got False"
            )
        self.n_fields = 1 + len(self.inputs_schema.user_attrs)
        s, size = self.settings, self.settings.ct_size
        self.project = nn.Parameter(linear(self.item_encoder.width, size).weight.detach())
        self.labels = nn.Parameter(torch.empty(2, size).normal_(std=self.embedding_std))
        self.encoder = SequenceTransformer(
            size,
            self.history_length,
            s.ct_blocks,
            s.ct_heads,
            4 * size,
            s.ct_dropout,
            std=self.embedding_std,
        )
        self.adaption: MLP | None = None
        if s.ct_adaptation:
            d = self.embedding_size
            self.adaption = MLP(d + size, [d], d)
            for parameter in self.adaption[-1].parameters():
                nn.init.zeros_(parameter)
        self.two_tower = s.ct_head == "two_tower"
        if self.two_tower:
            self._build_two_towers(size)
        else:
            self.further = FurtherInputs(size, self.widths[0], self.tower_width, zero=True)

    def _build_two_towers(self, size: int) -> None:
        del self.individual, self.history_attention  # nothing would train them
        hidden, out = self.widths[:-1], self.widths[-1]
        user_in = self.user_width + size + self.context_width
        self.user_tower = MLP(user_in, hidden, out, self.dropout_prob)
        self.item_tower = MLP(self.item_width, hidden, out, self.dropout_prob)
        self.bias = nn.Parameter(torch.zeros(()))

    def item_tokens(self, interaction: Interaction, extra_lookups: int = 0) -> ItemTokens:
        """Prepare item lookups of this batch: those of Base and the fused sequence."""
        sequence = interaction[fields.HIST_ITEMS].numel()
        return super().item_tokens(interaction, extra_lookups + sequence)

    def fused(self, interaction: Interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """Items and labels (float) ``[B, L]`` of the fused sequences, items in front."""
        if self.positives_only:
            (items,) = align_left(interaction[fields.HIST_ITEMS])
            return items, torch.ones_like(items, dtype=torch.float32)
        items, labels = align_left(interaction[LABELLED_ITEMS], interaction[fields.HIST_LABELS])
        return items, labels

    def context(self, interaction: Interaction, items: ItemTokens) -> torch.Tensor:
        """``c`` ``[B, d]``; the zero vector for a user without a sequence."""
        sequence, label = self.fused(interaction)
        mask = sequence > 0
        table, index = items.rows(sequence)
        negative, positive = self.labels
        encoded = negative + label.unsqueeze(-1) * (positive - negative)
        z = gather_rows(table @ self.project.T, index) + encoded  # [B, L, d]
        states = self.encoder(z, mask)
        mean = masked_mean_weights(mask, states.dtype).unsqueeze(1)
        return torch.bmm(mean, states).squeeze(1)

    def adapt(self, user: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Replace V by ``V'``.

        Args:
            user: ``[B, F d + rest]``: the fields' embeddings in front.
            context: ``c`` ``[B, .]``.
        """
        if self.adaption is None:
            return user
        n, d = self.n_fields, self.embedding_size
        v = user[:, : n * d].view(-1, n, d)
        with_context = torch.cat([v, context.unsqueeze(1).expand(-1, n, -1)], dim=-1)
        v = v + self.adaption(with_context)
        return torch.cat([v.flatten(1), user[:, n * d :]], dim=-1)

    def user_vector(self, interaction: Interaction, items: ItemTokens) -> torch.Tensor:
        """Output ``[B, .]`` of the user's tower, which sees nothing of the candidate."""
        c = self.context(interaction, items)
        parts = [self.user_table(interaction[self.USER_ID])]
        parts += self.user_bank(self.user_values(interaction))
        parts.append(self.statistics(interaction, fields.USER_STATS))
        user = self.adapt(torch.cat(parts, dim=-1), c)
        return self.user_tower(torch.cat([user, c, self.encode_context(interaction)], dim=-1))

    def item_vector(self, interaction: Interaction, items: ItemTokens) -> torch.Tensor:
        """Output ``[B, .]`` of the item's tower."""
        token = items.lookup(interaction[self.ITEM_ID])
        stats = self.statistics(interaction, fields.ITEM_STATS)
        return self.item_tower(torch.cat([token, stats], dim=-1))

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        items = self.item_tokens(interaction)
        if self.two_tower:
            user, item = self.user_vector(interaction, items), self.item_vector(interaction, items)
            return (user * item).sum(-1) + self.bias
        c = self.context(interaction, items)
        features = self.encode(interaction, items)
        features = features._replace(user=self.adapt(features.user, c))
        return self.individual(self.h0(interaction, features), self.further(c))
