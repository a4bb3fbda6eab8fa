"""Everybody counts, by the cosine itself: soft groups that are the coordinates of a space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


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
