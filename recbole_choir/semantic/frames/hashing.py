"""Numbers drawn from ids: the same on every machine, next to any other ids and in any order."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pandas.util import hash_array
from scipy.special import ndtri

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64: every bit of the result depends on every bit of ``z``; overflow is meant."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_of(ids: NDArray[np.object_]) -> NDArray[np.uint64]:
    """One number an id, that depends on its text alone."""
    return hash_array(np.asarray(ids, dtype=object), categorize=False)


def normal_of(ids: NDArray[np.object_], dim: int, seed: int) -> NDArray[np.float32]:
    """Standard normal numbers float32 [n, dim] drawn from the ids and a seed."""
    start = mixed(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)
    first = mixed(hash_of(ids) ^ start)  # [n]
    counter = np.arange(1, dim + 1, dtype=np.uint64) * _GOLDEN  # [dim]
    bits = mixed(first[:, None] + counter)  # [n, dim]
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53  # in (0, 1)
    return ndtri(uniform).astype(np.float32)
