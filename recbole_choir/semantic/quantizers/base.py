"""What both quantisers share: the walk from residual to residual, in a space of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.quantizers.codebooks import (
    Float32,
    Int32,
    codebook_sizes,
    mean_squared_distance,
)
from recbole_choir.semantic.quantizers.kmeans import nearest_centroid
from recbole_choir.semantic.quantizers.points import as_points

#: One level, from 0, and what is left of each point [n, d]: its codebook [K, d], its codes [n].
Step = Callable[[int, Float32], tuple[Float32, NDArray[np.int64]]]


class Quantizer(ABC):
    """Codes of several levels: :class:`~.rqkmeans.RQKMeans` and :class:`~.rqvae.RQVAE`.

    ::

        r = the vector, in the space that is quantised
        for each level m:
            id_m = argmin_k |r - c_m,k|^2               (ChoirRec Eq. 2, AKT-Rec Eq. 3)
            r    = r - c_m,id_m                         (ChoirRec Eq. 3, AKT-Rec Eq. 3)

    A vector stands for the sum of its codewords. A subclass says how vectors come into the space
    that is quantised, and back.

    Args:
        n_levels: Levels M.
        n_clusters: Codewords K at each level: one number for all, or one per level.
        seed: Seed of every random choice.
        on_few_points: What to do where there are fewer distinct rows than K: ``shrink`` lowers K
            and logs it, ``raise`` is an error.

    Attributes:
        codebooks: One float32 array [K_m, d] per level, in the space that is quantised: that of
            the vectors (RQ-KMeans) or of the latents (RQ-VAE). Empty before ``fit``. K_m is
            smaller than asked where the level had too few distinct rows.

    Raises:
        ConfigError: A number is out of range, or ``n_clusters`` has not one entry per level.
    """

    def __init__(
        self,
        n_levels: int,
        n_clusters: int | Sequence[int],
        seed: int = 0,
        on_few_points: Literal["shrink", "raise"] = "shrink",
    ) -> None:
        self.n_levels = n_levels
        self.n_clusters = codebook_sizes(n_levels, n_clusters)
        self.seed = int(seed)
        if on_few_points not in ("shrink", "raise"):
            raise ConfigError(f"on_few_points: expected 'shrink' or 'raise', got {on_few_points!r}")
        self.on_few_points = on_few_points
        self.codebooks: list[Float32] = []

    @abstractmethod
    def fit(self, x: NDArray[Any]) -> Self:
        """Fit on vectors [n, D]; returns itself."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write it as one file, whole or not at all."""

    @abstractmethod
    def _into(self, x: NDArray[Any]) -> Float32:
        """Vectors [n, D] in the space that is quantised: a new array [n, d]."""

    def _out_of(self, x: Float32) -> Float32:
        """Points [n, d] of that space as vectors [n, D]."""
        return x

    def encode(self, x: NDArray[Any]) -> Int32:
        """Codes of vectors, fitted ones or new (ChoirRec Eq. 2-3, AKT-Rec Eq. 3).

        Args:
            x: Vectors [n, D].

        Returns:
            int32 [n, n_levels].

        Raises:
            DataError: Nothing is fitted, ``x`` has another number of columns than fitted, or it
                holds nan or inf.
        """
        codebooks = self._fitted()

        def nearest(level: int, residual: Float32) -> tuple[Float32, NDArray[np.int64]]:
            return codebooks[level], nearest_centroid(residual, codebooks[level])

        return self._walk(self._into(x), nearest)[1]

    def reconstruct(self, codes: NDArray[Any]) -> Float32:
        """Vectors that codes stand for.

        Args:
            codes: Integers [n, m], m <= n_levels: a prefix gives a coarser reconstruction.

        Returns:
            float32 [n, D].

        Raises:
            DataError: Nothing is fitted, or a code is out of range.
        """
        codebooks = self._fitted()
        codes = np.asarray(codes)
        n_levels = len(codebooks)
        if codes.ndim != 2 or codes.shape[1] > n_levels or codes.dtype.kind not in "iu":
            raise DataError(
                f"codes: expected integers [n, <= {n_levels}], got {codes.dtype} {codes.shape}"
            )
        total = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
        for level in range(codes.shape[1]):
            column, k = codes[:, level], len(codebooks[level])
            if len(column) and not (column.min() >= 0 and column.max() < k):
                raise DataError(
                    f"codes of level {level + 1}: expected 0..{k - 1}, "
                    f"got {column.min()}..{column.max()}"
                )
            total += codebooks[level][column]
        return self._out_of(total)

    def reconstruction_error(self, x: NDArray[Any]) -> float:
        """Mean squared distance between vectors and their reconstructions.

        Args:
            x: Vectors [n, D].

        Returns:
            Mean over rows of |x - reconstruction|^2; nan without rows.
        """
        points = as_points(x)
        return mean_squared_distance(points, self.reconstruct(self.encode(points)))

    def _walk(self, residual: Float32, step: Step) -> tuple[list[Float32], Int32]:
        """Go through the levels, each with what the one before leaves.

        Args:
            residual: Points [n, d] of the space that is quantised; overwritten.
            step: What a level does.

        Returns:
            The codebook of each level, and codes [n, n_levels].
        """
        codebooks = []
        codes = np.empty((len(residual), self.n_levels), dtype=np.int32)
        for level in range(self.n_levels):
            codebook, found = step(level, residual)
            codebooks.append(codebook)
            codes[:, level] = found
            residual -= codebook[found]
        return codebooks, codes

    def _fitted(self) -> list[Float32]:
        if not self.codebooks:
            name = type(self).__name__
            raise DataError(
                f"{name}: expected a fitted quantiser, got none: call fit or load first"
            )
        return self.codebooks
