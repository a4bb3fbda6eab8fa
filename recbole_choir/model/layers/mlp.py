"""Fully connected blocks, all initialised alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer with Xavier-normal weights and zero bias, as RecBole's own models start."""
    layer = nn.Linear(n_in, n_out)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Sequential):
    """Linear, ReLU, dropout.

    Args:
        n_in, n_out: Widths.
        dropout: Share of activations dropped in training; 0 leaves the layer out.
    """

    def __init__(self, n_in: int, n_out: int, dropout: float = 0.0) -> None:
        parts: list[nn.Module] = [linear(n_in, n_out), nn.ReLU()]
        if dropout > 0:
            parts.append(nn.Dropout(dropout))
        super().__init__(*parts)


class MLP(nn.Sequential):
    """Blocks in a row, optionally ended by a plain linear layer.

    Args:
        n_in: Input width.
        hidden: Widths of the hidden blocks; may be empty.
        n_out: Width of a final linear layer without activation; None ends with the last block.
        dropout: Of every hidden block.
    """

    def __init__(
        self, n_in: int, hidden: Sequence[int], n_out: int | None = None, dropout: float = 0.0
    ) -> None:
        widths = [n_in, *hidden]
        parts: list[nn.Module] = [Block(a, b, dropout) for a, b in pairwise(widths)]
        if n_out is not None:
            parts.append(linear(widths[-1], n_out))
        super().__init__(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[..., n_in]`` to ``[..., n_out]`` (or the last hidden width)."""
        for part in self:
            x = part(x)
        return x
