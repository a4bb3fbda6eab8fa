"""Soft groups of a semantic table as they lie on disk, and joined to a dataset's ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_choir import table_format as tf
from recbole_choir.data.table.checks import check_rows, check_snapshots
from recbole_choir.data.table.parquet import Columns, Texts, examples, read_columns
from recbole_choir.errors import TableError

Kind = Literal["neighbours", "prototypes", "factors"]


@dataclass(frozen=True)
class SoftPart:
    """``soft.parquet`` and ``soft_vectors.parquet``, checked by themselves.

    Args:
        columns: Of ``soft.parquet``.
        kind: ``neighbours``, ``prototypes`` or ``factors``.
        width: K, of prototypes or factors; 0 for neighbours.
        vectors: Of ``soft_vectors.parquet``, or None.
    """

    columns: Columns
    kind: Kind
    width: int
    vectors: Columns | None

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any], n_snapshots: int) -> SoftPart | None:
        """Read the soft groups of a table and check what can be checked without the dataset.

        Args:
            folder: The table's folder.
            manifest: Its manifest.
            n_snapshots: S.

        Returns:
            The soft groups, or None where the table has none.

        Raises:
            TableError: The manifest speaks of soft groups and their file is missing or damaged, or
                the other way round; a snapshot, prototype or weight is out of range; or a user has
                a weight on itself or two on the same member.
        """
        entry = manifest.get("soft")
        if entry is None and not (folder / tf.SOFT).is_file():
            return None
        kind, width = _kind(entry, folder)
        names = [tf.SNAPSHOT, tf.USER_ID, tf.MEMBER, tf.WEIGHT]
        columns = read_columns(folder / tf.SOFT, names)
        check_rows(manifest, folder, "soft", len(columns))
        check_snapshots(folder, "soft", columns, n_snapshots)
        weight = columns.floats(tf.WEIGHT)
        signed = kind == tf.FACTORS
        bad = ~(np.isfinite(weight) & (weight != 0 if signed else weight > 0))
        if bad.any():
            raise TableError(
                f"{columns.path}: expected weights {'other than' if signed else 'above'} 0,"
                f" got {examples(weight[bad])}"
                f" in {int(bad.sum())} rows"
            )
        _check_pairs(columns, kind)
        vectors = None
        if (folder / tf.SOFT_VECTORS).is_file():
            vectors = read_columns(
                folder / tf.SOFT_VECTORS, [tf.SNAPSHOT, tf.SPACE, tf.SIDE, tf.ID, tf.VECTOR]
            )
            check_rows(manifest, folder, "soft_vectors", len(vectors))
            check_snapshots(folder, "soft_vectors", vectors, n_snapshots)
        return cls(columns, kind, width, vectors)


def _kind(entry: Any, folder: Path) -> tuple[Kind, int]:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if kind == tf.NEIGHBOURS:
        return tf.NEIGHBOURS, 0
    n = entry.get(tf.WIDTHS[kind], 0) if isinstance(entry, dict) and kind in tf.WIDTHS else 0
    if not isinstance(n, int) or n <= 0:
        raise TableError(
            f"{folder / tf.MANIFEST}: expected soft with kind neighbours, or prototypes and their"
            f" number n_prototypes, or factors and n_factors, got {entry!r}"
        )
    return cast(Kind, kind), n


def _check_pairs(columns: Columns, kind: Kind) -> None:
    """No user has a weight on itself, or two on one member in a snapshot."""
    users, members = Texts.of(columns, tf.USER_ID), Texts.of(columns, tf.MEMBER)
    if kind == tf.NEIGHBOURS:
        same = pc.fill_null(pc.index_in(users.values, members.values), -1)
        itself = same.to_numpy(zero_copy_only=False)[users.at] == members.at
        if itself.any():
            at = users.at[np.flatnonzero(itself)[:3]]
            raise TableError(
                f"{columns.path}: expected no weight of a user on itself (its own purchases would"
                f" enter its lifts), got {int(itself.sum())},"
                f" such as {examples(users.values.take(pa.array(at)).to_pylist())}"
            )
    key = columns.ints(tf.SNAPSHOT) * len(users.values) + users.at
    key = key * len(members.values) + members.at
    if not bool((np.diff(key) > 0).all()) and len(np.unique(key)) < len(key):
        raise TableError(
            f"{columns.path}: expected one row a snapshot, user_id and member,"
            f" got {len(key) - len(np.unique(key))} again"
        )
