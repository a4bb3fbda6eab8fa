"""A gate in (0, 1) that sees activity alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_choir.model.layers.mlp import MLP


class ActivityGate(nn.Module):
    """``sigmoid(MLP(f_act))``: the networks G_1 and G_2.

    The last layer starts at zero, so that every gate starts at exactly .5, which is the paper's
    "simple average" (docs/gaps.md A8).

    Args:
        n_in: Number of activity features.
        hidden: Hidden widths.
        n_out: 1 for one gate a row, or one for each dimension of what it mixes.

    References:
        AKT-Rec Eq. 6 and 10.
    """

    def __init__(self, n_in: int, hidden: Sequence[int] = (16,), n_out: int = 1) -> None:
        super().__init__()
        self.mlp = MLP(n_in, hidden, n_out)
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, activity: torch.Tensor) -> torch.Tensor:
        """Gates ``[..., n_out]`` of activity features ``[..., n_in]``."""
        return torch.sigmoid(self.mlp(activity))
