"""Memberships of users in prototypes: soft groups at a cost linear in users."""

from __future__ import annotations

import logging
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax

from recbole_choir.semantic.inputs.base import unit_rows
from recbole_choir.semantic.quantizers.kmeans import safe_threads

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]

#: Memberships below this are left out and the others made larger: what keeps a user's row short.
LEAST: Final = 1e-3


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
    a[a < LEAST] = 0.0
    a /= a.sum(axis=1, keepdims=True)
    at, column = np.nonzero(a)
    return csr_matrix((a[at, column], (asking[at], column)), shape=(len(x), width))
