"""How long looking at a dataset's files takes, next to reading them.

    python benchmarks/file_checks.py ml-1m --raw FOLDER

Needs the raw files, or a dataset in ``dataset/``. Each figure is the least of five runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import recbole_choir.integration.dataset as reading
from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.file_findings import findings_of
from recbole_choir.integration.config import ChoirConfig

RECORD = Path(__file__).parent / "records" / "file_checks.json"


def least(work: Callable[[], object], runs: int = 5) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Print both times and the memory of the look."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--raw", help="folder of the raw files")
    parser.add_argument("--data-path", default="dataset")
    options = parser.parse_args()
    values = {"state": "ERROR", "data_path": options.data_path, "raw_data_path": options.raw}
    config = ChoirConfig("Base", options.dataset, config_dict=values)
    ensure_atomic_files(config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    look = least(lambda: findings_of(config))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    reading.findings_of = lambda config: []  # reading alone
    read = least(lambda: reading.create_dataset(config))
    print(f"looking {look:.3f} s, reading {read:.3f} s, {look / read:.1%}; {grown} MiB more memory")
    record = {
        "dataset": options.dataset,
        "looking_s": round(look, 3),
        "reading_s": round(read, 3),
        "looking_over_reading": round(look / read, 3),
        "more_memory_mib": grown,
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
