"""Columns that a model appends to the input of Base's tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class FurtherInputs(nn.Module):
    """``V x``, added to the tower's first layer before its activation.

    As ``W h0 + V x = [W V] [h0; x]``, it is the same as a wider input. Kept apart, the tower's own
    weights are those of Base with the same seed, and with ``x = 0`` the model is Base, bit for bit.

    Args:
        n_in: Width of x.
        n_out: Width of the tower's first hidden layer.
        n_base: Width of ``h0``: initial values have the scale of a Xavier-normal ``[W V]``.
        zero: Start at zero instead, so that the model starts as Base.
    """

    def __init__(self, n_in: int, n_out: int, n_base: int, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in))
        if not zero:
            nn.init.normal_(self.weight, std=(2.0 / (n_base + n_in + n_out)) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``V x`` ``[B, n_out]`` of ``[B, n_in]``."""
        return F.linear(x, self.weight)
