"""Items by who chose them: a truncated SVD of item x user."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.frames.frames import ITEM_ID, USER_ID, Frames
from recbole_choir.semantic.frames.matrices import centred_svd, count_pairs, positions, unit_rows
from recbole_choir.semantic.items.base import ItemVectors, item_ids_of

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]


class BehaviourItems:
    """Truncated SVD of co-occurrence, with new events, items and users folded in.

    ::

        w_iu = log1p(positives of u with i) / norm of u's column,   X = rows of w divided by norm
        X - mean of rows ~ U S V^T                          fitted once, on the first snapshot
        V_t  = X_t^T (U S) S^-2                             users by the items of the fit they chose
        x_i  = row i of X_t V_t - mean of rows, divided by its norm            at every snapshot

    ``X X^T`` is the cosine of items over users: how often they are chosen by the same users, for
    their popularity. At the snapshot of the fit ``V_t = V``; later ones read more events in the
    same space. Subtracting the mean takes out popularity, which would otherwise be the leading
    component. An item without a positive, or chosen only by users of nothing else, is not valid.
    The result does not depend on the order of items, users or events.

    Args:
        dim: Dimensions; fewer where there are fewer items or users. Default 48.
        seed: Seed of the start vector of the iterative solver.

    Raises:
        ConfigError: ``dim`` is out of range.
    """

    def __init__(self, dim: int = 48, seed: int = 0) -> None:
        if dim < 1:
            raise ConfigError(f"svd_dim: expected a number >= 1, got {dim}")
        self.dim = dim
        self.seed = seed
        self._items = pd.Index([], dtype=object)
        self._basis: Floats | None = None  # U S^-1 [items of the fit, d]

    def fit(self, frames: Frames) -> BehaviourItems:
        """Fit on the positives before ``frames.time``; without any, no item is ever valid."""
        known = frames.positives[ITEM_ID].isin(frames.items[ITEM_ID])
        chosen = np.sort(frames.positives[ITEM_ID][known].unique().astype(object))
        x = _weighted(frames, pd.Index(chosen))
        kept = np.diff(x.indptr) > 0
        self._items, x = pd.Index(chosen[kept]), x[kept]
        if x.nnz == 0:
            logger.warning("behaviour: no user chose two items, no item has a vector")
            self._basis = np.zeros((0, 1))
            return self
        mean = np.asarray(x.mean(axis=0)).reshape(-1)
        values, right = centred_svd(x, mean, self.dim, self.seed)
        if len(values) < self.dim:
            logger.info("behaviour: %d dimensions, %d asked for", len(values), self.dim)
        if len(values) == 0:  # all items were chosen by the same users
            self._basis = np.zeros((len(self._items), 1))
            return self
        self._basis = (x @ right.T - mean @ right.T) / values**2
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        """Vectors of ``frames.items`` by the positives before ``frames.time``."""
        if self._basis is None:
            raise DataError("behaviour: expected a fitted input, got none: call fit first")
        ids = item_ids_of(frames)
        x = _weighted(frames, pd.Index(ids))  # [n, users]
        row = pd.Index(ids).get_indexer(self._items)
        there = row >= 0
        users = x[row[there]].T @ self._basis[there]  # V_t [users, d]
        y = np.asarray(x @ users)
        fitted = row[there][np.diff(x.indptr)[row[there]] > 0]
        if len(fitted):
            y = y - y[fitted].mean(axis=0)
        y = unit_rows(np.where((np.diff(x.indptr) > 0)[:, None], y, 0.0))
        return ItemVectors(ids, y.astype(np.float32), (y != 0).any(axis=1))


def _weighted(frames: Frames, items: pd.Index) -> csr_matrix:
    """X [items, users] of users who chose two or more of the items; columns sorted by user id."""
    bought = frames.positives
    users = pd.Index(np.sort(bought[USER_ID].unique().astype(object)))
    counts = count_pairs(
        positions(bought[ITEM_ID], items),
        positions(bought[USER_ID], users),
        (len(items), len(users)),
    )
    counts = counts[:, np.bincount(counts.indices, minlength=len(users)) > 1]
    counts.data = np.log1p(counts.data)
    by_user = np.sqrt(np.bincount(counts.indices, counts.data**2, minlength=counts.shape[1]))
    counts.data /= by_user[counts.indices]
    norm = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).reshape(-1))
    return csr_matrix(diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)) @ counts)
