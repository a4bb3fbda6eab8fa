"""The most similar users, with weights."""

from __future__ import annotations

from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir.semantic.quantizers.kmeans import safe_threads

Float32 = NDArray[np.float32]
Ints = NDArray[np.int64]

#: Weights below this are left out.
LEAST: Final = 1e-6


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
    kept = ~itself & ~surplus & (weight >= LEAST)
    row = np.broadcast_to(asking[:, None], kept.shape)[kept]
    return csr_matrix((weight[kept], (row, neighbour[kept])), shape=(n, n))
