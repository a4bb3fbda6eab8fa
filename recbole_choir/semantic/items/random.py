"""Items by chance: the control that every gain of content vectors has to beat."""

from __future__ import annotations

from typing import Final

import numpy as np

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.frames.hashing import normal_of
from recbole_choir.semantic.items.base import ItemVectors, item_ids_of

# A user and an item with the same raw id are not to have the same vector.
_ITEMS: Final = 0x6974656D


class RandomItems:
    """Normal vectors drawn from the raw item id and a seed.

    An item's vector is the same at every snapshot, next to any other items and in any order. All
    items are valid.

    Args:
        dim: Dimensions. Default 16: enough for clusters of several levels.
        seed: Another seed, other vectors.
    """

    def __init__(self, dim: int = 16, seed: int = 0) -> None:
        if dim < 1:
            raise ConfigError(f"random: expected dim >= 1, got {dim}")
        self.dim = dim
        self.seed = seed

    def fit(self, frames: Frames) -> RandomItems:
        """Do nothing; returns itself."""
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        """Vectors of ``frames.items``."""
        ids = item_ids_of(frames)
        x = normal_of(ids, self.dim, self.seed ^ _ITEMS)
        return ItemVectors(ids, x, np.ones(len(ids), dtype=bool))
