"""The profile store at a million rows: writing, opening again, finding what is missing.

    python benchmarks/profile_store.py [--profiles 1000000] [--folder DIR] [--record FILE]

Reopening is measured in a new process, with the file's pages dropped from the system's cache
first (cold) and with them there (warm): open, then stream the keys of all prompts, a tenth of them
new, through ``missing``. Making the keys is not counted; reading them is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recbole_choir.semantic.profiles.store import Finished, ProfileStore

KEY_BYTES = 32
BATCH = 256
TEXT = json.dumps(
    {
        "identity": "A retired teacher who watches slow European dramas late in the evening. " * 2,
        "interests": ["French drama", "film noir", "documentaries on music"] * 2,
        "philosophy": "Prefers a few well reviewed titles over novelty, returns to directors. " * 2,
    }
)


def random_keys(n: int) -> bytes:
    return np.random.default_rng(0).bytes(n * KEY_BYTES)


def key_stream(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(KEY_BYTES):
            yield part


def write(path: Path, keys: bytes, n: int) -> float:
    """Claim and commit ``n`` profiles as a run does, 256 at a time; seconds."""
    start = time.perf_counter()
    with ProfileStore(path) as store:
        for first in range(0, n, BATCH):
            part = [
                keys[i * KEY_BYTES : (i + 1) * KEY_BYTES]
                for i in range(first, min(n, first + BATCH))
            ]
            store.claim(part)
            store.commit(
                [Finished(key, f"{TEXT}{i}", 1, 400, 150) for i, key in enumerate(part)], "m"
            )
    return time.perf_counter() - start


def reopen(path: Path, keys: Path, out: Any) -> None:
    """In a process of its own: what a second run does before it asks for anything."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, start = time.process_time(), time.perf_counter()
    with ProfileStore(path) as store:
        opened = time.perf_counter() - start
        missing = sum(1 for _ in store.missing(key_stream(keys)))
    out.put(
        {
            "open_s": round(opened, 4),
            "open_and_find_missing_s": round(time.perf_counter() - start, 3),
            "cpu_s": round(time.process_time() - cpu, 3),
            "missing": missing,
            "memory_growth_mb": round(
                (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1
            ),
        }
    )


def drop_pages(path: Path) -> None:
    """Let the system forget the file, so that it has to be read from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument(
        "--record", type=Path, default=Path(__file__).parent / "records/profile_store.json"
    )
    args = parser.parse_args()
    n = args.profiles
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path, key_file = Path(folder) / "profiles.sqlite", Path(folder) / "keys"
        keys = random_keys(n)
        key_file.write_bytes(keys)
        written = n - n // 10
        seconds = write(path, keys, written)
        print(f"written: {written} in {seconds:.1f} s, {written / seconds:.0f} a second")
        runs: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
        for kind, results in runs.items():
            for _ in range(3):
                if kind == "cold":
                    drop_pages(path)
                out = context.Queue()
                process = context.Process(target=reopen, args=(path, key_file, out))
                process.start()
                results.append(out.get())
                process.join()
                print(kind, results[-1], flush=True)
        record = {
            "benchmark": "profile_store",
            "command": "python benchmarks/profile_store.py",
            "keys": n,
            "profiles": written,
            "file_mb": round(path.stat().st_size / 1e6, 1),
            "bytes_of_text": len(TEXT),
            "write_s": round(seconds, 1),
            "writes_per_second": round(written / seconds),
            "reopen": runs,
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        }
    args.record.parent.mkdir(parents=True, exist_ok=True)
    args.record.write_text(json.dumps(record, indent=2) + "\n")
    print(f"record: {args.record}")


if __name__ == "__main__":
    main()
