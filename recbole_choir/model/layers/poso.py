"""Personalised gates on the layers of a tower, from a personalisation code alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_choir.model.layers.channel import Channel
from recbole_choir.model.layers.mlp import MLP


class PosoGate(nn.Module):
    """``C g(pc) = C sigmoid(W2 ReLU(W1 pc))``: a factor in (0, C) for each unit of a layer.

    The last layer starts at zero: with C = 2 every factor starts at exactly 1.

    Args:
        n_code: Width of the personalisation code.
        hidden: Hidden width.
        n_out: Units to scale.
        scale: C, which corrects the overall scale: without it activations would be halved.

    References:
        POSO 4.5 (two layers, sigmoid) and Eq. 6 (C).
    """

    def __init__(self, n_code: int, hidden: int, n_out: int, scale: float) -> None:
        super().__init__()
        self.net = MLP(n_code, [hidden], n_out)
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)
        self.scale = scale

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Factors ``[B, n_out]`` of codes ``[B, n_code]``."""
        return self.scale * torch.sigmoid(self.net(code))


class PosoGates(nn.Module):
    """POSO(MLP): every hidden layer of a tower gated by its own network, after its activation.

    ``x <- C g_l(pc) * act(W_l x)``; the logit is not gated.

    Args:
        widths: Hidden widths of the tower.
        n_code, hidden, scale: See :class:`PosoGate`.

    References:
        POSO Eq. 7-11: the mixture of Eq. 6 with one row of each sub-module's matrix in use.
    """

    def __init__(self, widths: Sequence[int], n_code: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.gates = nn.ModuleList(PosoGate(n_code, hidden, width, scale) for width in widths)

    def forward(self, tower: Channel, h0: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Logit ``[B]`` of the tower for inputs ``[B, n_in]`` and codes ``[B, n_code]``."""
        x = h0
        for block, gate in zip(tower.blocks(), self.gates, strict=True):
            x = gate(code) * block(x)
        return tower.head(x).squeeze(-1)


class PosoMixture(nn.Module):
    """The general form ``C sum_i g_i(pc) f_i(x)`` with whole towers as the sub-modules.

    The gates are sigmoids of their own: nothing makes them sum to one.

    Args:
        n_in, widths, dropout: Of every tower, see :class:`Channel`.
        n_towers: N, the given tower included.
        n_code, hidden: See :class:`PosoGate`.
        scale: C; 2 / N starts at the mean of the towers.

    References:
        POSO Eq. 6.
    """

    def __init__(
        self,
        n_in: int,
        widths: Sequence[int],
        dropout: float,
        n_towers: int,
        n_code: int,
        hidden: int,
        scale: float,
    ) -> None:
        super().__init__()
        self.others = nn.ModuleList(Channel(n_in, widths, dropout) for _ in range(n_towers - 1))
        self.gate = PosoGate(n_code, hidden, n_towers, scale)

    def forward(self, tower: Channel, h0: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Logit ``[B]`` for inputs ``[B, n_in]`` and codes ``[B, n_code]``; ``tower`` is f_1."""
        logits = torch.stack([f(h0) for f in (tower, *self.others)], dim=-1)  # [B, N]
        return (self.gate(code) * logits).sum(-1)
