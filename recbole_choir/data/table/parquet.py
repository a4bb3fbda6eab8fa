"""Columns of a parquet file, checked where they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recbole_choir.errors import TableError, nearest

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """A file's columns, and its path for messages.

    Args:
        path: Where it was read.
        table: The columns, one chunk each.
    """

    path: Path
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def ints(self, name: str) -> NDArray[np.int64]:
        """A column of whole numbers without gaps, as int64."""
        column = self._column(name)
        if not pa.types.is_integer(column.type) or column.null_count:
            raise TableError(
                f"{self.path}: expected whole numbers in column '{name}',"
                f" got {column.type} with {column.null_count} empty"
            )
        return column.to_numpy(zero_copy_only=False).astype(np.int64)

    def floats(self, name: str) -> NDArray[np.float64]:
        """A numeric column as float64, NaN where empty."""
        column = self._column(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise TableError(f"{self.path}: expected numbers in column '{name}', got {column.type}")
        return pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)

    def strings(self, name: str) -> pa.Array:
        """A column of texts; empty places stay null."""
        column = self._column(name)
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_null(column.type):
            return pc.cast(column, pa.string())
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise TableError(f"{self.path}: expected text in column '{name}', got {column.type}")
        return pc.cast(column, pa.string())

    def lists(self, name: str) -> tuple[pa.Array, NDArray[np.int64]]:
        """A column of lists of texts: all values in a row, and the length of each list."""
        column = self._column(name)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise TableError(
                f"{self.path}: expected lists of text in column '{name}', got {column.type}"
            )
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        values = pc.cast(pc.list_flatten(column), pa.string())
        return values, lengths.to_numpy(zero_copy_only=False).astype(np.int64)

    def _column(self, name: str) -> Any:
        return self.table.column(name).combine_chunks()


def read_columns(path: Path, names: Sequence[str], everything: bool = False) -> Columns:
    """Read a parquet file.

    Args:
        path: The file.
        names: Columns that must be there.
        everything: Also keep the other columns.

    Raises:
        TableError: The file is missing or damaged, or lacks a column.
    """
    if not path.is_file():
        raise TableError(f"{path.parent}: expected a file {path.name}, found none")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise TableError(
            f"{path}: not a readable parquet file: {' '.join(str(error).split())}"
        ) from None
    for name in names:
        if name not in table.column_names:
            known = table.column_names
            raise TableError(
                f"{path}: expected a column '{name}', got {known}{nearest(name, known)}"
            )
    return Columns(path, table if everything else table.select(list(names)))


def examples(values: Iterable[Any], n: int = 3) -> str:
    """The first few distinct values, for a message."""
    seen = list(islice(dict.fromkeys(values), n))
    return ", ".join(repr(v.item() if isinstance(v, np.generic) else v) for v in seen)


@dataclass(frozen=True)
class Texts:
    """A column of ids, each different text once.

    Args:
        values: ``[D]`` the texts.
        at: int64 ``[rows]`` positions in ``values``.
    """

    values: pa.Array
    at: Ints

    @classmethod
    def of(cls, columns: Columns, name: str) -> Texts:
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
