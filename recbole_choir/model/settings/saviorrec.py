"""The settings of SaviorRec."""

from __future__ import annotations

from recbole_choir.model.settings.base_mm import WithContent
from recbole_choir.settings.base import Size, setting


class SaviorRecSettings(WithContent):
    """SaviorRec (2025, arXiv 2508.01375) on Base+MM, with which it must be compared.

    Adds to BaseMM: the adapted content vectors and three attentions. Leaves out: nothing. The paper
    gives no sizes.
    """

    savior_mba: bool = setting(
        True,
        "t~ = W_t t + FusionMLP(codebooks); False: t~ = W_t t",
        "figure of the paper",
        shown=True,
    )
    savior_attention: bool = setting(
        True,
        "the attentions Modal, Modal2Behav and Behav2Modal",
        "figure of the paper",
        shown=True,
    )
    savior_modal_size: Size = setting(32, "d_m", search={"choices": [16, 32, 64]})
    savior_level_size: Size = setting(32, "width of a level's codebook")
    savior_fusion_hidden: Size = setting(64, "hidden width of the fusion MLP")
