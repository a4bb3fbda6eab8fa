"""Seconds a snapshot of soft groups, and rows a second of their lifts: all three kinds.

    python benchmarks/soft_groups.py
    python benchmarks/soft_groups.py --users=[10000,30000] --record=FILE

Made-up purchases: users of 40 tastes, 50 purchases each on average, items by a power law, one item
to five users. Each step is measured once, in processor time of one thread
(``OMP_NUM_THREADS=1``). What training costs next to Base is in benchmarks/model_speed.py.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import csr_matrix

from recbole_choir.data.lifts import LiftSource, soft_lifts
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.soft_groups import SoftGroups
from recbole_choir.integration import parse_cli
from recbole_choir.record import versions
from recbole_choir.semantic.soft.prototypes import (
    coordinates,
    memberships,
    nearest_weights,
    prototype_vectors,
)
from recbole_choir.semantic.soft.spaces import BehaviourSpace
from recbole_choir.settings.soft import SoftRecipe

RECORD = Path(__file__).parent / "records" / "soft_groups.json"
SIZES = [10_000, 30_000, 100_000]
PER_USER, TASTES, TYPES = 50, 40, 500
SETTINGS = SoftRecipe()
T = TypeVar("T")


def purchases(n_users: int, rng: np.random.Generator) -> Events:
    """Half of what a user buys is of its taste, the rest of anything."""
    n, n_items = PER_USER * n_users, n_users // 5
    weight = np.arange(1, n_items + 1) ** -0.7
    item = rng.choice(n_items, n, p=weight / weight.sum())
    # Some buy much and most little.
    share = rng.gamma(0.7, size=n_users)
    user = rng.choice(n_users, n, p=share / share.sum())
    own = rng.random(n) < 0.5
    item[own] = (item[own] // TASTES * TASTES + user[own] % TASTES) % n_items
    return Events(user, item, np.sort(rng.random(n)), np.ones(n, dtype=np.float32))


def measure(n_users: int) -> dict[str, Any]:
    """Every step of one size."""
    rng = np.random.default_rng(0)
    events = purchases(n_users, rng)
    n_items = n_users // 5
    counts = csr_matrix(
        (np.ones(len(events)), (events.user, events.item)), shape=(n_users, n_items)
    )
    types = np.arange(n_items) % TYPES + 1
    of_type = csr_matrix((np.ones(n_items), (np.arange(n_items), types - 1)))
    itself = csr_matrix((np.ones(n_items), (np.arange(n_items), np.arange(n_items))))
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], T]) -> T:
        start = time.process_time()
        out = step()
        seconds[name] = round(time.process_time() - start, 3)
        return out

    active = np.asarray(counts.sum(axis=1)).reshape(-1) >= SETTINGS.min_purchases
    spaces = [
        BehaviourSpace(n, v, SETTINGS.svd_dim) for n, v in (("items", itself), ("type", of_type))
    ]
    parts = timed("spaces", lambda: [s.locate(0.0, counts, active) for s in spaces])
    x = np.concatenate([p.x for p in parts], axis=1)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    known, members = np.flatnonzero(x.any(axis=1)), np.flatnonzero(active)
    neighbours = timed(
        "neighbours", lambda: nearest_weights(x, known, members, SETTINGS.k, SETTINGS.power)
    )

    def by_prototypes() -> csr_matrix:
        centres = prototype_vectors(x[members], SETTINGS.n_prototypes, 0)
        return memberships(x, known, centres, SETTINGS.temperature, SETTINGS.n_prototypes)

    kinds = {
        "neighbours": neighbours,
        "prototypes": timed("prototypes", by_prototypes),
        "factors": timed("factors", lambda: coordinates(x, known)),
    }
    rows = events.take(rng.choice(len(events), min(len(events), 500_000), replace=False))
    rows = Events(rows.user, rows.item, rows.time + 2.0, rows.label)
    first = np.ones(len(rows), dtype=np.int64)
    sources = [LiftSource("item", None), LiftSource("type", types[:, None])]
    speed = {}
    for name, matrix in kinds.items():
        groups = SoftGroups(name, (matrix,))  # type: ignore[arg-type]
        timed(
            f"lifts, {name}",
            lambda g=groups: soft_lifts(events, rows, first, first * 1.5, g, sources),  # type: ignore[misc]
        )
        speed[name] = round(len(rows) / seconds[f"lifts, {name}"])
    total = {
        name: round(seconds["spaces"] + seconds[name] + seconds[f"lifts, {name}"], 3)
        for name in kinds
    }
    return {
        "users": n_users,
        "items": n_items,
        "purchases": len(events),
        "rows": len(rows),
        "active": len(members),
        "weights": {name: matrix.nnz for name, matrix in kinds.items()},
        "seconds": seconds,
        "seconds_a_snapshot": total,
        "neighbours_over": {
            name: round(total["neighbours"] / total[name], 2) for name in ("prototypes", "factors")
        },
        "lift_rows_per_second": speed,
    }


def main() -> None:
    """Measure every size and write the record."""
    options = parse_cli(sys.argv[1:])
    results = []
    for n in options.get("users", SIZES):
        results.append(measure(int(n)))
        print(json.dumps(results[-1], indent=1))
    record = {
        "command": " ".join(["python benchmarks/soft_groups.py", *sys.argv[1:]]),
        "settings": SETTINGS.model_dump(),
        "machine": f"{platform.machine()}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}",
        "results": results,
        "versions": versions(),
    }
    Path(options.get("record", RECORD)).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
