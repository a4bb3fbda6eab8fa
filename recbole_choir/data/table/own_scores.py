"""The user's own score of the target item: the control that every gain of neighbours has to beat.

A user's vector and an item's in a space of behaviour, made before the row's snapshot, and their
product. It knows what the user's own past says and nothing of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recbole_choir import table_format as tf
from recbole_choir.data.cross_statistics import CrossStatistics
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.ids import known_ids
from recbole_choir.data.table.parquet import Columns, Texts
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.data.table.soft_files import SoftPart
from recbole_choir.errors import TableError

_BLOCK: Final = 65_536


@dataclass(frozen=True)
class OwnVectors:
    """Vectors of one space at every snapshot.

    Args:
        space: Its name.
        users: float32 ``[S + 1, n_users, d]``; zeros: none.
        items: float32 ``[S + 1, n_items, d]``; zeros: none.
    """

    space: str
    users: NDArray[np.float32]
    items: NDArray[np.float32]

    @classmethod
    def join(
        cls,
        part: SoftPart,
        table: SemanticTable,
        user_tokens: Sequence[str],
        item_tokens: Sequence[str],
    ) -> tuple[OwnVectors, ...]:
        """Vectors of users and items in the dataset's ids, one part a space.

        Raises:
            TableError: The table has no vectors, their form is wrong, or an id is none of the
                dataset's.
        """
        if part.vectors is None:
            raise TableError(
                f"{table.path}: expected {tf.SOFT_VECTORS} for own scores (recipe soft.own_vectors:"
                " true), found none"
            )
        columns = part.vectors
        space, side, name = (Texts.of(columns, n) for n in (tf.SPACE, tf.SIDE, tf.ID))
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
                column = Texts(name.values, name.at[here])
                ids = known_ids(table.path, f"{side_name} vectors", column, known)
                shape = (len(table.snapshot_times) + 1, len(tokens), vector.shape[1])
                array = np.zeros(shape, dtype=np.float32)
                array[snapshot[here], ids] = vector[here]
                arrays.append(array)
            out.append(cls(text, *arrays))
        return tuple(sorted(out, key=lambda v: v.space))


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


def own_scores(
    rows: Events, snapshot: NDArray[np.integer], spaces: Sequence[OwnVectors]
) -> CrossStatistics:
    """Products of the user's and the item's vectors as of each row's snapshot.

    Args:
        rows: The rows to describe; their labels are not read.
        snapshot: ``[N]`` newest snapshot strictly before each row, 0 for none.
        spaces: One column each.

    Returns:
        Raw scores ``[N, spaces]``; unknown where user or item has no vector.
    """
    values = np.zeros((len(rows), len(spaces)))
    known = np.zeros(values.shape, dtype=bool)
    for column, space in enumerate(spaces):
        for first in range(0, len(rows), _BLOCK):
            at = slice(first, first + _BLOCK)
            u = space.users[snapshot[at], rows.user[at]]  # [block, d]
            i = space.items[snapshot[at], rows.item[at]]
            values[at, column] = np.einsum("nd,nd->n", u, i, dtype=np.float64)
            known[at, column] = u.any(axis=1) & i.any(axis=1)
    return CrossStatistics(values, known, tuple(f"own_score_{space.space}" for space in spaces))
