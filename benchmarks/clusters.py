"""Seconds and memory of AKT-Rec's data path on made-up events, on one thread.

    python benchmarks/clusters.py --events=1000000

Writes benchmarks/records/clusters.json. Users and items follow a power law; clusters are random,
of 18 ids each, in four snapshots; a user has 20 events on average, an item 50.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from recbole_choir.data.clusters.tables import Clusters
from recbole_choir.data.rows import RowInputs
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.integration import parse_cli
from recbole_choir.record import versions

RECORD = Path(__file__).parent / "records" / "clusters.json"
SNAPSHOTS, LEVELS, BATCH, LENGTH = 4, 3, 8192, 50
T = TypeVar("T")


def skewed(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Ids from 1 to n - 1, a few of them often."""
    weight = np.arange(1, n) ** -0.8
    return rng.choice(np.arange(1, n), size, p=weight / weight.sum())


def codes_and_clusters(n: int, rng: np.random.Generator) -> tuple[int, torch.Tensor, Any, int]:
    """Codewords, random codes, cluster rows and their number."""
    k = max(2, round((n / 18) ** (1 / LEVELS)))
    codes = rng.integers(1, k + 1, (SNAPSHOTS + 1, n, LEVELS)).astype(np.int32)
    codes[0] = codes[:, 0] = 0
    cluster, rows = np.zeros((SNAPSHOTS + 1, n), dtype=np.int32), 1
    for s in range(1, SNAPSHOTS + 1):
        _, number = np.unique(codes[s, 1:], axis=0, return_inverse=True)
        cluster[s, 1:] = rows + number.reshape(-1)
        rows += int(number.max()) + 1
    return k, torch.from_numpy(codes), torch.from_numpy(cluster), rows


def main() -> None:
    """Measure each step once and the lookup of a batch."""
    logging.getLogger("recbole_choir").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    n = int(parse_cli(sys.argv[1:]).get("events", 1_000_000))
    rng = np.random.default_rng(0)
    n_users, n_items = n // 20, n // 50
    times = np.sort(rng.random(n)) * 1e7
    label = (rng.random(n) < 0.4).astype(np.float32)
    events = Events(skewed(n_users, n, rng), skewed(n_items, n, rng), times, label)
    parts = np.split(np.arange(n), [int(n * 0.8), int(n * 0.9)])
    categories = rng.integers(1, 40, (n_items, 1))
    k_users, user_codes, user_cluster, g_users = codes_and_clusters(n_users, rng)
    k_items, item_codes, item_cluster, g_items = codes_and_clusters(n_items, rng)
    steps: dict[str, dict[str, float]] = {}

    def measured(name: str, step: Callable[[], T]) -> T:
        start = time.perf_counter()
        out = step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        steps[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "peak_mib_so_far": round(peak),
        }
        return out

    rows = measured(
        "history, activity statistics", lambda: RowInputs.build(events, parts, "auto", categories)
    )
    at = [int(len(parts[0]) * (s + 1) / SNAPSHOTS) - 1 for s in range(SNAPSHOTS)]
    groups = GroupTables(
        user_group=user_cluster,
        user_codes=user_codes,
        n_codes=[k_users] * LEVELS,
        group_attr={},
        group_seq=torch.zeros(g_users, 1, dtype=torch.int32),
        group_size=torch.zeros(g_users, dtype=torch.int64),
        snapshot_times=torch.from_numpy(times[at]),
        fingerprint="",
    )
    nothing = torch.zeros(SNAPSHOTS + 1, n_items, dtype=torch.int32)
    items = ItemTables(
        item_cluster, item_codes, [k_items] * LEVELS, g_items, nothing, torch.zeros(1, 1)
    )
    rows.attach_snapshots(groups)
    measured("group statistics", lambda: rows.attach_group_statistics(groups, categories, 20.0))
    measured("cross statistics", lambda: rows.attach_cross_statistics(groups, items, 20.0))
    tail_user = np.bincount(events.user[parts[0]], minlength=n_users) < 5
    tail_item = np.bincount(events.item[parts[0]], minlength=n_items) < 10
    clusters = measured(
        "clusters", lambda: Clusters.build(groups, items, rows, tail_user, tail_item)
    )
    user, item = (torch.from_numpy(ids[:BATCH]) for ids in (events.user, events.item))
    cluster, top = user_cluster[SNAPSHOTS, user], item_codes[SNAPSHOTS, item, 0]
    # Lists of random clusters are short: look up as many places as the longest list may have.
    behaviour = dataclasses.replace(clusters.behaviour, length=LENGTH)
    start = time.perf_counter()
    for _ in range(100):
        behaviour.gather(cluster, top)
    record = {
        "command": f"python benchmarks/clusters.py --events={n}",
        "users": n_users,
        "items": n_items,
        "clusters": {"users": g_users, "items": g_items},
        "steps": steps,
        "lookup_milliseconds": {
            "batch": BATCH,
            "length": LENGTH,
            "value": round((time.perf_counter() - start) * 10, 2),
        },
        "versions": versions(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
