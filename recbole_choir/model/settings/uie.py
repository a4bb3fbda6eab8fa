"""The settings of UIE."""

from __future__ import annotations

from recbole_choir.model.settings.base import WithGroupStats
from recbole_choir.settings.base import Share, Size, Weight, Widths, setting


class UIESettings(WithGroupStats):
    """UIE, later DUIA (2024, arXiv 2405.13238): what memories of similar users and items know.

    Adds to Base: three vectors from memories that training moves. Leaves out: nothing. N, k and rho
    of the paper could not be read.
    """

    uie_size: Size = setting(32, "d_c, of auxiliary vectors and centroids")
    uie_hidden: Widths = setting((64,), "hidden widths of the auxiliary towers")
    uie_centroids: Size = setting(256, "N of each memory, at most one for 50 users or items")
    uie_top_k: Size = setting(8, "k, centroids that a vector reads")
    uie_rate: Share = setting(0.05, "rho, share of the gap that a centroid moves at a step")
    uie_aux_weight: Weight = setting(
        0.1,
        "weight of the auxiliary towers' loss",
        search={"low": 0.01, "high": 1.0, "log": True},
        shown=True,
    )
    uie_types: Size = setting(5, "types of activity, of equal numbers of users by training rows")
    uie_rows_per_type: Size = setting(16, "rows of a type that move the centroids at a step")
