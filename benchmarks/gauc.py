"""GAUC of a million rows, one thread, one run: ours next to the loops and frames of others.

    python benchmarks/gauc.py [--rows 1000000] [--users 50000] [--record FILE]

One thread for everybody. Every user is given both classes, so that all contenders accept the rows
and agree on the value. Contenders that take minutes (a Python loop over users) run once, the others
five times; the best time counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from recbole_choir.evaluator import gauc

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def make_rows(n_rows: int, n_users: int, seed: int = 0) -> Rows:
    """Labels (10 % positive), float32 scores with a little signal, and int64 users."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, n_users, n_rows)
    labels = (rng.random(n_rows) < 0.1).astype(np.float32)
    order = np.argsort(users, kind="stable")
    first = np.flatnonzero(np.diff(users[order], prepend=-1))
    last = np.append(first[1:], n_rows) - 1
    labels[order[first]] = 1.0
    labels[order[last]] = 0.0  # a user with one row keeps one class and is dropped below
    scores = (rng.normal(size=n_rows) + 0.5 * labels).astype(np.float32)
    keep = np.isin(users, users[order[first[first != last]]])
    return labels[keep], scores[keep], users[keep]


def sklearn_loop(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """roc_auc_score once a user, on rows sorted by user."""
    order = np.argsort(users, kind="stable")
    cuts = np.flatnonzero(np.diff(users[order])) + 1
    total = 0.0
    for y, s in zip(np.split(labels[order], cuts), np.split(scores[order], cuts)):
        total += roc_auc_score(y, s) * len(y)
    return total / len(labels)


def pandas_rank(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """Average ranks by groupby.rank."""
    frame = pd.DataFrame({"u": users, "y": labels.astype(np.float64), "s": scores})
    frame["r"] = frame.groupby("u")["s"].rank() * frame["y"]
    by_user = frame.groupby("u").agg(n=("y", "size"), p=("y", "sum"), r=("r", "sum"))
    auc = (by_user.r - by_user.p * (by_user.p + 1) / 2) / (by_user.p * (by_user.n - by_user.p))
    return float((auc * by_user.n).sum() / by_user.n.sum())


def numpy_lexsort(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """The textbook way: one lexsort and average ranks."""
    order = np.lexsort((scores, users))
    y, s, u = labels[order].astype(np.float64), scores[order], users[order]
    run = np.flatnonzero(np.append(True, (s[1:] != s[:-1]) | (u[1:] != u[:-1])))
    size = np.diff(run, append=len(u))
    rank = np.repeat(run + (size + 1) / 2, size)
    start = np.flatnonzero(np.append(True, u[1:] != u[:-1]))
    n = np.diff(start, append=len(u))
    p = np.add.reduceat(y, start)
    r = np.add.reduceat(rank * y, start) - start * p
    return float((((r - p * (p + 1) / 2) / (p * (n - p))) * n).sum() / n.sum())


def contenders() -> dict[str, tuple[Callable[..., float], int]]:
    """Name -> (function of labels, scores, users; repetitions)."""
    known: dict[str, tuple[Callable[..., float], int]] = {
        "recbole-choir gauc (float32 scores)": (gauc, 5),
        "recbole-choir gauc (float64 scores)": (
            lambda y, s, u: gauc(y, s.astype(np.float64) + 1e-12 * np.arange(len(s)), u),
            5,
        ),
        "numpy lexsort": (numpy_lexsort, 5),
        "pandas rank": (pandas_rank, 5),
        "sklearn loop over users": (sklearn_loop, 1),
    }
    try:
        from torch_rechub.basic.metric import gauc_score
    except ImportError:
        print("torch-rechub is not installed: left out")
    else:
        known["torch-rechub gauc_score"] = (gauc_score, 1)
    return known


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records/gauc.json")
    args = parser.parse_args()

    labels, scores, users = make_rows(args.rows, args.users)
    results: list[dict[str, Any]] = []
    for name, (function, repetitions) in contenders().items():
        seconds = []
        for _ in range(repetitions):
            start = time.perf_counter()
            value = float(function(labels, scores, users))
            seconds.append(time.perf_counter() - start)
        results.append(
            {
                "name": name,
                "seconds": round(min(seconds), 4),
                "gauc": round(value, 9),
                "runs": repetitions,
            }
        )
        print(f"{name:<38}{min(seconds):>10.3f} s   GAUC {value:.9f}", flush=True)

    record = {
        "benchmark": "gauc",
        "command": "python benchmarks/gauc.py",
        "rows": len(labels),
        "users": len(np.unique(users)),
        "threads": 1,
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {
            name: installed(name)
            for name in ("numpy", "pandas", "scikit-learn", "torch-rechub", "recbole-choir")
        },
        "results": results,
    }
    args.record.parent.mkdir(parents=True, exist_ok=True)
    args.record.write_text(json.dumps(record, indent=2) + "\n")
    print(f"record: {args.record}")


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
