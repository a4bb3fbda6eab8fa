"""POSO: Base with gates on its tower that see activity alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from recbole_choir.data import fields
from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.layers.channel import Channel
from recbole_choir.model.layers.mlp import MLP
from recbole_choir.model.settings.poso import POSOSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


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


SIDES = {
    "user": (fields.USER_STATS,),
    "item": (fields.ITEM_STATS,),
    "both": (fields.USER_STATS, fields.ITEM_STATS),
}


class POSO(Base):
    """Base, its tower personalised by a code of the user's and the item's activity.

    ``x <- C g_l(pc) * act(W_l x)`` in every hidden layer: inputs as imbalanced as a new user's
    would otherwise be drowned by the others. The gates see the code and nothing else: no id, no
    attribute, no hidden state. The activity also stays in the main input.

    Sourced (POSO 4, Eq. 6-11): the gate, a network of its own for each layer, its two layers and
    sigmoid, its place after the activation, the activity as the code. Reconstruction: which
    statistics make the code, the ungated logit, and gates that start at exactly 1, so that with
    C = 2 the model starts as Base. C = 2 and the hidden width of 32 are those of a third party's
    code. Gates on the attention (POSO(MHA), Eq. 13-14) are not built.

    Args:
        config: Settings, see ``properties/model/POSO.yaml``.
        dataset: Has ``model_inputs``.

    Raises:
        ConfigError: If a setting is wrong, or the dataset has no statistics for the code.

    References:
        POSO (Dai et al., 2021, arXiv 2108.04690); ChoirRec and AKT-Rec, Table 1; docs/baselines.md.
    """

    settings_class: ClassVar[type[POSOSettings]] = POSOSettings
    settings: POSOSettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings
        self.code_fields = SIDES[s.poso_pc]
        schema = self.inputs_schema
        sizes = {
            fields.USER_STATS: len(schema.user_stat_names),
            fields.ITEM_STATS: len(schema.item_stat_names),
        }
        n_code = sum(sizes[name] for name in self.code_fields)
        if n_code == 0:
            raise ConfigError("POSO: expected activity statistics for the code, got none")
        self.gates: PosoGates | PosoMixture
        if s.poso_mode == "layers":
            self.gates = PosoGates(self.widths, n_code, s.poso_hidden, s.scale)
        else:
            self.gates = PosoMixture(
                self.tower_width,
                self.widths,
                self.dropout_prob,
                s.poso_towers,
                n_code,
                s.poso_hidden,
                s.scale,
            )

    def personalization_code(self, interaction: Interaction) -> torch.Tensor:
        """``pc`` ``[B, .]``: the as-of activity of the user, of the item, or of both."""
        return torch.cat([self.statistics(interaction, name) for name in self.code_fields], dim=-1)

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        features = self.encode(interaction, self.item_tokens(interaction))
        h0 = self.h0(interaction, features)
        return self.gates(self.individual, h0, self.personalization_code(interaction))
