"""Base: the shared features, target attention and one tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from recbole_choir.data import fields
from recbole_choir.model.base_recommender import ChoirRecommender, Features
from recbole_choir.model.layers.channel import Channel
from recbole_choir.model.settings import ConfigLike, read_bool

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


class Base(ChoirRecommender):
    """DIN-style target attention and an MLP on the features all models share.

    ``h0 = [e_u; user attributes; a_u; x_t; a_i; context; s; m] -> MLP -> logit``. It is the
    individual channel of ChoirRec, under the same parameter names.

    Args:
        config: Settings; ``use_group_stats`` appends the as-of group statistics to ``h0``.
        dataset: Has ``model_inputs``.

    References:
        ChoirRec 4.4.1 and Table 1 ("Base Model"); BASELINES section 1.
    """

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.use_group_stats = read_bool(config, "use_group_stats", False)
        extra = self.require_group_stats() if self.use_group_stats else 0
        self.tower_width = self.h0_width + extra
        self.individual = Channel(self.tower_width, self.widths, self.dropout_prob)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """Group statistics, and so the groups, where ``use_group_stats`` is on."""
        if read_bool(config, "use_group_stats", False):
            return frozenset({"groups", "group_stats"})
        return frozenset()

    def h0(self, interaction: Interaction, features: Features) -> torch.Tensor:
        """Input of the tower ``[B, .]``: the features, and the group statistics if they are on."""
        h0 = features.concat()
        if self.use_group_stats:
            h0 = torch.cat([h0, self.statistics(interaction, fields.GROUP_STATS)], dim=-1)
        return h0

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        features = self.encode(interaction, self.item_tokens(interaction))
        return self.individual(self.h0(interaction, features))
