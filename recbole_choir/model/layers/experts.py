"""A mixture of experts as ranking network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_choir.model.layers.mlp import MLP, linear


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
