"""Users by chance: the control that every gain of groups has to beat."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pandas.util import hash_array
from scipy.special import ndtri

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames import Frames
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


class RandomInput:
    """Normal vectors drawn from the raw user id and a seed.

    A user's vector is the same at every snapshot, beside any other users and in any order. All
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
        seed = _mix(np.array([self.seed % 2**64], dtype=np.uint64) + _GOLDEN)
        start = _mix(hash_array(ids, categorize=False) ^ seed)  # [n]
        counter = np.arange(1, self.dim + 1, dtype=np.uint64) * _GOLDEN  # [dim]
        bits = _mix(start[:, None] + counter)  # [n, dim]
        uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53  # in (0, 1)
        return Vectors(ids, ndtri(uniform).astype(np.float32), np.ones(len(ids), dtype=bool))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64: every bit of the result depends on every bit of ``z``; overflow is meant."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
