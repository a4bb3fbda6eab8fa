"""Semantic ids as trained vectors, one table a level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.model.layers.field_embedding import FieldEmbedding
from recbole_choir.model.layers.keyed_part import KeyedPart


class CodeEmbedding(KeyedPart):
    """The level vectors of a semantic id, side by side or added up; unknown codes are zero.

    Args:
        codes: ``[S + 1, n, M]``, 0 for unknown, else the code + 1.
        n_codes: K of each level.
        size: Width of a level's vectors.
        std: Of their normal initial values.
        add: Add the levels up to one vector of ``size`` instead of concatenating them.

    References:
        AKT-Rec 3.1.2 (the ids); docs/baselines.md; docs/gaps.md A1
        (their sum as a cluster's vector).
    """

    def __init__(
        self,
        codes: torch.Tensor,
        n_codes: Sequence[int],
        size: int,
        std: float = 0.05,
        add: bool = False,
    ) -> None:
        flat = codes.long().flatten(0, 1)
        keys, row = torch.unique(flat, dim=0, return_inverse=True)
        super().__init__(keys, row.view(codes.shape[:2]), size if add else size * len(n_codes))
        self.add = add
        self.levels = nn.ModuleList(
            FieldEmbedding(Field(f"level_{i + 1}", "token", k + 1), size, std)
            for i, k in enumerate(n_codes)
        )

    def embed(self, keys: torch.Tensor) -> torch.Tensor:
        """Embed codes ``[u, M]``: ``[u, width]``."""
        levels = [level(keys[:, i]) for i, level in enumerate(self.levels)]
        return torch.stack(levels).sum(0) if self.add else torch.cat(levels, dim=-1)
