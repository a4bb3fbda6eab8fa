"""Codebooks of several levels: their sizes, how well they fit, and their form in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, TableError

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


def codebook_sizes(n_levels: int, n_clusters: int | Sequence[int]) -> list[int]:
    """Codewords at each level, from one number for all or one per level.

    Raises:
        ConfigError: A number is out of range, or there is not one per level.
    """
    if isinstance(n_clusters, int | np.integer):
        n_clusters = [int(n_clusters)] * n_levels
    sizes = [int(k) for k in n_clusters]
    if n_levels < 1:
        raise ConfigError(f"n_levels: expected a number >= 1, got {n_levels}")
    if len(sizes) != n_levels:
        raise ConfigError(
            f"n_clusters: expected one number or {n_levels}, one per level, got {len(sizes)}"
        )
    if min(sizes) < 1:
        raise ConfigError(f"n_clusters: expected numbers >= 1, got {sizes}")
    return sizes


def mean_squared_distance(x: Float32, y: Float32) -> float:
    """Mean over rows of |x - y|^2; nan without rows."""
    if len(x) == 0:
        return float("nan")
    left = x - y
    return float(np.einsum("nd,nd->", left, left, dtype=np.float64)) / len(left)


def collision_rate(codes: NDArray[Any]) -> float:
    """Share of the rows of codes [n, M] that share all their codes with another row; 0 of none."""
    if len(codes) == 0:
        return 0.0
    _, sharing = np.unique(codes, axis=0, return_counts=True)
    return float(sharing[sharing > 1].sum() / len(codes))


def fit_figures(x: Float32, codes: Int32, reconstructed: Float32) -> dict[str, Any]:
    """How well codes stand for the vectors they were fitted on.

    Args:
        x: Vectors [n, D].
        codes: int [n, M].
        reconstructed: What the codes stand for [n, D].

    Returns:
        ``codewords_used`` per level, ``collision_rate``, ``reconstruction_error`` (mean over rows
        of the squared distance) and ``unexplained``, the same as a share of the variance.
    """
    error = mean_squared_distance(x, reconstructed)
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = mean_squared_distance(x, np.broadcast_to(mean, x.shape))
    return {
        "codewords_used": [len(np.unique(codes[:, m])) for m in range(codes.shape[1])],
        "collision_rate": collision_rate(codes),
        "reconstruction_error": error,
        "unexplained": error / spread if spread > 0 else 0.0,
    }


def codebook_name(level: int) -> str:
    """Name of a level's codebook in a file; levels count from 0 here."""
    return f"codebook_{level + 1}"


def checked_codebooks(
    tensors: Mapping[str, NDArray[Any]], n_clusters: Sequence[int], where: str | Path
) -> list[Float32]:
    """The codebooks among tensors read from a file.

    Raises:
        TableError: One is not finite float32 [1..K, D], with one D for all.
    """
    names = [codebook_name(level) for level in range(len(n_clusters))]
    books = [tensors[name] for name in names]
    d = books[0].shape[-1]
    for name, book, k in zip(names, books, n_clusters, strict=True):
        whole = book.dtype == np.float32 and book.ndim == 2 and np.isfinite(book).all()
        if not whole or not 1 <= len(book) <= k or book.shape[1] != d:
            raise TableError(
                f"{where}: {name}: expected finite float32 [1..{k}, {d}], "
                f"got {book.dtype} {list(book.shape)}"
            )
    return books
