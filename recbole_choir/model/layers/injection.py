"""Group knowledge into the individual channel, one way."""

from __future__ import annotations

import torch
from torch import nn

from recbole_choir.model.layers.mlp import MLP


class AsymmetricInjection(nn.Module):
    """``h_fuse = W2 ReLU(W1 [sg(h_mid_group); h_mid_ind] + b1) + b2``.

    The stop-gradient on the group's side makes the flow one-way: the individual logit cannot
    change the group channel through it.

    Args:
        group_width, individual_width: Widths of the two mid states.
        hidden: Width of the hidden layer. 64: wide enough, and it keeps the step's cost down.
        out: Width of the hidden layer it is added to.
        stop_gradient: See above; the paper's figure shows it (PAPER_GAPS C2).

    References:
        ChoirRec 4.4.2, Eq. 6.
    """

    def __init__(
        self,
        group_width: int,
        individual_width: int,
        hidden: int,
        out: int,
        stop_gradient: bool = True,
    ) -> None:
        super().__init__()
        self.mlp = MLP(group_width + individual_width, [hidden], out)
        self.stop_gradient = stop_gradient

    def forward(self, group_mid: torch.Tensor, individual_mid: torch.Tensor) -> torch.Tensor:
        """``h_fuse`` ``[B, out]`` of the mid states ``[B, group_width]``, ``[B, individual_width]``."""
        if self.stop_gradient:
            group_mid = group_mid.detach()
        return self.mlp(torch.cat([group_mid, individual_mid], dim=-1))
