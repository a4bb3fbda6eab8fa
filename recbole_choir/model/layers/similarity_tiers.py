"""How similar a candidate is to each item of a history, as a histogram over tiers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data.table.item_tables import ItemTables


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
        SimTier (arXiv 2407.19467); BASELINES 8.
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
