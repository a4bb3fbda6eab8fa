"""RQ-KMeans: codes of several levels, each clustering what the level before left (paper 4.2.2)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from recbole_choir.errors import ConfigError, DataError, TableError
from recbole_choir.semantic.kmeans import fit_kmeans, nearest_centroid

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

_FORMAT: Final = "recbole_choir.RQKMeans"
_VERSION: Final = 1
# Below this many point x centroid x dimension products an iteration takes milliseconds, and a
# few starts guard against a poor one.
_SMALL: Final = 1 << 24
_STARTS_IF_SMALL: Final = 4
# Squares of larger numbers overflow float32.
_LARGEST: Final = 1e15


class RQKMeans:
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
        ChoirRec, section 4.2.2 (2), Eq. 2-3; PAPER_GAPS C13 (how K grows with the users), C14
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
        if n_iter < 1 or (n_init is not None and n_init < 1):
            raise ConfigError(f"n_iter, n_init: expected numbers >= 1, got {n_iter}, {n_init}")
        if on_few_points not in ("shrink", "raise"):
            raise ConfigError(f"on_few_points: expected 'shrink' or 'raise', got {on_few_points!r}")
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
        rows = _distinct(_points(x))  # [n, D]
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
        distinct = _first_distinct(residual, k + 1)
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

    def encode(self, x: NDArray[Any]) -> Int32:
        """Codes of points, fitted ones or new.

        Args:
            x: Points [n, D].

        Returns:
            int32 [n, n_levels].

        Raises:
            DataError: Nothing is fitted, ``x`` has another number of columns than the codebooks,
                or it holds nan or inf.
        """
        codebooks = self._fitted()
        residual = _points(x)
        d = codebooks[0].shape[1]
        if residual.shape[1] != d:
            raise DataError(f"x: expected {d} columns as fitted, got {residual.shape[1]}")
        codes = np.empty((len(residual), self.n_levels), dtype=np.int32)
        for level, codebook in enumerate(codebooks):
            codes[:, level] = nearest_centroid(residual, codebook)  # Eq. 2
            residual = residual - codebook[codes[:, level]]  # Eq. 3
        return codes

    def reconstruct(self, codes: NDArray[Any]) -> Float32:
        """Sum of the codewords of each code.

        Args:
            codes: Integers [n, m], m <= n_levels: a prefix gives a coarser reconstruction.

        Returns:
            float32 [n, D].

        Raises:
            DataError: Nothing is fitted, or a code is out of range.
        """
        codebooks = self._fitted()
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] > self.n_levels or codes.dtype.kind not in "iu":
            raise DataError(
                f"codes: expected integers [n, <= {self.n_levels}], got {codes.dtype} {codes.shape}"
            )
        out = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
        for level in range(codes.shape[1]):
            column, k = codes[:, level], len(codebooks[level])
            if len(column) and not (column.min() >= 0 and column.max() < k):
                raise DataError(
                    f"codes of level {level + 1}: expected 0..{k - 1}, "
                    f"got {column.min()}..{column.max()}"
                )
            out += codebooks[level][column]
        return out

    def reconstruction_error(self, x: NDArray[Any]) -> float:
        """Mean squared distance between points and their reconstructions.

        Args:
            x: Points [n, D].

        Returns:
            Mean over rows of |x - reconstruction|^2; nan without rows.
        """
        points = _points(x)
        left = points - self.reconstruct(self.encode(points))
        if len(left) == 0:
            return float("nan")
        return float(np.einsum("nd,nd->", left, left, dtype=np.float64)) / len(left)

    def save(self, path: str | Path) -> None:
        """Write the codebooks as safetensors; the file appears whole or not at all.

        Args:
            path: File to write; its folder is made if need be.

        Raises:
            DataError: Nothing is fitted.
        """
        tensors = {_name(level): book for level, book in enumerate(self._fitted())}
        settings = {
            "n_levels": self.n_levels,
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "n_iter": self.n_iter,
            "n_init": self.n_init,
            "on_few_points": self.on_few_points,
        }
        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "settings": json.dumps(settings, sort_keys=True),
        }
        _write_whole(Path(path), save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> RQKMeans:
        """Read what ``save`` wrote.

        Args:
            path: The file.

        Raises:
            TableError: There is no such file, it is damaged, something else's, or lacks a level.
        """
        where = Path(path)
        try:
            with safe_open(where, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise TableError(f"{where}: the codebooks cannot be read: {error}") from error
        found = (metadata.get("format"), metadata.get("version"))
        if found != (_FORMAT, str(_VERSION)):
            raise TableError(f"{where}: expected {_FORMAT} version {_VERSION}, got {found}")
        try:
            quantizer = cls(**json.loads(metadata["settings"]))
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{where}: the settings cannot be read: {error}") from error
        names = [_name(level) for level in range(quantizer.n_levels)]
        if sorted(tensors) != sorted(names):
            raise TableError(f"{where}: expected {names}, got {sorted(tensors)}: not fully fitted")
        books = [tensors[name] for name in names]
        d = books[0].shape[-1]
        for name, book, k in zip(names, books, quantizer.n_clusters, strict=True):
            whole = book.dtype == np.float32 and book.ndim == 2 and np.isfinite(book).all()
            if not whole or not 1 <= len(book) <= k or book.shape[1] != d:
                raise TableError(
                    f"{where}: {name}: expected finite float32 [1..{k}, {d}], "
                    f"got {book.dtype} {list(book.shape)}"
                )
        quantizer.codebooks = books
        return quantizer

    def _fitted(self) -> list[Float32]:
        if not self.codebooks:
            raise DataError("RQKMeans: expected fitted codebooks, got none: call fit or load first")
        return self.codebooks


def _name(level: int) -> str:
    return f"codebook_{level + 1}"


def _points(x: NDArray[Any]) -> Float32:
    """``x`` as a finite float32 matrix; -0.0 becomes 0.0, so that equal rows have equal bytes."""
    array = np.asarray(x)
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise DataError(f"x: expected real numbers [n, D], got {array.dtype} {array.shape}")
    with np.errstate(over="ignore"):  # what overflows is reported as inf
        points = np.ascontiguousarray(array, dtype=np.float32) + np.float32(0.0)
    n_bad = len(points) - int(np.isfinite(points).all(axis=1).sum())
    if n_bad:
        raise DataError(f"x: expected finite numbers, got nan or inf in {n_bad} of {len(x)} rows")
    if points.size and float(np.abs(points).max()) > _LARGEST:
        raise DataError(f"x: expected numbers up to {_LARGEST:.0e}, got {np.abs(points).max():.0e}")
    return points


def _distinct(x: Float32) -> Float32:
    """Each different row once, in the order of first appearance."""
    if len(x) == 0:
        return x
    # A row is told by 64 bits: a sum of its words, each mixed with its own odd factor. Sorting
    # those is far faster than sorting rows; the comparison below rules a collision out.
    words = x.view(np.uint32)
    factors = np.random.default_rng(0).integers(1 << 63, size=x.shape[1], dtype=np.uint64)
    factors = factors * np.uint64(2) + np.uint64(1)
    digest = np.empty(len(x), dtype=np.uint64)
    for start in range(0, len(x), 8192):
        block = words[start : start + 8192].astype(np.uint64) * factors
        block ^= block >> np.uint64(29)
        digest[start : start + 8192] = block.sum(axis=1, dtype=np.uint64)
    _, first, inverse = np.unique(digest, return_index=True, return_inverse=True)
    if len(first) == len(x):
        return x
    same = first[inverse.reshape(-1)]
    other = np.flatnonzero(same != np.arange(len(x)))
    if not np.array_equal(x[other], x[same[other]]):
        _, first = np.unique(x, axis=0, return_index=True)
    return x[np.sort(first)]


def _first_distinct(x: Float32, n: int) -> Float32:
    """The distinct rows among as few leading rows as hold ``n`` of them, or all distinct rows."""
    size = 2 * n
    while True:
        found = _distinct(x[:size])
        if len(found) >= n or size >= len(x):
            return found
        size *= 8


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
