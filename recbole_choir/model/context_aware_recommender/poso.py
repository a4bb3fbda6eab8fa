"""POSO: Base with gates on its tower that see activity alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from recbole_choir.data import fields
from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.layers.poso import PosoGates, PosoMixture
from recbole_choir.model.settings.poso import POSOSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

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
        POSO (Dai et al., 2021, arXiv 2108.04690); ChoirRec and AKT-Rec, Table 1; BASELINES 2.
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
