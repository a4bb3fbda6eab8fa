"""Frozen content vectors as a part of item tokens."""

from __future__ import annotations

import torch

from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.model.layers.keyed_part import KeyedPart
from recbole_choir.model.layers.mlp import linear


class ContentProjection(KeyedPart):
    """``Linear(t_i)`` of an item's content vector at a snapshot; no vector gives zero.

    The vectors are buffers and get no gradient. The layer has no bias, so that "no vector" stays
    the zero vector.

    Args:
        items: Content vectors by (snapshot, item).
        size: Width of the projection.

    References:
        docs/baselines.md; AKT-Rec 3.1.1 (the vectors).
    """

    def __init__(self, items: ItemTables, size: int) -> None:
        super().__init__(items.vectors.float(), items.item_vector, size)
        layer = linear(items.vectors.shape[1], size)
        self.weight = layer.weight

    def embed(self, keys: torch.Tensor) -> torch.Tensor:
        """Project vectors ``[u, d]``: ``[u, size]``."""
        return torch.nn.functional.linear(keys, self.weight)
