"""Soft groups joined to a dataset's own ids: how much each user counts for each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir import table_format as tf
from recbole_choir.data.table.ids import known_ids
from recbole_choir.data.table.parquet import Columns, Ints, Texts, examples
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.data.table.soft_files import Kind, SoftPart
from recbole_choir.errors import TableError

Floats = NDArray[np.float64]

#: Cells of a dense block of users x things, 128 MiB: what bounds the memory of a sum.
BLOCK_CELLS: Final = 1 << 24


@dataclass(frozen=True)
class SoftGroups:
    """Weights of users over each other at every snapshot, on the host.

    Args:
        kind: ``neighbours``: the weights themselves, W; ``prototypes`` and ``factors``: memberships
            A, which stand for ``W = A A^T`` without its diagonal. Those of factors are coordinates
            and may be negative; a sum over all users below 0 counts as 0.
        weights: For each snapshot W ``[n_users, n_users]`` with an empty diagonal, or A
            ``[n_users, K]``. Rows of users without any are empty.
    """

    kind: Kind
    weights: tuple[csr_matrix, ...]

    @classmethod
    def join(cls, part: SoftPart, table: SemanticTable, user_tokens: Sequence[str]) -> SoftGroups:
        """A table's weights in the dataset's ids.

        Args:
            part: The soft groups of ``table``.
            table: For its snapshots, and for messages.
            user_tokens: Raw id of each internal id; the first is the padding.

        Raises:
            TableError: A user or member is none of the dataset's users, or a prototype is none.
        """
        known = pa.array([str(t) for t in user_tokens[1:]], pa.string())
        users, members = (Texts.of(part.columns, n) for n in (tf.USER_ID, tf.MEMBER))
        row = known_ids(table.path, "users of soft groups", users, known)
        if part.kind == tf.NEIGHBOURS:
            column = known_ids(table.path, "members of soft groups", members, known)
            width = len(user_tokens)
        else:
            column = _numbers(part.columns, members, part.kind, part.width)
            width = part.width
        snapshot, weight = part.columns.ints(tf.SNAPSHOT), part.columns.floats(tf.WEIGHT)
        matrices = []
        for s in range(1, len(table.snapshot_times) + 1):
            here = snapshot == s
            matrix = csr_matrix(
                (weight[here], (row[here], column[here])), shape=(len(user_tokens), width)
            )
            matrix.sort_indices()
            matrices.append(matrix)
        return cls(part.kind, tuple(matrices))

    @property
    def n_users(self) -> int:
        """Vocabulary size."""
        return self.weights[0].shape[0] if self.weights else 0

    def sums(self, snapshot: int, counts: csr_matrix, user: Ints, what: Ints) -> Floats:
        """``sum_v w_uv counts[v, what]`` of pairs ``(user, what)``, the user's own left out.

        Args:
            snapshot: From 1 on.
            counts: ``[n_users, n_what]``.
            user, what: int64 ``[Q]``.

        Returns:
            ``[Q]``. Of memberships in O(events K + Q K); of neighbours in O(users k times a
            neighbour's different things).
        """
        matrix = self.weights[snapshot - 1]
        if self.kind == "neighbours":
            return _over_neighbours(matrix, counts, user, what)
        return _over_memberships(matrix, counts, user, what)

    def masses(self, snapshot: int, totals: Floats) -> Floats:
        """``sum_v w_uv totals[v]`` of every user, its own left out.

        Args:
            snapshot: From 1 on.
            totals: ``[n_users]``.

        Returns:
            ``[n_users]``, in O(weights).
        """
        matrix = self.weights[snapshot - 1]
        if self.kind == "neighbours":
            return np.asarray(matrix @ totals)
        return np.maximum(matrix @ (matrix.T @ totals) - _with_itself(matrix) * totals, 0.0)


def _numbers(columns: Columns, members: Texts, kind: Kind, n: int) -> Ints:
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


def _over_neighbours(weights: csr_matrix, counts: csr_matrix, user: Ints, what: Ints) -> Floats:
    out = np.zeros(len(user))
    asked, at = np.unique(user, return_inverse=True)
    things, column = np.unique(what, return_inverse=True)
    counts = counts[:, things]  # most of a catalogue is asked for by no row
    order = np.argsort(at, kind="stable")
    ends = np.searchsorted(at[order], np.arange(len(asked) + 1))
    for first, last in _blocks(len(asked), len(things)):
        pairs = order[ends[first] : ends[last]]
        sums = (weights[asked[first:last]] @ counts).toarray()  # [block, things]
        out[pairs] = sums[at[pairs] - first, column[pairs]]
    return out


def _over_memberships(members: csr_matrix, counts: csr_matrix, user: Ints, what: Ints) -> Floats:
    out = np.zeros(len(user))
    totals = np.ascontiguousarray((members.T @ counts).toarray().T)  # [n_what, K]
    order = np.argsort(user, kind="stable")  # few different users in a block
    for first, last in _blocks(len(user), members.shape[1]):
        pairs = order[first:last]
        asked, at = np.unique(user[pairs], return_inverse=True)
        mine = members[asked].toarray()  # [block users, K]
        out[pairs] = np.einsum("qk,qk->q", mine[at], totals[what[pairs]])
    # The user's own entered with the weight that its memberships have with themselves.
    return np.maximum(out - _with_itself(members)[user] * lookup(counts, user, what), 0.0)


def _with_itself(members: csr_matrix) -> Floats:
    """Diagonal of ``A A^T``."""
    return np.asarray(members.multiply(members).sum(axis=1)).reshape(-1)


def lookup(counts: csr_matrix, row: Ints, column: Ints) -> Floats:
    """Entries ``[Q]`` of a sparse matrix."""
    if not len(row):
        return np.zeros(0)
    return np.asarray(counts[row, column], dtype=np.float64).reshape(-1)


def _blocks(n: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK_CELLS // max(1, width))
    for first in range(0, n, step):
        yield first, min(n, first + step)
