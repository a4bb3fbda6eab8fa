"""From the raw ids of a semantic table to the internal ids of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_choir import table_format as tf
from recbole_choir.data.table.parquet import Ints, Texts, examples
from recbole_choir.errors import TableError


@dataclass(frozen=True)
class IdStamp:
    """What the maker of a table knew of a set of ids.

    Args:
        rows: How many ids.
        fingerprint: ``table_format.fingerprint_ids`` of them.
    """

    rows: int | None
    fingerprint: str


def check_stamps(path: Path, stamps: Mapping[str, IdStamp], ids: Mapping[str, pa.Array]) -> None:
    """Compare the ids that the table was made for with the dataset's.

    Args:
        path: The table's folder, for the message.
        stamps: Of the table; one without any passes.
        ids: ``users`` or ``items``, or both, to the dataset's raw ids.

    Raises:
        TableError: The fingerprints differ.
    """
    for name, raw in ids.items():
        stamp = stamps.get(name)
        if stamp is None:
            continue
        got = tf.fingerprint_ids(raw.to_pylist())
        if got != stamp.fingerprint:
            raise TableError(
                f"{path}: made for {stamp.rows} {name} with fingerprint {stamp.fingerprint},"
                f" but the dataset has {len(raw)} {name} with fingerprint {got}:"
                " the table belongs to other data or another filter of it"
            )


def internal_ids(raw: pa.Array, vocabulary: pa.Array) -> NDArray[np.int64]:
    """Internal id of each raw id, 0 where the vocabulary lacks it.

    Args:
        raw: Raw ids.
        vocabulary: Raw id of each internal id from 1 on.
    """
    found = pc.fill_null(pc.index_in(raw, vocabulary), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int64) + 1


def check_known(path: Path, name: str, raw: pa.Array, ids: NDArray[np.int64], n_known: int) -> None:
    """Refuse ids that the dataset does not have.

    Args:
        path: The table's folder, for the message.
        name: What they are, for the message.
        raw, ids: Raw ids and the internal ones, see :func:`internal_ids`.
        n_known: Size of the vocabulary.

    Raises:
        TableError: With examples.
    """
    unknown = ids == 0
    if unknown.any():
        lost = pc.unique(pc.filter(raw, pa.array(unknown)))
        raise TableError(
            f"{path}: {len(lost)} {name} of the table are not among the dataset's {n_known},"
            f" such as {examples(lost[:3].to_pylist())}"
        )


def known_ids(path: Path, what: str, texts: Texts, known: pa.Array) -> Ints:
    """Internal ids of a column of ids, all of which the vocabulary must have."""
    ids = internal_ids(texts.values, known)
    used = np.unique(texts.at)
    check_known(path, what, texts.values.take(pa.array(used)), ids[used], len(known))
    return ids[texts.at]
