"""Users by what they bought: a truncated SVD of the user x item matrix."""

from __future__ import annotations

import logging
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.frames.frames import ITEM_ID, USER_ID, Frames
from recbole_choir.semantic.frames.matrices import (
    centred_svd,
    count_pairs,
    idf,
    positions,
    unit_rows,
)
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of

logger = logging.getLogger(__name__)

# A matrix of at most this many cells is decomposed in full.
_DENSE: Final = 1 << 20


class BehaviourInput:
    """Truncated SVD of purchases, with users folded in.

    ::

        X_ui = log1p(purchases of i by u) * log((1 + users) / (1 + users with i)),  rows of norm 1
        X - mean of rows ~ U S V^T                     fitted once, on the first snapshot
        x_u = (X_u - mean) V, divided by its norm      at every snapshot, for new users too

    Items never bought before the fit have no factor and are left out, and so users who bought
    nothing else are not valid. The result does not depend on the order of users, items or events.

    Args:
        svd_dim: Dimensions; fewer where there are fewer users or items. Default 48.
        seed: Seed of the start vector of the iterative solver.
        popularity: The leading component of a matrix that is not centred holds popularity, and
            users would be grouped by that. ``centre`` (default) subtracts the mean row; ``drop``
            leaves that component out, which loses a taste where tastes share no items; ``keep``
            does nothing about it.
        refit: Fit again at every ``transform``. Vectors of different snapshots then lie in
            different spaces: only for codebooks that are fitted again as well.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        svd_dim: int = 48,
        seed: int = 0,
        *,
        popularity: Literal["centre", "drop", "keep"] = "centre",
        refit: bool = False,
    ) -> None:
        if svd_dim < 1:
            raise ConfigError(f"svd_dim: expected a number >= 1, got {svd_dim}")
        if popularity not in ("centre", "drop", "keep"):
            raise ConfigError(
                f"popularity: expected 'centre', 'drop' or 'keep', got {popularity!r}"
            )
        self.svd_dim = svd_dim
        self.seed = seed
        self.popularity = popularity
        self.refit = refit
        self._items = pd.Index([], dtype=object)
        self._idf: NDArray[np.float64] = np.zeros(0)
        self._mean: NDArray[np.float64] = np.zeros(0)  # [items]
        self._factors: NDArray[np.float64] | None = None  # V [items, d]

    def fit(self, frames: Frames) -> BehaviourInput:
        """Fit idf and item factors on the purchases before ``frames.time``.

        Without any purchase, no user is valid.
        """
        bought = frames.positives
        # sorted ids: rounding and signs do not depend on the order of the frames
        users = pd.Index(np.sort(user_ids_of(frames)))
        bought = bought[bought[USER_ID].isin(users)]
        self._items = pd.Index(np.sort(bought[ITEM_ID].unique().astype(object)))
        counts = self._counts(bought, users)
        counts = counts[np.diff(counts.indptr) > 0]
        self._idf = idf(counts.shape[0], np.bincount(counts.indices, minlength=len(self._items)))
        x = self._weighted(counts)
        if x.nnz == 0:  # nothing was bought, or everything by everyone
            self._mean, self._factors = np.zeros(x.shape[1]), np.zeros((x.shape[1], 1))
            return self
        mean = np.asarray(x.mean(axis=0)).reshape(-1)
        self._mean = mean if self.popularity == "centre" else np.zeros(len(mean))
        self._factors = self._decompose(x)
        return self

    def transform(self, frames: Frames) -> Vectors:
        """Fold the users in by their purchases before ``frames.time``."""
        if self.refit:
            self.fit(frames)
        x, valid = self.coordinates(frames)
        return Vectors(user_ids_of(frames), unit_rows(x).astype(np.float32), valid)

    def coordinates(self, frames: Frames) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """``(X_u - mean) V`` [users, d], not divided by its norm, and who has bought anything.

        Its product with an item's factor is what the decomposition makes of the user's entry.
        """
        if self._factors is None:
            raise DataError("behaviour: expected a fitted input, got none: call fit first")
        counts = self._counts(frames.positives, pd.Index(user_ids_of(frames)))  # [users, items]
        valid = np.diff(counts.indptr) > 0
        x = self._weighted(counts) @ self._factors - self._mean @ self._factors
        return np.where(valid[:, None], x, 0.0), valid

    @property
    def item_factors(self) -> tuple[pd.Index, NDArray[np.float64]]:
        """Items of the fit and V [items, d]."""
        if self._factors is None:
            raise DataError("behaviour: expected a fitted input, got none: call fit first")
        return self._items, self._factors

    def _counts(self, bought: pd.DataFrame, users: pd.Index) -> csr_matrix:
        return count_pairs(
            positions(bought[USER_ID], users),
            positions(bought[ITEM_ID], self._items),
            (len(users), len(self._items)),
        )

    def _weighted(self, counts: csr_matrix) -> csr_matrix:
        """log1p, idf, rows of norm 1."""
        weighted = counts.copy()
        weighted.data = np.log1p(weighted.data) * self._idf[weighted.indices]
        norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).reshape(-1))
        norm[norm == 0] = 1.0
        weighted.data /= np.repeat(norm, np.diff(weighted.indptr))
        return weighted

    def _decompose(self, x: csr_matrix) -> NDArray[np.float64]:
        """Leading right singular vectors [items, d], largest first, signs fixed."""
        skipped = 1 if self.popularity == "drop" else 0
        wanted = self.svd_dim + skipped
        _, right = centred_svd(x, self._mean, wanted, self.seed, _DENSE)
        skipped = min(skipped, max(len(right) - 1, 0))  # where there is one component, it stays
        right = right[skipped : self.svd_dim + skipped]
        if len(right) < self.svd_dim:
            logger.info("behaviour: %d dimensions, %d asked for", len(right), self.svd_dim)
        if len(right) == 0:  # all users bought the same: nothing tells them apart
            return np.zeros((x.shape[1], 1))
        return np.ascontiguousarray(right.T)
