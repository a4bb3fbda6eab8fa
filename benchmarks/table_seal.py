"""What the seal of a semantic table costs when a run reads it, next to what the run does anyhow.

    python benchmarks/table_seal.py [--dataset ml-1m] [--data_path dataset] [--record FILE]

A table of user groups, item ids and content vectors is made from the training rows of the dataset
(random inputs: the files have the form and size of any other recipe's). Measured: making the seal,
comparing the files with it, comparing the rows with the interactions, each the best of five, and
reading the dataset and the table. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_choir import table_format as tf
from recbole_choir.data.table.semantic_table import SemanticTable, read_manifest
from recbole_choir.integration import ChoirConfig, create_dataset
from recbole_choir.record import versions
from recbole_choir.semantic import build, load_recipe
from recbole_choir.table_seal import READ, SEAL, check_interactions, check_seal, make_seal

RECORD = Path(__file__).resolve().parent / "records" / "table_seal.json"
RECIPE = {"input": "random", "items": {"input": "random"}}


def seconds(work: Callable[[], Any], runs: int = 5) -> float:
    """The best of some runs."""
    found = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return round(min(found), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()

    values = {"data_path": options.data_path, "state": "ERROR", "show_progress": False}
    config = ChoirConfig("Base", options.dataset, config_dict=values)
    begun = time.perf_counter()
    data = create_dataset(config)
    data.build_splits()
    reading = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table"
        frames = data.semantic_frames()
        build(*frames, load_recipe(RECIPE), out, show_progress=False)
        manifest = read_manifest(out)
        table = SemanticTable.load(out)
        times = table.snapshot_times.tolist()
        made_from = table.made_from or []
        plain = {name: value for name, value in manifest.items() if name != SEAL}

        def compare_rows() -> None:
            check_interactions(out, times, made_from, data.interaction_stamps(times))

        content = {
            "benchmark": "table_seal",
            "command": "python benchmarks/table_seal.py",
            "dataset": options.dataset,
            "rows": sum(data.split_sizes().values()),
            "interactions": len(frames[0]),
            "snapshots": len(times),
            "files_mb": {
                name: round((out / name).stat().st_size / 2**20, 2)
                for name in READ
                if (out / name).exists()
            },
            "all_files_mb": round(
                sum(p.stat().st_size for p in out.iterdir() if p.name != tf.MANIFEST) / 2**20, 2
            ),
            "threads": 1,
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "versions": versions(),
            "seconds": {
                "read_the_dataset": round(reading, 2),
                "read_the_table_unsealed": seconds(lambda: SemanticTable.load(out, sealed=False)),
                "make_the_seal": seconds(lambda: make_seal(out, plain, made_from)),
                "compare_the_files": seconds(lambda: check_seal(out, manifest)),
                "compare_the_rows": seconds(compare_rows),
                "fingerprint_the_rows_for_resume": seconds(data.fingerprint),
            },
        }
    options.record.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
