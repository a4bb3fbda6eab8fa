"""Checks of a semantic table's files that need no dataset; each error is one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recbole_choir import table_format as tf
from recbole_choir.data.table.parquet import Columns, examples
from recbole_choir.errors import TableError


def codebook_sizes(manifest: Mapping[str, Any], folder: Path, prefix: str = "") -> list[int]:
    """Codewords at each level, from the keys ``<prefix>n_clusters`` and ``<prefix>n_levels``."""
    name, depth = f"{prefix}n_clusters", f"{prefix}n_levels"
    sizes = manifest.get(name)
    good = isinstance(sizes, list) and sizes and all(isinstance(k, int) and k > 0 for k in sizes)
    if not isinstance(sizes, list) or not good or manifest.get(depth, len(sizes)) != len(sizes):
        raise TableError(
            f"{folder / tf.MANIFEST}: expected one positive {name} for each of {depth},"
            f" got {name}={sizes!r}, {depth}={manifest.get(depth)!r}"
        )
    return [int(k) for k in sizes]


def check_rows(manifest: Mapping[str, Any], folder: Path, name: str, got: int) -> None:
    """Compare a number of rows with the manifest's, if it has one."""
    sizes = manifest.get("sizes")
    want = sizes.get(name) if isinstance(sizes, dict) else None
    if want is not None and int(want) != got:
        raise TableError(f"{folder}: the manifest says {want} rows of {name}, got {got}")


def check_snapshots(folder: Path, name: str, columns: Columns, n_snapshots: int) -> None:
    """Snapshots lie in 1..S."""
    snapshot = columns.ints(tf.SNAPSHOT)
    bad = (snapshot < 1) | (snapshot > n_snapshots)
    if bad.any():
        raise TableError(
            f"{folder}/{name}: expected snapshots 1 to {n_snapshots},"
            f" got {examples(snapshot[bad])} in {int(bad.sum())} rows"
        )


def check_codes(columns: Columns, names: list[str], n_codes: list[int]) -> None:
    """Codes lie in -1..K-1."""
    for name, k in zip(names, n_codes):
        code = columns.ints(name)
        bad = (code < tf.NO_CODE) | (code >= k)
        if bad.any():
            raise TableError(
                f"{columns.path}: expected {name} from {tf.NO_CODE} to {k - 1},"
                f" got {examples(code[bad])} in {int(bad.sum())} rows"
            )


def check_unique(folder: Path, name: str, columns: Columns, id_column: str) -> None:
    """No (snapshot, id) is there twice."""
    key = snapshot_keys(columns, id_column)
    counts = pc.value_counts(key)
    twice = pc.filter(counts.field(0), pc.greater(counts.field(1), 1))
    if len(twice):
        raise TableError(
            f"{folder}/{name}: expected one row a snapshot and {id_column},"
            f" got {len(twice)} twice, such as {readable(twice)}"
        )


def snapshot_keys(columns: Columns, id_column: str) -> pa.Array:
    """``"snapshot\\x1fid"``; null where the id is null."""
    snapshot = pc.cast(columns.table.column(tf.SNAPSHOT).combine_chunks(), pa.string())
    return pc.binary_join_element_wise(snapshot, columns.strings(id_column), "\x1f")


def readable(keys: pa.Array) -> str:
    """The first few of :func:`snapshot_keys`, for a message."""
    pairs = [str(k).split("\x1f", 1) for k in keys[:3].to_pylist()]
    return ", ".join(f"'{i}' in snapshot {s}" for s, i in pairs)
