"""Soft groups of a semantic table as they lie on disk, and joined to a dataset's ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir import table_format as tf
from recbole_choir.data.table.checks import check_rows, check_snapshots
from recbole_choir.data.table.ids import check_known, internal_ids
from recbole_choir.data.table.own_scores import OwnVectors
from recbole_choir.data.table.parquet import Columns, examples, read_columns
from recbole_choir.data.table.soft_groups import Kind, SoftGroups
from recbole_choir.errors import TableError

if TYPE_CHECKING:
    from recbole_choir.data.table.semantic_table import SemanticTable

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Texts:
    """A column of ids, each different text once.

    Args:
        values: ``[D]`` the texts.
        at: int64 ``[rows]`` positions in ``values``.
    """

    values: pa.Array
    at: Ints

    @classmethod
    def of(cls, columns: Columns, name: str) -> _Texts:
        """Read a column of texts without gaps.

        Raises:
            TableError: It holds something else.
        """
        column = columns.table.column(name).combine_chunks()
        if not pa.types.is_dictionary(column.type):
            column = pc.dictionary_encode(columns.strings(name))
        if column.null_count or not pa.types.is_string(column.dictionary.type):
            raise TableError(
                f"{columns.path}: expected text in column '{name}',"
                f" got {column.type} with {column.null_count} empty"
            )
        indices = column.indices.to_numpy(zero_copy_only=False)
        return cls(column.dictionary, indices.astype(np.int64))


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
        said = manifest.get("soft")
        if said is None and not (folder / tf.SOFT).is_file():
            return None
        kind, width = _kind(said, folder)
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

    def groups(self, table: SemanticTable, user_tokens: Sequence[str]) -> SoftGroups:
        """The weights in the dataset's ids.

        Args:
            table: The table that this is a part of.
            user_tokens: Raw id of each internal id; the first is the padding.

        Raises:
            TableError: A user or member is none of the dataset's users, or a prototype is none.
        """
        known = pa.array([str(t) for t in user_tokens[1:]], pa.string())
        users, members = (_Texts.of(self.columns, n) for n in (tf.USER_ID, tf.MEMBER))
        row = _known_ids(table, "users of soft groups", users, known)
        if self.kind == tf.NEIGHBOURS:
            column = _known_ids(table, "members of soft groups", members, known)
            width = len(user_tokens)
        else:
            column = _numbers(self.columns, members, self.kind, self.width)
            width = self.width
        snapshot, weight = self.columns.ints(tf.SNAPSHOT), self.columns.floats(tf.WEIGHT)
        matrices = []
        for s in range(1, len(table.snapshot_times) + 1):
            here = snapshot == s
            matrix = csr_matrix(
                (weight[here], (row[here], column[here])), shape=(len(user_tokens), width)
            )
            matrix.sort_indices()
            matrices.append(matrix)
        return SoftGroups(self.kind, tuple(matrices))

    def own_vectors(
        self, table: SemanticTable, user_tokens: Sequence[str], item_tokens: Sequence[str]
    ) -> tuple[OwnVectors, ...]:
        """Vectors of users and items in the dataset's ids, one part a space.

        Raises:
            TableError: The table has no vectors, their form is wrong, or an id is none of the
                dataset's.
        """
        if self.vectors is None:
            raise TableError(
                f"{table.path}: expected {tf.SOFT_VECTORS} for own scores (recipe soft.own_vectors:"
                " true), found none"
            )
        columns = self.vectors
        space, side, name = (_Texts.of(columns, n) for n in (tf.SPACE, tf.SIDE, tf.ID))
        vector, snapshot = _vector_rows(columns), columns.ints(tf.SNAPSHOT)
        sides = {tf.USER_SIDE: user_tokens, tf.ITEM_SIDE: item_tokens}
        odd = [v for v in side.values.to_pylist() if v not in sides]
        if odd:
            raise TableError(f"{columns.path}: expected side user or item, got {odd[0]!r}")
        out = []
        for number, text in enumerate(space.values.to_pylist()):
            arrays = []
            for side_name, tokens in sides.items():
                is_side = np.array([v == side_name for v in side.values.to_pylist()])
                here = np.flatnonzero((space.at == number) & is_side[side.at])
                known = pa.array([str(t) for t in tokens[1:]], pa.string())
                part = _Texts(name.values, name.at[here])
                ids = _known_ids(table, f"{side_name} vectors", part, known)
                shape = (len(table.snapshot_times) + 1, len(tokens), vector.shape[1])
                array = np.zeros(shape, dtype=np.float32)
                array[snapshot[here], ids] = vector[here]
                arrays.append(array)
            out.append(OwnVectors(text, *arrays))
        return tuple(sorted(out, key=lambda v: v.space))


def _kind(said: Any, folder: Path) -> tuple[Kind, int]:
    kind = said.get("kind") if isinstance(said, dict) else None
    if kind == tf.NEIGHBOURS:
        return tf.NEIGHBOURS, 0
    n = said.get(tf.WIDTHS[kind], 0) if isinstance(said, dict) and kind in tf.WIDTHS else 0
    if not isinstance(n, int) or n <= 0:
        raise TableError(
            f"{folder / tf.MANIFEST}: expected soft with kind neighbours, or prototypes and their"
            f" number n_prototypes, or factors and n_factors, got {said!r}"
        )
    return cast(Kind, kind), n


def _check_pairs(columns: Columns, kind: Kind) -> None:
    """No user has a weight on itself, or two on one member in a snapshot."""
    users, members = _Texts.of(columns, tf.USER_ID), _Texts.of(columns, tf.MEMBER)
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


def _known_ids(table: SemanticTable, what: str, texts: _Texts, known: pa.Array) -> Ints:
    ids = internal_ids(texts.values, known)
    used = np.unique(texts.at)
    check_known(table, what, texts.values.take(pa.array(used)), ids[used], len(known))
    return ids[texts.at]


def _numbers(columns: Columns, members: _Texts, kind: Kind, n: int) -> Ints:
    """Prototypes or factors as numbers."""
    texts = members.values.to_pylist()
    number = np.array([int(t) if t.isdecimal() else -1 for t in texts] or [0], dtype=np.int64)
    bad = (number < 0) | (number >= n)
    if bad.any() and texts:
        wrong = [t for t, b in zip(texts, bad) if b]
        raise TableError(
            f"{columns.path}: expected {kind} 0 to {n - 1} in column '{tf.MEMBER}',"
            f" got {examples(wrong)}"
        )
    return number[members.at]


def _vector_rows(columns: Columns) -> NDArray[np.float32]:
    column = columns.table.column(tf.VECTOR).combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        raise TableError(
            f"{columns.path}: expected lists of one length in column '{tf.VECTOR}',"
            f" got {column.type}"
        )
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    out = values.reshape(-1, column.type.list_size)
    if not np.isfinite(out).all():
        raise TableError(f"{columns.path}: expected finite vectors, got NaN or infinity")
    return out
