"""Base: the shared features, target attention and one tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from recbole_choir.data import fields
from recbole_choir.model.base_recommender import ChoirRecommender, Features
from recbole_choir.model.layers.channel import Channel
from recbole_choir.model.settings.base import BaseSettings, WithGroupStats
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


class Base(ChoirRecommender):
    """DIN-style target attention and an MLP on the features all models share.

    ``h0 = [e_u; user attributes; a_u; x_t; a_i; context; s; m] -> MLP -> logit``. It is the
    individual channel of ChoirRec, under the same parameter names.

    Args:
        config: Settings; ``use_group_stats`` appends the as-of group statistics to ``h0``,
            ``use_lifts`` the lifts of soft groups, ``use_own_scores`` the user's own scores.
        dataset: Has ``model_inputs``.

    References:
        ChoirRec 4.4.1 and Table 1 ("Base Model"); docs/baselines.md.
    """

    settings_class: ClassVar[type[WithGroupStats]] = BaseSettings
    settings: WithGroupStats

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        asked = _asked(self.settings)
        self.use_group_stats = "group_stats" in asked
        self.use_lifts = "lifts" in asked
        self.use_own_scores = "own_scores" in asked
        extra = self.require_group_stats() if self.use_group_stats else 0
        extra += self.require_soft("lifts") if self.use_lifts else 0
        extra += self.require_soft("own_scores") if self.use_own_scores else 0
        self.tower_width = self.h0_width + extra
        self.individual = Channel(self.tower_width, self.widths, self.dropout_prob)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """The statistics of groups that are on, and so the groups."""
        asked = _asked(cls.settings_class.from_config(config))
        return frozenset(asked | {"groups"} if asked else ())

    def h0(self, interaction: Interaction, features: Features) -> torch.Tensor:
        """Input of the tower ``[B, .]``: the features, and the statistics that are on."""
        parts = [features.concat()]
        if self.use_group_stats:
            parts.append(self.statistics(interaction, fields.GROUP_STATS))
        if self.use_lifts:
            parts.append(self.statistics(interaction, fields.LIFTS))
        if self.use_own_scores:
            parts.append(self.statistics(interaction, fields.OWN_SCORES))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        features = self.encode(interaction, self.item_tokens(interaction))
        return self.individual(self.h0(interaction, features))


def _asked(settings: WithGroupStats) -> set[str]:
    """Which statistics of groups join the input; a baseline has fewer switches than Base."""
    names = ("group_stats", "lifts", "own_scores")
    return {name for name in names if getattr(settings, f"use_{name}", False)}
