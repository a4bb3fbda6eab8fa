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
        ChoirRec 4.4.1-4.4.2; docs/gaps.md C3 (which layers), C10 (the first block).
    """

    def __init__(self, n_in: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.first = Block(n_in, widths[0], dropout)
        self.hidden = Block(widths[0], widths[1], dropout)
        self.rest = MLP(widths[1], widths[2:], None, dropout)
        self.head = linear(widths[-1], 1)

    def blocks(self) -> list[nn.Module]:
        """The hidden layers, in order; each ends with its activation and dropout."""
        return [self.first, self.hidden, *self.rest]

    def mid(self, h0: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """``h_mid`` ``[B, widths[0]]`` of the input ``[B, n_in]``.

        Args:
            h0: ``[B, n_in]``.
            added: ``[B, widths[0]]``, joins the first layer before its activation
                (:class:`recbole_choir.model.layers.further_inputs.FurtherInputs`).
        """
        if added is None:
            return self.first(h0)
        first, *rest = self.first
        x = first(h0) + added
        for layer in rest:
            x = layer(x)
        return x

    def logit(self, mid: torch.Tensor, injected: torch.Tensor | None = None) -> torch.Tensor:
        """Logit ``[B]`` from ``h_mid`` and, if given, ``h_fuse`` ``[B, widths[1]]``."""
        post = self.hidden(mid)
        if injected is not None:
            post = post + injected
        return self.head(self.rest(post)).squeeze(-1)

    def forward(self, h0: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Logit ``[B]`` of the input ``[B, n_in]``; ``added`` as in :meth:`mid`."""
        return self.logit(self.mid(h0, added))


class MixtureOfExperts(nn.Module):
    """``logit = tower(sum_k softmax(W f)_k expert_k(f))``: one task of the multi-gate mixture.

    Args:
        n_in: Width of f.
        widths: The hidden layers of an MLP of the same depth: all but the last make an expert, the
            last is the tower's.
        dropout: After each hidden layer.
        n_experts: K.

    References:
        AKT-Rec 3.2.3 (the ranking network F, [12]).
    """

    def __init__(
        self, n_in: int, widths: Sequence[int], dropout: float, n_experts: int = 4
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            MLP(n_in, widths[:-1], None, dropout) for _ in range(n_experts)
        )
        self.gate = linear(n_in, n_experts)
        self.tower = MLP(widths[-2], widths[-1:], 1, dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logit ``[B]`` of features ``[B, n_in]``."""
        weight = torch.softmax(self.gate(features), dim=-1)  # [B, K]
        experts = torch.stack([expert(features) for expert in self.experts], dim=1)  # [B, K, w]
        return self.tower((weight.unsqueeze(-1) * experts).sum(1)).squeeze(-1)
