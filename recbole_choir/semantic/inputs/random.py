"""Users by chance: the control that every gain of groups has to beat."""

from __future__ import annotations

import numpy as np

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.frames.hashing import normal_of
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of


class RandomInput:
    """Normal vectors drawn from the raw user id and a seed.

    A user's vector is the same at every snapshot, next to any other users and in any order. All
    users are valid.

    Args:
        dim: Dimensions. Default 16: enough for groups of several levels.
        seed: Another seed, other vectors.
    """

    def __init__(self, dim: int = 16, seed: int = 0) -> None:
        if dim < 1:
            raise ConfigError(f"random: expected dim >= 1, got {dim}")
        self.dim = dim
        self.seed = seed

    def fit(self, frames: Frames) -> RandomInput:
        """Do nothing; returns itself."""
        return self

    def transform(self, frames: Frames) -> Vectors:
        """Vectors of ``frames.users``."""
        ids = user_ids_of(frames)
        x = normal_of(ids, self.dim, self.seed)
        return Vectors(ids, x, np.ones(len(ids), dtype=bool))
