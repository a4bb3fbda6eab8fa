"""SimTier: Base+MM with a histogram of the candidate's similarities to the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data import fields
from recbole_choir.data.rows import HIST_END, HIST_START, RowInputs
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.settings.simtier import SimTierSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_choir.data.schema import ModelInputs


def uniform_edges(width: float) -> torch.Tensor:
    """Upper edges -1, -1 + width, ..., 1 of all slots but the last.

    With them slot ``ceil(cos / width) + 1 / width`` holds a cosine: the first is exactly -1, and
    the last, above 1, could only hold rounding errors.

    Args:
        width: eps of a tier; 1 / eps is a whole number.
    """
    n = round(1.0 / width)
    return torch.arange(-n, n + 1, dtype=torch.float64).div(n).float()


class SimilarityTiers(nn.Module):
    """``phi = log(1 + h) (.) w``: h counts the history's cosines with the candidate by tier.

    The vectors are frozen and counts have no gradient: w alone is trained. Padding and items
    without a vector are counted nowhere.

    Args:
        items: Content vectors by (snapshot, item).
        edges: Upper edges ``[n_slots - 1]``, ascending; a tier includes its upper edge. Saved with
            the weights, as they may have been fitted.
        center: ``[d]``, subtracted from the vectors before they are normalised: those of text
            models share a large part, and all their cosines would fall into a few tiers.
        log: Take the logarithm of the counts.

    References:
        SimTier (arXiv 2407.19467); docs/baselines.md.
    """

    unit: torch.Tensor
    row: torch.Tensor
    edges: torch.Tensor

    def __init__(
        self,
        items: ItemTables,
        edges: torch.Tensor,
        center: torch.Tensor | None = None,
        log: bool = True,
    ) -> None:
        super().__init__()
        vectors = items.vectors.float()
        if center is not None:
            vectors = vectors - center
        unit = F.normalize(vectors, dim=-1)
        unit[0] = 0.0  # no vector
        self.register_buffer("unit", unit, persistent=False)
        self.register_buffer("row", items.item_vector, persistent=False)
        self.register_buffer("edges", edges.to(unit.device))
        self.width = edges.shape[0] + 1
        self.weight = nn.Parameter(torch.rand(self.width))
        self.log = log

    @torch.no_grad()
    def similarity(
        self, snapshot: torch.Tensor, item: torch.Tensor, history: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines ``[B, L]`` and which of them are of two items with vectors, bool ``[B, L]``.

        Args:
            snapshot, item: ``[B]``.
            history: ``[B, L]``, 0-padded anywhere.
        """
        own = self.row[snapshot, item].long()  # [B]
        others = self.row[snapshot.unsqueeze(1), history].long()  # [B, L]
        with torch.autocast(self.unit.device.type, enabled=False):
            cosine = torch.bmm(self.unit[others], self.unit[own].unsqueeze(2)).squeeze(2)
        # Rounding may step over 1 by itself.
        return cosine.clamp_(-1.0, 1.0), (others > 0) & (own > 0).unsqueeze(1)

    @torch.no_grad()
    def counts(
        self, snapshot: torch.Tensor, item: torch.Tensor, history: torch.Tensor
    ) -> torch.Tensor:
        """``h`` ``[B, n_slots]`` of candidates and histories, see :meth:`similarity`."""
        cosine, valid = self.similarity(snapshot, item, history)
        slot = torch.bucketize(cosine, self.edges)
        empty = torch.zeros(len(item), self.width, device=cosine.device)
        return empty.scatter_add_(1, slot, valid.float())

    def forward(
        self, snapshot: torch.Tensor, item: torch.Tensor, history: torch.Tensor
    ) -> torch.Tensor:
        """``phi`` ``[B, n_slots]`` of candidates and histories, see :meth:`similarity`."""
        counts = self.counts(snapshot, item, history)
        return (torch.log1p(counts) if self.log else counts) * self.weight


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
        SimTier (Sheng et al., 2024, arXiv 2407.19467); AKT-Rec Table 1; docs/baselines.md.
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
