"""Semantic ids and content vectors of items as they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_choir import table_format as tf
from recbole_choir.data.members import prefix_levels
from recbole_choir.data.table.checks import (
    check_codes,
    check_rows,
    check_snapshots,
    check_unique,
    codebook_sizes,
)
from recbole_choir.data.table.parquet import Columns, examples, read_columns
from recbole_choir.errors import TableError


@dataclass(frozen=True)
class ItemPart:
    """``items.parquet`` and ``item_vectors.npy``, checked against each other.

    Args:
        columns: Columns of ``items.parquet``.
        n_codes: Codewords at each level.
        cluster: int64 ``[rows of items]`` number of each item's cluster, -1 for none. A number
            stands for one ``group_id`` in one snapshot; numbers follow snapshot and ``group_id``.
        level: int64 ``[n_clusters]`` how many codes each stands for, of
            :func:`~.members.prefix_levels`.
        vectors: float32 ``[V, d]``; ``[0, 0]`` without ``item_vectors.npy``.
    """

    columns: Columns
    n_codes: list[int]
    cluster: NDArray[np.int64]
    level: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any], n_snapshots: int) -> ItemPart | None:
        """Read the items of a table and check what can be checked without the dataset.

        Args:
            folder: The table's folder.
            manifest: Its manifest.
            n_snapshots: S.

        Returns:
            The items, or None where the table has none.

        Raises:
            TableError: The manifest speaks of items and their file is missing, a file or column is
                missing or damaged, a code, snapshot or vector row is out of range, an item is
                there twice in a snapshot, or a vector is not finite.
        """
        sizes = manifest.get("sizes")
        named = "item_n_clusters" in manifest or (isinstance(sizes, dict) and "items" in sizes)
        if not named and not (folder / tf.ITEMS).is_file():
            return None
        n_codes = codebook_sizes(manifest, folder, "item_")
        codes = [tf.code_column(level) for level in range(1, len(n_codes) + 1)]
        names = [tf.SNAPSHOT, tf.ITEM_ID, *codes, tf.GROUP_ID, tf.VECTOR]
        columns = read_columns(folder / tf.ITEMS, names)
        check_rows(manifest, folder, "items", len(columns))
        check_snapshots(folder, "items", columns, n_snapshots)
        check_codes(columns, codes, n_codes)
        check_unique(folder, "items", columns, tf.ITEM_ID)
        vectors = _vectors(folder / tf.ITEM_VECTORS, columns)
        check_rows(manifest, folder, "item_vectors", len(vectors))
        cluster, clusters = _clusters(columns)
        item_codes = np.stack([columns.ints(name) for name in codes], axis=1)
        return cls(columns, n_codes, cluster, prefix_levels(clusters, cluster, item_codes), vectors)

    @property
    def n_clusters(self) -> int:
        """How many clusters there are, over all snapshots."""
        return len(self.level)


def _clusters(columns: Columns) -> tuple[NDArray[np.int64], pa.Array]:
    """Number the pairs of snapshot and group id, whatever the order of the rows; their names."""
    encoded = pc.dictionary_encode(columns.strings(tf.GROUP_ID))
    texts = encoded.dictionary.to_pylist()
    rank = np.empty(len(texts) + 1, dtype=np.int64)
    rank[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
    at = pc.fill_null(pc.cast(encoded.indices, pa.int64()), len(texts))
    at = at.to_numpy(zero_copy_only=False)
    some = np.flatnonzero(at < len(texts))
    key = columns.ints(tf.SNAPSHOT)[some] * (len(texts) + 1) + rank[at[some]]
    distinct, number = np.unique(key, return_inverse=True)
    cluster = np.full(len(columns), -1, dtype=np.int64)
    cluster[some] = number.reshape(-1)
    name = distinct % (len(texts) + 1)
    return cluster, pa.array(sorted(texts), pa.string()).take(pa.array(name))


def _vectors(path: Path, columns: Columns) -> NDArray[np.float32]:
    row = columns.ints(tf.VECTOR)
    if path.is_file():
        vectors = _read_vectors(path)
    elif (row >= 0).any():
        raise TableError(
            f"{path.parent}: expected a file {path.name}, which {int((row >= 0).sum())} rows of"
            f" {tf.ITEMS} point into, found none"
        )
    else:
        vectors = np.zeros((0, 0), dtype=np.float32)
    bad = (row < -1) | (row >= len(vectors))
    if bad.any():
        raise TableError(
            f"{columns.path}: expected {tf.VECTOR} from -1 to {len(vectors) - 1},"
            f" got {examples(row[bad])} in {int(bad.sum())} rows"
        )
    return vectors


def _read_vectors(path: Path) -> NDArray[np.float32]:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path}: not a readable array: {reason}") from None
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        got = f"{vectors.dtype} {list(vectors.shape)}" if hasattr(vectors, "dtype") else "archive"
        raise TableError(f"{path}: expected float vectors [V, d], got {got}")
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise TableError(
            f"{path}: expected finite vectors, got {int(bad.sum())} with NaN or infinity,"
            f" such as row {int(np.flatnonzero(bad)[0])}"
        )
    return vectors.astype(np.float32, copy=False)
