"""RQ-KMeans against faiss: reconstruction error and time on one thread.

    python benchmarks/rq_kmeans.py [--rows 100000 300000] [--dims 128 384] [--out RECORD.json]

Three quantizers of 3 x 256 codewords are fitted on the same synthetic vectors (a mixture of 1,500
clusters of unequal size in 48 of the dimensions, normalised, as text embeddings are) and then
encode them:

- ``chained``: faiss.Kmeans level after level, its default 25 iterations,
- ``residual``: faiss.ResidualQuantizer with a beam of 1, whose codes are greedy as well,
- ``ours``: recbole_choir.semantic.RQKMeans.

Errors are relative: sum of squared distances over sum of squares. Times are processor times of the
one thread, which other load on the machine disturbs less than wall time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from recbole_choir.semantic import RQKMeans

N_LEVELS, N_BITS = 3, 8
Codes = Callable[[np.ndarray], np.ndarray]  # vectors to reconstructions


def synthetic(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit vectors [n, d] of a mixture."""
    rng = np.random.default_rng(seed)
    scale = 0.97 ** np.arange(48)
    centres = rng.standard_normal((1500, 48)) * scale
    share = 1.0 / np.arange(1, 1501) ** 0.8
    picked = centres[rng.choice(1500, n, p=share / share.sum())]
    latent = picked + 0.6 * rng.standard_normal((n, 48)) * scale
    x = latent @ rng.standard_normal((48, d)) / np.sqrt(48) + 0.15 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def chained(x: np.ndarray) -> Codes:
    """Plain faiss.Kmeans on what the level before left."""
    levels, residual = [], x
    for level in range(N_LEVELS):
        kmeans = faiss.Kmeans(x.shape[1], 1 << N_BITS, seed=level)
        kmeans.train(residual)
        residual = residual - kmeans.centroids[kmeans.index.search(residual, 1)[1][:, 0]]
        levels.append(kmeans)

    def reconstruct(y: np.ndarray) -> np.ndarray:
        left = y
        for kmeans in levels:
            left = left - kmeans.centroids[kmeans.index.search(left, 1)[1][:, 0]]
        return y - left

    return reconstruct


def residual(x: np.ndarray) -> Codes:
    """faiss.ResidualQuantizer without a beam."""
    quantizer = faiss.ResidualQuantizer(x.shape[1], N_LEVELS, N_BITS)
    quantizer.max_beam_size = 1
    quantizer.train(x)
    return lambda y: quantizer.decode(quantizer.compute_codes(y))


def ours(x: np.ndarray) -> Codes:
    """RQKMeans with its defaults."""
    quantizer = RQKMeans(N_LEVELS, 1 << N_BITS).fit(x)
    return lambda y: quantizer.reconstruct(quantizer.encode(y))


def measure(fit: Callable[[np.ndarray], Codes], x: np.ndarray) -> dict[str, float]:
    """Seconds to fit and to encode, and the relative error."""
    start = time.process_time()
    reconstruct = fit(x)
    fitted = time.process_time()
    left = x - reconstruct(x)
    encoded = time.process_time()
    error = float((left.astype(np.float64) ** 2).sum() / (x.astype(np.float64) ** 2).sum())
    return {"fit_s": fitted - start, "encode_s": encoded - fitted, "error": error}


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    default = Path(__file__).parent / "records" / "rq_kmeans.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)

    results = []
    head = (
        f"{'rows':>8} {'dims':>5} {'quantizer':<9} {'fit s':>7} {'x chained':>9} {'encode s':>8} "
    )
    print(head + f"{'error':>8}")
    for d in args.dims:
        for n in args.rows:
            x = synthetic(n, d)
            base = 0.0
            for fit in (chained, residual, ours):
                figures = measure(fit, x)
                base = base or figures["fit_s"]
                ratio = figures["fit_s"] / base
                row = {"rows": n, "dims": d, "quantizer": fit.__name__, **figures}
                results.append({**row, "fit_over_chained": ratio})
                print(
                    f"{n:>8} {d:>5} {fit.__name__:<9} {figures['fit_s']:>7.2f} {ratio:>9.2f} "
                    f"{figures['encode_s']:>8.2f} {figures['error']:>8.5f}",
                    flush=True,
                )
    record = {
        "command": "python benchmarks/rq_kmeans.py",
        "what": f"{N_LEVELS} levels of {1 << N_BITS} codewords, one thread, processor seconds",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "faiss": faiss.__version__,
        },
        "machine": platform.machine(),
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
