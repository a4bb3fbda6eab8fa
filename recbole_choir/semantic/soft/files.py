"""Soft groups as columns of the table's files (form: :mod:`recbole_choir.table_format`)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recbole_choir.semantic.soft.groups import SoftContent
from recbole_choir.table_format import (
    ID,
    ITEM_SIDE,
    MEMBER,
    NEIGHBOURS,
    SIDE,
    SNAPSHOT,
    SPACE,
    USER_ID,
    USER_SIDE,
    VECTOR,
    WEIGHT,
)


def soft_arrow(soft: SoftContent) -> pa.Table:
    """Rows of ``soft.parquet``: snapshot, user_id, member, weight, in this order."""
    users = pa.array(soft.users, pa.string())
    members = users
    if soft.kind != NEIGHBOURS:
        members = pa.array([str(k) for k in range(soft.width)], pa.string())
    parts = [matrix.tocoo() for matrix in soft.weights]
    snapshot = np.repeat(np.arange(1, len(parts) + 1, dtype=np.int32), [p.nnz for p in parts])
    return pa.table(
        {
            SNAPSHOT: pa.array(snapshot),
            USER_ID: _ids([p.row for p in parts], users),
            MEMBER: _ids([p.col for p in parts], members),
            WEIGHT: pa.array(np.concatenate([p.data for p in parts]).astype(np.float32)),
        }
    )


def soft_vectors_arrow(soft: SoftContent) -> pa.Table:
    """Rows of ``soft_vectors.parquet``: vectors of users and items that are not zero."""
    pieces = []
    for name in sorted(soft.spaces):
        for snapshot, pair in enumerate(soft.spaces[name], 1):
            for side, ids, x in zip((USER_SIDE, ITEM_SIDE), (soft.users, soft.items), pair):
                at = np.flatnonzero(x.any(axis=1))
                vectors = pa.FixedSizeListArray.from_arrays(
                    pa.array(x[at].reshape(-1).astype(np.float32)), x.shape[1]
                )
                pieces.append(
                    pa.table(
                        {
                            SNAPSHOT: pa.array(np.full(len(at), snapshot, np.int32)),
                            SPACE: pa.array([name] * len(at), pa.string()),
                            SIDE: pa.array([side] * len(at), pa.string()),
                            ID: pa.array(ids[at], pa.string()),
                            VECTOR: vectors,
                        }
                    )
                )
    return pa.concat_tables(_same_width(pieces))


def _same_width(pieces: list[pa.Table]) -> list[pa.Table]:
    """Vectors of all spaces as wide as the widest, with zeros behind."""
    width = max(piece.column(VECTOR).type.list_size for piece in pieces)
    out = []
    for piece in pieces:
        column = piece.column(VECTOR).combine_chunks()
        size = column.type.list_size
        if size < width:
            x = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
            wide = np.pad(x, ((0, 0), (0, width - size)))
            column = pa.FixedSizeListArray.from_arrays(pa.array(wide.reshape(-1)), width)
            piece = piece.set_column(piece.column_names.index(VECTOR), VECTOR, column)
        out.append(piece)
    return out


def _ids(at: list[NDArray[np.int32]], names: pa.Array) -> pa.DictionaryArray:
    # Each id once in memory and on disk, however many weights it has.
    return pa.DictionaryArray.from_arrays(pa.array(np.concatenate(at).astype(np.int32)), names)
