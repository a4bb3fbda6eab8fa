"""The settings of Base."""

from __future__ import annotations

from recbole_choir.model.settings.shared import SharedSettings
from recbole_choir.settings.base import setting


class WithGroupStats(SharedSettings):
    """Base and the baselines that add to it."""

    use_group_stats: bool = setting(
        False, "append the as-of group statistics to the input; needs group_stats: True"
    )


class BaseSettings(WithGroupStats):
    """Base: the features all models share, target attention, one tower (docs/baselines.md)."""

    use_lifts: bool = setting(
        False,
        "append the lifts of soft groups: one tower with what ChoirRec's variant soft knows",
    )
    use_own_scores: bool = setting(
        False,
        "append the user's own as-of SVD scores, the control of lifts; needs a recipe with "
        "soft.own_vectors: true",
    )
