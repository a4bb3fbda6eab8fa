"""What both quantisers share: the walk from residual to residual, in a space of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from recbole_choir.errors import DataError
from recbole_choir.semantic.quantizers.codebooks import (
    greedy_codes,
    mean_squared_distance,
    sum_of_codewords,
)
from recbole_choir.semantic.quantizers.points import as_points

Float32 = NDArray[np.float32]


class Quantizer(ABC):
    """Codes of several levels: :class:`~.rqkmeans.RQKMeans` and :class:`~.rqvae.RQVAE`.

    At each level the code is the nearest codeword of what the levels before have left over
    (ChoirRec Eq. 2-3, AKT-Rec Eq. 3), and a vector is the sum of its codewords. A subclass says
    how vectors come into the space that is quantised, and back.

    Attributes:
        n_levels: Levels M.
        n_clusters: Codewords asked for at each level.
        codebooks: One float32 array [K_m, d] per level, in the space that is quantised: that of
            the vectors (RQ-KMeans) or of the latents (RQ-VAE). Empty before ``fit``.
    """

    n_levels: int
    n_clusters: list[int]
    codebooks: list[Float32]

    @abstractmethod
    def fit(self, x: NDArray[Any]) -> Self:
        """Fit on vectors [n, D]; returns itself."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write it as one file, whole or not at all."""

    @abstractmethod
    def _into(self, x: NDArray[Any]) -> Float32:
        """Vectors [n, D] in the space that is quantised, [n, d]."""

    def _out_of(self, x: Float32) -> Float32:
        """Points [n, d] of that space as vectors [n, D]."""
        return x

    def encode(self, x: NDArray[Any]) -> NDArray[np.int32]:
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
        return greedy_codes(self._into(x), codebooks)

    def reconstruct(self, codes: NDArray[Any]) -> Float32:
        """Vectors that codes stand for.

        Args:
            codes: Integers [n, m], m <= n_levels: a prefix gives a coarser reconstruction.

        Returns:
            float32 [n, D].

        Raises:
            DataError: Nothing is fitted, or a code is out of range.
        """
        return self._out_of(sum_of_codewords(codes, self._fitted()))

    def reconstruction_error(self, x: NDArray[Any]) -> float:
        """Mean squared distance between vectors and their reconstructions.

        Args:
            x: Vectors [n, D].

        Returns:
            Mean over rows of |x - reconstruction|^2; nan without rows.
        """
        points = as_points(x)
        return mean_squared_distance(points, self.reconstruct(self.encode(points)))

    def _fitted(self) -> list[Float32]:
        if not self.codebooks:
            name = type(self).__name__
            raise DataError(
                f"{name}: expected a fitted quantiser, got none: call fit or load first"
            )
        return self.codebooks
