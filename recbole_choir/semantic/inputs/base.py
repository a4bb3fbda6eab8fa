"""What users are grouped by: the interface of all inputs, and what they share."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir.semantic.frames.frames import USER_ID, Frames


class Vectors(NamedTuple):
    """One vector a user, in the order of ``frames.users``."""

    user_ids: NDArray[np.object_]  # [n]
    x: NDArray[np.float32]  # [n, d], zeros where not valid
    valid: NDArray[np.bool_]  # [n], False: nothing is known to group this user by


class GroupingInput(Protocol):
    """Turns what is known at a moment into one vector a user.

    What depends on the whole population (weights, a centre, factors) is fitted once, on the first
    snapshot, so that vectors of later snapshots and of new users mean the same.
    """

    def fit(self, frames: Frames) -> GroupingInput:
        """Fit on the first snapshot; returns itself."""
        ...

    def transform(self, frames: Frames) -> Vectors:
        """Vectors of ``frames.users`` from the events strictly before ``frames.time``."""
        ...


def user_ids_of(frames: Frames) -> NDArray[np.object_]:
    """Ids of ``frames.users`` [n]."""
    return frames.users[USER_ID].to_numpy(dtype=object)


def count_pairs(rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]) -> csr_matrix:
    """How often each (row, column) occurs: float64 [shape], columns sorted; pairs with -1 left out.

    The result does not depend on the order of the pairs.
    """
    known = (rows >= 0) & (columns >= 0)
    ones = np.ones(int(known.sum()))
    counts = csr_matrix((ones, (rows[known], columns[known])), shape=shape)
    counts.sum_duplicates()
    return counts


def positions(ids: pd.Series, index: pd.Index) -> NDArray[np.intp]:
    """Position in ``index`` of each id, -1 where it is not there."""
    return index.get_indexer(pd.Index(ids.to_numpy(dtype=object)))


def unit_rows(x: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of norm 1; rows of zeros stay."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros(x.shape), where=norm > 0)


def idf(n_users: int, n_users_with: NDArray[Any]) -> NDArray[np.float64]:
    """log((1 + users) / (1 + users who have it)): 0 for what all have, largest for the unseen."""
    return np.log((1.0 + n_users) / (1.0 + np.asarray(n_users_with, dtype=np.float64)))
