"""RQ-KMeans: codes of several levels, each clustering what the level before left (paper 4.2.2)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, DataError, TableError
from recbole_choir.semantic.quantizers.codebooks import (
    check_on_few_points,
    checked_codebooks,
    codebook_name,
    codebook_sizes,
)
from recbole_choir.semantic.quantizers.kmeans import fit_kmeans, nearest_centroid
from recbole_choir.semantic.quantizers.points import (
    as_points,
    distinct_points,
    first_distinct,
    points_of_width,
)
from recbole_choir.semantic.quantizers.quantizer import Quantizer
from recbole_choir.semantic.storage.tensor_file import read_tensors, write_tensors

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

_FORMAT: Final = "recbole_choir.RQKMeans"
_VERSION: Final = 1
# Below this many point x centroid x dimension products an iteration takes milliseconds, and a
# few starts guard against a poor one.
_SMALL: Final = 1 << 24
_STARTS_IF_SMALL: Final = 4


class RQKMeans(Quantizer):
    """Residual quantization by k-means, greedy, one level after the other.

    ::

        r = x
        for each level m:
            c_m  = k-means centroids of the distinct rows of r
            id_m = argmin_k |r - c_m,k|^2                        (Eq. 2)
            r    = r - c_m,id_m                                  (Eq. 3)
        code of x = (id_1, .., id_M)

    Rows that are equal count once in ``fit``: many users share one text, and their weight would
    pull all codewords there. Codes of fitted rows and of new ones come from the same Eq. 2-3, the
    lowest id where two codewords are equally near.

    The same rows in the same order, seed and library versions give the same bits on one kind of
    processor. The number of threads enters no sum; that it changes nothing is tested for 1, 2 and
    4 threads. A row's code depends on no other row of the call.

    Args:
        n_levels: Levels M; the paper uses 3.
        n_clusters: Codewords K at each level: one number for all, or one per level.
        seed: Seed of every random choice.
        n_iter: Work per level, as the number of faiss.Kmeans iterations that cost the same.
            Default 25, that of faiss.
        n_init: Starts per level to choose the best of; None: 4 for small data, where they cost
            milliseconds, else 1.
        on_few_points: What to do where a level has fewer distinct rows than K: ``shrink`` makes
            every distinct row a codeword and logs it, ``raise`` is an error.

    Attributes:
        codebooks: One float32 array [K_l, D] per level; empty before ``fit``. K_l is smaller than
            asked where the level had too few distinct rows.

    Raises:
        ConfigError: A number is out of range, or ``n_clusters`` has not one entry per level.

    References:
        ChoirRec, section 4.2.2 (2), Eq. 2-3; docs/gaps.md C13 (how K grows with the users), C14
        (the model's own codebook embeddings are not started from these).
    """

    def __init__(
        self,
        n_levels: int,
        n_clusters: int | Sequence[int],
        seed: int = 0,
        *,
        n_iter: int = 25,
        n_init: int | None = None,
        on_few_points: Literal["shrink", "raise"] = "shrink",
    ) -> None:
        sizes = codebook_sizes(n_levels, n_clusters)
        if n_iter < 1 or (n_init is not None and n_init < 1):
            raise ConfigError(f"n_iter, n_init: expected numbers >= 1, got {n_iter}, {n_init}")
        check_on_few_points(on_few_points)
        self.n_levels = n_levels
        self.n_clusters = sizes
        self.seed = int(seed)
        self.n_iter = n_iter
        self.n_init = n_init
        self.on_few_points = on_few_points
        self.codebooks: list[Float32] = []

    def fit(self, x: NDArray[Any]) -> RQKMeans:
        """Fit the codebooks.

        Args:
            x: Points [n, D], any real type; computed in float32.

        Returns:
            Itself.

        Raises:
            DataError: ``x`` is not [n, D], holds nan or inf, has no rows, or has fewer distinct
                rows than K with ``on_few_points='raise'``.
        """
        rows = distinct_points(as_points(x))  # [n, D]
        if len(rows) == 0:
            raise DataError(f"need >= {self.n_clusters[0]} points to fit the codebook, got 0")
        rng = np.random.default_rng(self.seed)
        residual = rows[rng.permutation(len(rows))]  # k-means reads slices of random rows
        codebooks = []
        for level, k in enumerate(self.n_clusters):
            codebook, codes = self._fit_level(residual, level, k, rng)
            residual -= codebook[codes]  # Eq. 3
            codebooks.append(codebook)
        self.codebooks = codebooks  # only now: a failed fit leaves no half of it
        return self

    def _fit_level(
        self, residual: Float32, level: int, k: int, rng: np.random.Generator
    ) -> tuple[Float32, NDArray[np.int64]]:
        distinct = first_distinct(residual, k + 1)
        if len(distinct) <= k:  # every row is a codeword, and nothing is left of it
            if len(distinct) < k:
                message = f"need >= {k} points to fit the codebook, got {len(distinct)}"
                if self.on_few_points == "raise":
                    raise DataError(f"level {level + 1}: {message} distinct ones")
                logger.info("level %d: %s distinct ones: K lowered to that", level + 1, message)
            return distinct.copy(), nearest_centroid(residual, distinct)
        small = residual.size * k <= _SMALL
        n_init = self.n_init or (_STARTS_IF_SMALL if small else 1)
        centroids, codes, _ = fit_kmeans(residual, k, rng, n_iter=self.n_iter, n_init=n_init)
        return centroids, codes

    def _into(self, x: NDArray[Any]) -> Float32:
        return points_of_width(x, self.codebooks[0].shape[1])

    def save(self, path: str | Path) -> None:
        """Write the codebooks as safetensors; the file appears whole or not at all.

        Args:
            path: File to write; its folder is made if need be.

        Raises:
            DataError: Nothing is fitted.
        """
        tensors = {codebook_name(level): book for level, book in enumerate(self._fitted())}
        settings = {
            "n_levels": self.n_levels,
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "n_iter": self.n_iter,
            "n_init": self.n_init,
            "on_few_points": self.on_few_points,
        }
        values = {"settings": json.dumps(settings, sort_keys=True)}
        write_tensors(path, _FORMAT, _VERSION, tensors, values)

    @classmethod
    def load(cls, path: str | Path) -> RQKMeans:
        """Read what ``save`` wrote.

        Args:
            path: The file.

        Raises:
            TableError: There is no such file, it is damaged, something else's, or lacks a level.
        """
        tensors, header = read_tensors(path, _FORMAT, _VERSION, "the codebooks")
        try:
            quantizer = cls(**json.loads(header["settings"]))
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{path}: the settings cannot be read: {error}") from error
        names = [codebook_name(level) for level in range(quantizer.n_levels)]
        if sorted(tensors) != sorted(names):
            raise TableError(f"{path}: expected {names}, got {sorted(tensors)}: not fully fitted")
        quantizer.codebooks = checked_codebooks(tensors, quantizer.n_clusters, path)
        return quantizer
