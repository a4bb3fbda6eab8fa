"""One k-means fit and one nearest-centroid search: the two steps that RQ-KMeans repeats."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# faiss.Kmeans looks at no more than this many points a centroid in an iteration; here it is the
# unit of work, so that n_iter iterations cost what n_iter iterations of faiss.Kmeans cost.
POINTS_PER_CENTROID: Final = 256
# An early iteration sees a fresh slice of this many points a centroid.
_SLICE_PER_CENTROID: Final = 192
# More rows than this many a centroid move no centroid noticeably; bounds the last iterations.
_MAX_PER_CENTROID: Final = 4096
# Shares of the budget: (part of the dimensions, iterations) on slices, then all dimensions on
# slices, then all dimensions on all rows.
_STAGES: Final = ((8, 0.4), (4, 0.4), (2, 0.24))
_SLICES: Final = 0.2
_ALL: Final = 0.36
# Two float32 distances closer than this share of |x|^2 + |c|^2 are compared again in float64.
_TIE: Final = 1e-5
_BLOCK: Final = 65_536


class Clustering(NamedTuple):
    """Result of one fit."""

    centroids: Float32  # [k, d]
    codes: Int64  # [n], the nearest centroid of every row up to float32 rounding
    error: float  # sum of squared distances


def nearest_centroid(x: Float32, centroids: Float32) -> Int64:
    """Index of the nearest centroid of every row, the lowest index where several are equally near.

    faiss finds the candidates in float32; a row whose best two are nearer than rounding can tell
    apart is decided by float64 differences. So a row's code depends neither on the rows it came
    with nor on the number of threads.

    Args:
        x: Points [n, d].
        centroids: [k, d].

    Returns:
        int64 [n].
    """
    codes = np.zeros(len(x), dtype=np.int64)  # [n]
    if len(centroids) == 1 or len(x) == 0:
        return codes
    centroid_norm = float(np.einsum("kd,kd->k", centroids, centroids).max())
    with safe_threads():
        index = _index(centroids)
        for start in range(0, len(x), _BLOCK):
            block = np.ascontiguousarray(x[start : start + _BLOCK])
            distance, nearest = index.search(block, 2)  # [b, 2]
            found = nearest[:, 0]
            scale = np.einsum("bd,bd->b", block, block) + centroid_norm
            tied = np.flatnonzero(distance[:, 1] - distance[:, 0] <= _TIE * scale)
            found[tied] = _nearest_exact(block[tied], centroids)
            codes[start : start + _BLOCK] = found
    return codes


def fit_kmeans(
    x: Float32, k: int, rng: np.random.Generator, *, n_iter: int = 25, n_init: int = 1
) -> Clustering:
    """Fit ``k`` centroids to rows that hold at least ``k`` distinct points.

    ::

        start from k-means++ seeds of a sample, in the leading d/8 principal directions
        10 iterations there, 10 in d/4, 6 in d/2, 5 in all d: each on the next slice of the rows
        then iterations on all rows, at least one, until nothing moves or the budget is spent
        an empty cluster takes half of the cluster with the largest error

    Fresh slices and few dimensions make the early iterations cheap, and the last ones see every
    row: a lower error than ``faiss.Kmeans``, which keeps to one sample, for about the same work.

    Args:
        x: Points [n, d], rows in random order, n >= k.
        k: Number of centroids.
        rng: Source of every random choice.
        n_iter: Work, as the number of faiss.Kmeans iterations that cost the same. Default 25, that
            of faiss.
        n_init: Starts to choose the best of.

    Returns:
        Centroids, of which every one is the nearest of at least one row, and the rows' codes.
    """
    best = _fit_once(x, k, rng, n_iter)
    for _ in range(n_init - 1):
        other = _fit_once(x, k, rng, n_iter)
        if other.error < best.error:
            best = other
    return best


def _fit_once(x: Float32, k: int, rng: np.random.Generator, n_iter: int) -> Clustering:
    n, d = x.shape
    n_slice = min(n, _SLICE_PER_CENTROID * k)
    n_sample = min(n, 2 * n_slice)
    n_directions = max(1, d // _STAGES[-1][0])
    rotated = x[:n_sample] @ _leading_directions(x[:n_slice], n_directions)  # [n_sample, d/2]

    codes: Int64 | None = None  # of the rows of the newest slice
    rows = slice(0, n_slice)
    for n_dims, n_steps in [(d // f, round(s * n_iter)) for f, s in _STAGES]:
        if n_dims < 2 or n_steps < 1:
            continue
        view = np.ascontiguousarray(rotated[:, :n_dims])
        if codes is None:
            centroids = _plus_plus(view[:n_slice], k, rng)
        else:
            centroids, _ = _means(view[rows], codes, k)
        for step in range(n_steps):
            rows = _next_slice(step, n_slice, n_sample)
            centroids, codes = _step(view[rows], centroids)
    if codes is None:
        centroids = _plus_plus(x[:n_slice], k, rng)
    else:
        centroids, _ = _means(x[rows], codes, k)

    for step in range(round(_SLICES * n_iter)):
        centroids, _ = _step(x[_next_slice(step, n_slice, n)], centroids)

    everything = x[: _MAX_PER_CENTROID * k]
    budget = round(_ALL * n_iter * min(n, POINTS_PER_CENTROID * k) / len(everything))
    before: Int64 | None = None
    for _ in range(max(1, budget)):
        centroids, codes = _step(everything, centroids)
        if before is not None and np.array_equal(before, codes):
            break
        before = codes
    return _fill_empty(x, centroids)


def _next_slice(step: int, size: int, n: int) -> slice:
    """The ``step``-th slice of ``size`` rows out of ``n``, round and round."""
    start = (step % (n // size)) * size
    return slice(start, start + size)


def _leading_directions(x: Float32, n_directions: int) -> Float32:
    """The ``n_directions`` directions [d, m] in which the points vary most, the strongest first."""
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # ascending
    return np.ascontiguousarray(vectors[:, ::-1][:, :n_directions], dtype=np.float32)


def _plus_plus(x: Float32, k: int, rng: np.random.Generator) -> Float32:
    """k-means++ seeds from a sample: each with probability in proportion to its squared distance.

    Where the sample has fewer than ``k`` distinct points, the rest are repeats; empty clusters are
    split later.
    """
    sample = x[: max(32 * k, 1024)].astype(np.float64)
    seeds = np.empty(k, dtype=np.int64)
    norm = np.einsum("nd,nd->n", sample, sample)
    distance = np.full(len(sample), np.inf)
    seeds[0] = rng.integers(len(sample))
    for i in range(1, k):
        last = sample[seeds[i - 1]]
        np.minimum(distance, norm - 2.0 * (sample @ last) + last @ last, out=distance)
        mass = np.cumsum(np.maximum(distance, 0.0))
        drawn = np.searchsorted(mass, rng.random() * mass[-1], side="right")
        seeds[i] = min(int(drawn), len(sample) - 1)
    return np.ascontiguousarray(x[seeds])


def _step(x: Float32, centroids: Float32) -> tuple[Float32, Int64]:
    """One Lloyd iteration: new centroids [k, d] and the codes [n] they are the means of."""
    distance, codes = _search(x, centroids)
    means, size = _means(x, codes, len(centroids))
    empty = np.flatnonzero(size == 0)
    if len(empty):
        means[empty] = centroids[empty]
        _split(x, codes, distance, means, empty)
    return means, codes


def _means(x: Float32, codes: Int64, k: int) -> tuple[Float32, Int64]:
    """Mean [k, d] and size [k] of every cluster; the mean of an empty one is 0."""
    size = np.bincount(codes, minlength=k)  # [k]
    # row j of this 0/1 matrix [k, n] selects the members of cluster j: one product sums them all
    ones = np.ones(len(x), dtype=np.float32)
    members = csc_matrix((ones, codes, np.arange(len(x) + 1)), shape=(k, len(x)))
    means = (members @ x) / np.maximum(size, 1)[:, None].astype(np.float32)
    return np.ascontiguousarray(means, dtype=np.float32), size


def _split(x: Float32, codes: Int64, distance: Float32, means: Float32, empty: Int64) -> None:
    """Give every empty cluster half of one of the clusters with the largest error, in place.

    The two halves lie on either side of the old mean, a little towards and away from its farthest
    member. A mean has members on both sides of it, so neither half is empty. A lone outlier as the
    new centroid, the usual remedy, would attract only itself in many dimensions.
    """
    error = np.bincount(codes, weights=distance, minlength=len(means))  # [k]
    donors = np.argsort(-error, kind="stable")[: len(empty)]
    donors = donors[error[donors] > 0]
    by_distance = np.argsort(distance, kind="stable")
    farthest = np.zeros(len(means), dtype=np.int64)
    farthest[codes[by_distance]] = by_distance  # the last write of a cluster is its farthest row
    towards = 0.1 * (x[farthest[donors]] - means[donors])
    means[empty[: len(donors)]] = means[donors] + towards
    means[donors] -= towards


def _fill_empty(x: Float32, centroids: Float32) -> Clustering:
    """Move unused centroids to the rows farthest from theirs, until every one is used.

    A row that is a centroid has distance 0 and attracts itself, so at most k rounds are needed
    where there are k distinct rows.
    """
    distance, codes = _search(x, centroids)
    for _ in range(len(centroids)):
        empty = np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)
        if len(empty) == 0 or not distance.max() > 0:
            break
        far = np.argsort(-distance, kind="stable")[: len(empty)]
        # two copies of one row would leave one of them unused: the next round finds another
        _, first = np.unique(x[far], axis=0, return_index=True)
        far = far[np.sort(first)]
        centroids[empty[: len(far)]] = x[far]
        distance, codes = _search(x, centroids)
    return Clustering(centroids, codes, float(distance.sum(dtype=np.float64)))


def _search(x: Float32, centroids: Float32) -> tuple[Float32, Int64]:
    """Squared distance [n], never negative, and index [n] of the nearest centroid, in float32."""
    with safe_threads():
        distance, codes = _index(centroids).search(np.ascontiguousarray(x), 1)
    return np.maximum(distance[:, 0], 0.0), codes[:, 0]


def _index(centroids: Float32) -> faiss.IndexFlatL2:
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    return index


def _nearest_exact(x: Float32, centroids: Float32) -> Int64:
    """As ``nearest_centroid`` by float64 differences, in blocks of bounded size."""
    codes = np.empty(len(x), dtype=np.int64)
    wide = centroids.astype(np.float64)
    block = max(1, 4_000_000 // wide.size)
    for start in range(0, len(x), block):
        part = x[start : start + block, None, :].astype(np.float64)  # [b, 1, d]
        codes[start : start + block] = ((part - wide) ** 2).sum(axis=2).argmin(axis=1)
    return codes


@contextmanager
def safe_threads() -> Iterator[None]:
    """One faiss thread on macOS while torch is loaded.

    There the two bring an OpenMP runtime each, and running both in parallel crashes (faiss issue
    3401). The number of threads is put back afterwards.
    """
    if sys.platform != "darwin" or "torch" not in sys.modules:
        yield
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
