"""Memberships of users in prototypes: soft groups at a cost linear in users."""

from __future__ import annotations

import logging
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax

from recbole_choir.semantic.frames.matrices import unit_rows
from recbole_choir.semantic.quantizers.kmeans import safe_threads

Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]

#: Weights below this are left out.
LEAST_WEIGHT: Final = 1e-6


def nearest_weights(
    x: Float32, asking: Ints, members: Ints, k: int, power: float, n_users: int | None = None
) -> csr_matrix:
    """Weights ``max(cosine, 0) ^ power`` of users over the k members most similar to each.

    A user has no weight on itself. Of members that are equally similar, as many as fit.

    Args:
        x: [n, d] unit rows.
        asking: Rows of ``x`` that get weights.
        members: Rows of ``x`` that may carry them, ascending.
        k: At most so many a user.
        power: Above 1 the nearest count for more.
        n_users: Size of the result; n by default.

    Returns:
        float64 ``[n_users, n_users]``, empty rows for users that do not ask. The search compares
        every asking user with every member, in time and not in memory.
    """
    n = len(x) if n_users is None else n_users
    if not len(asking) or not len(members):
        return csr_matrix((n, n))
    wanted = min(k + 1, len(members))  # one more: the user itself may be among them
    with safe_threads():
        cosine, found = faiss.knn(
            np.ascontiguousarray(x[asking]),
            np.ascontiguousarray(x[members]),
            wanted,
            metric=faiss.METRIC_INNER_PRODUCT,
        )
    neighbour = members[found]  # [asking, wanted]
    weight = np.maximum(cosine.astype(np.float64), 0.0) ** power
    itself = neighbour == asking[:, None]
    # Where the user is not among the k + 1, the last of them is one too many.
    surplus = np.zeros_like(itself)
    if wanted > k:
        surplus[:, k] = ~itself.any(axis=1)
    kept = ~itself & ~surplus & (weight >= LEAST_WEIGHT)
    row = np.broadcast_to(asking[:, None], kept.shape)[kept]
    return csr_matrix((weight[kept], (row, neighbour[kept])), shape=(n, n))


def coordinates(x: NDArray[np.float32], asking: NDArray[np.int64]) -> csr_matrix:
    """Rows of ``x`` as memberships: ``W = X X^T`` is the cosine of any two users.

    Nothing is searched and nothing clustered, so a snapshot costs no more than its space, and sums
    over all users one product with ``X^T`` (:mod:`recbole_choir.data.table.soft_groups`).

    Args:
        x: [n, d] unit rows.
        asking: Rows of ``x`` that have memberships.

    Returns:
        ``[n, d]``, empty rows for the others. Entries may be negative.

    References:
        A linear kernel in place of the k nearest: user-based collaborative filtering over all
        users, as the item-based one is in Sarwar et al. (2001) without its cut.
    """
    kept = np.zeros_like(x)
    kept[asking] = x[asking]
    return csr_matrix(kept)


logger = logging.getLogger(__name__)


#: Memberships below this are left out and the others made larger: what keeps a user's row short.
LEAST_MEMBERSHIP: Final = 1e-3


def prototype_vectors(x: Float32, n_prototypes: int, seed: int) -> Float32:
    """Fit spherical k-means: centroids of norm 1, nearest by cosine.

    Args:
        x: [n, d] unit rows of the active users, n >= 1.
        n_prototypes: K; fewer where there are fewer than two users to each.
        seed: Of the start.

    Returns:
        float32 [K, d].
    """
    k = max(1, min(n_prototypes, len(x) // 2))
    if k < n_prototypes:
        logger.info("soft groups: %d prototypes of %d active users", k, len(x))
    with safe_threads():
        kmeans = faiss.Kmeans(
            x.shape[1], k, niter=25, seed=seed, spherical=True, min_points_per_centroid=1
        )
        kmeans.train(np.ascontiguousarray(x))
    return unit_rows(np.asarray(kmeans.centroids)).astype(np.float32)


def memberships(
    x: Float32, asking: Ints, prototypes: Float32, temperature: float, width: int
) -> csr_matrix:
    """``softmax(cosine / temperature)`` over prototypes, small ones left out, rows of sum 1.

    Args:
        x: [n, d] unit rows.
        asking: Rows of ``x`` that get memberships.
        prototypes: [K, d] of norm 1.
        temperature: Lower: fewer prototypes a user.
        width: Columns of the result, at least K.

    Returns:
        float64 ``[n, width]``, empty rows for the others.
    """
    a = softmax(x[asking].astype(np.float64) @ prototypes.T / temperature, axis=1)
    a[a < LEAST_MEMBERSHIP] = 0.0
    a /= a.sum(axis=1, keepdims=True)
    at, column = np.nonzero(a)
    return csr_matrix((a[at, column], (asking[at], column)), shape=(len(x), width))
