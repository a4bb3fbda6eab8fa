"""SimTier: Base+MM with a histogram of the candidate's similarities to the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from recbole_choir.data import fields
from recbole_choir.data.rows import HIST_END, HIST_START, RowInputs
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.layers.similarity_tiers import SimilarityTiers, uniform_edges
from recbole_choir.model.settings.simtier import SimTierSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_choir.data.schema import ModelInputs

QUANTILE_ROWS = 2000  # training rows that quantile edges are fitted on: up to 100,000 cosines


class SimTier(BaseMM):
    """Base+MM whose tower also sees how many history items are how similar to the candidate.

    ``c_j = cos(t_t, t_j)``; ``h_n`` counts the items of tier n; ``phi = log(1 + h) (.) w`` joins
    the tower's input. Attention over the history stays as it is. The content vectors are those that
    Base+MM has as features, as of the row's snapshot.

    Sourced (arXiv 2407.19467 and the same team's public code of its successor MUSE): cosine, tiers
    of width .1 in 22 slots, the logarithm, one weight a slot drawn from U(0, 1). Reconstruction:
    padding is masked (the public code counts it at cosine 0, an accident that makes a length
    feature), and vectors are centred by their mean over items seen in training, because cosines of
    text vectors crowd together. MAKE, the training of multimodal parameters over several epochs, is
    another method and no part of this; the contrastive training of the vectors is the table's part.

    With ``w = 0`` the model is Base+MM.

    Args:
        config: Settings, see ``properties/model/SimTier.yaml``.
        dataset: Has ``model_inputs`` with ``groups``, ``items`` and ``activity``; for quantile
            edges also ``row_inputs``.

    Raises:
        ConfigError: If a setting is wrong, or the dataset has no item tables.

    References:
        SimTier (Sheng et al., 2024, arXiv 2407.19467); AKT-Rec Table 1; BASELINES 8.
    """

    settings_class: ClassVar[type[SimTierSettings]] = SimTierSettings
    settings: SimTierSettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings
        inputs: ModelInputs = dataset.model_inputs
        if inputs.items is None:  # never: BaseMM has refused it
            raise ConfigError("SimTier: expects a semantic table with items")
        center = None
        if s.simtier_center:
            center = self._mean_vector(inputs.items, self.require_activity(inputs).item_rows > 0)
        edges = uniform_edges(s.simtier_eps)
        self.tiers = SimilarityTiers(inputs.items, edges, center, s.simtier_log)
        if s.simtier_edges == "quantile":
            self._fit_edges(dataset.row_inputs)
        self.further = FurtherInputs(self.tiers.width, self.widths[0], self.h0_width)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """The user groups, the item tables, and which items were seen in training."""
        return frozenset({"groups", "items", "activity"})

    @staticmethod
    def _mean_vector(items: ItemTables, seen: torch.Tensor) -> torch.Tensor:
        """Mean ``[d]`` of the distinct vectors that the items ``seen`` ``[n_items]`` have had."""
        rows = torch.unique(items.item_vector[:, seen]).long()
        rows = rows[rows > 0]
        if not len(rows):
            return torch.zeros_like(items.vectors[0], dtype=torch.float32)
        return items.vectors[rows].double().mean(0).float()

    @torch.no_grad()
    def _fit_edges(self, rows: RowInputs) -> None:
        """Tiers of equal counts over training rows taken at equal steps of time."""
        train = np.sort(rows.parts[0])
        at = train[np.linspace(0, len(train) - 1, min(QUANTILE_ROWS, len(train))).astype(np.int64)]
        device = self.tiers.edges.device
        start, end, snapshot = (
            torch.from_numpy(np.ascontiguousarray(rows.columns[name][at], dtype=np.int64))
            for name in (HIST_START, HIST_END, fields.SNAPSHOT)
        )
        pool = rows.history.items.device
        history = rows.history.gather(start.to(pool), end.to(pool), self.history_length)
        item = torch.from_numpy(rows.events.item[at])
        cosine, valid = self.tiers.similarity(
            snapshot.to(device), item.to(device), history.to(device)
        )
        found = cosine[valid].double()
        if not len(found):
            self.logger.warning(
                "SimTier: no training row has a history with vectors: uniform tiers"
            )
            return
        share = torch.linspace(0, 1, self.tiers.width + 1, dtype=torch.float64, device=device)
        self.tiers.edges.copy_(torch.quantile(found, share[1:-1]))

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        phi = self.tiers(
            self._snapshot(interaction), interaction[self.ITEM_ID], interaction[fields.HIST_ITEMS]
        )
        h0 = self.encode(interaction, self.item_tokens(interaction)).concat()
        return self.individual(h0, self.further(phi))
