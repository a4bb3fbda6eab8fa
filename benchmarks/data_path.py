"""Seconds of the data path, from atomic files to batches, on one thread.

    python benchmarks/data_path.py --dataset=ml-1m      # raw files: see RECBOLE_CHOIR_DATA

Writes benchmarks/records/data_path.json. The semantic table is made from random groups, so that no
encoder is measured.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch

from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.integration import ChoirConfig, create_dataset, data_preparation, parse_cli
from recbole_choir.integration.warm_start import train_id_vectors
from recbole_choir.record import versions
from recbole_choir.table_source import ensure_semantic_table

RECORD = Path(__file__).parent / "records" / "data_path.json"


def main() -> None:
    """Measure each step once and the loader over a whole epoch."""
    logging.getLogger("recbole_choir").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    cli = {"dataset": "ml-100k", **parse_cli(sys.argv[1:])}
    cli |= {"show_progress": False, "group_stats": True, "semantic": {"input": "random"}}
    config = ChoirConfig(model="ChoirRec", dataset=cli.pop("dataset"), cli=cli)
    ensure_atomic_files(config)
    steps: dict[str, float] = {}
    clock = [time.perf_counter()]

    def done(name: str) -> None:
        clock.append(time.perf_counter())
        steps[name] = round(clock[-1] - clock[-2], 3)

    data = create_dataset(config)
    done("read the atomic files (RecBole)")
    data.build_splits()
    done("order, split, history, activity statistics")
    table = ensure_semantic_table(config, data, train_id_vectors)
    done("build a table of random groups, or find it built")
    data.attach_semantic_table(table)
    done("join the table, group statistics")
    train, _, _ = data_preparation(config, data)
    done("loaders")
    rows = sum(len(batch) for batch in train)
    done("one epoch of batches")
    record: dict[str, Any] = {
        "command": f"python benchmarks/data_path.py --dataset={config['dataset']}",
        "rows": data.split_sizes(),
        "seconds": steps,
        "batches_rows_per_second": round(rows / steps["one epoch of batches"]),
        "batch": config["train_batch_size"],
        "history_length": config["history_length"],
        "versions": versions(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
