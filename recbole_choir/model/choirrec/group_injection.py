"""Group knowledge into the individual channel, one way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.model.layers.mlp import linear


class AsymmetricInjection(nn.Module):
    """``h_fuse = W2 ReLU(W1 [sg(h_mid_group); h_mid_ind] + b1) + b2``.

    The stop-gradient on the group's side makes the flow one-way: the individual logit cannot
    change the group channel through it.

    Args:
        group_width, individual_width: Widths of the two mid states.
        hidden: Width of the hidden layer. 32, as wide as ``e_G``: it keeps the step's cost down.
        out: Width of the hidden layer it is added to.
        stop_gradient: See above; the paper's figure shows it (docs/gaps.md C2).

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
        self.first = linear(group_width + individual_width, hidden)
        self.second = linear(hidden, out)
        self.group_width = group_width
        self.stop_gradient = stop_gradient

    def forward(self, group_mid: torch.Tensor, individual_mid: torch.Tensor) -> torch.Tensor:
        """``h_fuse`` ``[B, out]`` of ``[B, group_width]`` and ``[B, individual_width]``."""
        if self.stop_gradient:
            group_mid = group_mid.detach()
        # W1 by halves: nothing is concatenated, and no gradient is computed for a detached half.
        w_group, w_individual = self.first.weight.tensor_split([self.group_width], dim=1)
        hidden = F.linear(group_mid, w_group, self.first.bias)
        hidden = hidden + F.linear(individual_mid, w_individual)
        return self.second(F.relu(hidden))
