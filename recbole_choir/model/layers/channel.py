"""One channel: a first block, a tower with a place for injection, and a logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_choir.model.layers.mlp import MLP, Block, linear


class Channel(nn.Module):
    """``h0 -> first block = h_mid -> hidden = h_post (+ injected) -> ... -> logit``.

    Without injection it is the plain MLP of the given widths.

    Args:
        n_in: Width of ``h0``.
        widths: At least two: the first is that of ``h_mid``, the second that of the tower's first
            hidden layer, to which a vector may be added after its activation.
        dropout: After each hidden layer.

    References:
        ChoirRec 4.4.1-4.4.2; PAPER_GAPS C3 (which layers), C10 (the first block).
    """

    def __init__(self, n_in: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.first = Block(n_in, widths[0], dropout)
        self.hidden = Block(widths[0], widths[1], dropout)
        self.rest = MLP(widths[1], widths[2:], None, dropout)
        self.head = linear(widths[-1], 1)

    def mid(self, h0: torch.Tensor) -> torch.Tensor:
        """``h_mid`` ``[B, widths[0]]`` of the input ``[B, n_in]``."""
        return self.first(h0)

    def logit(self, mid: torch.Tensor, injected: torch.Tensor | None = None) -> torch.Tensor:
        """Logit ``[B]`` from ``h_mid`` and, if given, ``h_fuse`` ``[B, widths[1]]``."""
        post = self.hidden(mid)
        if injected is not None:
            post = post + injected
        return self.head(self.rest(post)).squeeze(-1)

    def forward(self, h0: torch.Tensor) -> torch.Tensor:
        """Logit ``[B]`` of the input ``[B, n_in]``, nothing injected."""
        return self.logit(self.mid(h0))
