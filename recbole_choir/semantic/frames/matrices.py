"""Counts of pairs as sparse matrices, their weights, and truncated SVD without a dense one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, svds


def centred_svd(
    x: csr_matrix, mean: NDArray[np.float64], wanted: int, seed: int, dense_cells: int = 1 << 20
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading singular values and right singular vectors of ``x - mean``.

    Args:
        x: [n, m].
        mean: [m], subtracted from every row.
        wanted: Components; fewer where the rank is smaller.
        seed: Of the iterative solver's start.
        dense_cells: A matrix of at most this many cells is decomposed in full.

    Returns:
        Values [d], falling, and vectors [d, m] whose largest entry is positive.
    """
    if x.shape[0] * x.shape[1] <= dense_cells or wanted >= min(x.shape):
        _, values, right = np.linalg.svd(x.toarray() - mean, full_matrices=False)
    else:
        start = np.random.default_rng(seed).standard_normal(min(x.shape))
        _, values, right = svds(_centred(x, mean), k=wanted, v0=start)
        order = np.argsort(-values, kind="stable")
        values, right = values[order], right[order]
    rank = int((values > 1e-9 * max(values[0], 1e-300)).sum()) if len(values) else 0
    values, right = values[: min(rank, wanted)], right[: min(rank, wanted)]
    largest = np.take_along_axis(right, np.abs(right).argmax(axis=1)[:, None], axis=1)
    return values, np.ascontiguousarray(right * np.sign(largest))


def _centred(x: csr_matrix, mean: NDArray[np.float64]) -> LinearOperator:
    """``x - mean`` as an operator: the dense matrix is never made."""

    def times(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x @ v - mean @ v)

    def transposed_times(u: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(
            x.T @ u - np.multiply.outer(mean, u.sum(axis=0)).reshape(-1, *u.shape[1:])
        )

    return LinearOperator(
        shape=x.shape,
        dtype=x.dtype,
        matvec=times,
        rmatvec=transposed_times,
        matmat=times,
        rmatmat=transposed_times,
    )


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
