"""Attribute fields of RecBole's frames as tensors, and atomic files as they were written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recbole_choir.data.table.group_tables import Scale
from recbole_choir.errors import DataError, nearest
from recbole_choir.files import parse_json

logger = logging.getLogger("recbole_choir")

MANIFEST = "manifest.json"  # of dataset_adapters


def has_sampled_negatives(given: Any, folder: str | Path) -> bool:
    """Tell whether rows with label 0 were drawn rather than shown to the user.

    Args:
        given: The key ``sampled_negatives``: True or False, or None to ask the manifest that an
            adapter left next to the atomic files.
        folder: The dataset's own folder.

    Returns:
        What was given, else what the manifest says; False without one.
    """
    if given is not None:
        return bool(given)
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return False
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("%s: not readable (%s), its negatives are taken as observed", path, error)
        return False
    return isinstance(manifest, dict) and bool(manifest.get("negatives"))


def in_share(users: pd.Series, share: float, seed: int) -> NDArray[np.bool_]:
    """Decide which rows belong to users of the share.

    Adapters have a hash of their own (``dataset_adapters.user_share``), of numbers, without the
    texts of a log's users. This one chose the users of recorded results, that one those of folders
    that are converted already: with one hash for both, some of them would be other users.

    The id alone decides (a hash of it and the seed), so the order of rows, other users and the
    machine change nothing, and a larger share holds the smaller ones of its seed. Popularity and
    statistics are then those of the share: nothing of the other users is left.

    Args:
        users: ``[N]`` ids as in the files.
        share: From 0 to 1.
        seed: Another seed chooses other users.

    Returns:
        ``[N]``.
    """
    codes, distinct = pd.factorize(users.astype(str))
    names: Any = np.asarray(distinct, dtype=object)
    hashed = pd.util.hash_array(names, hash_key=f"{seed % 10**16:016d}", categorize=False)
    return np.asarray((hashed < share * 2.0**64)[codes], dtype=bool)


def token_array(values: pd.Series, size: int, name: str) -> torch.Tensor:
    """A token column as int64 ``[n]`` ids.

    Raises:
        DataError: An id is outside the vocabulary.
    """
    ids = values.to_numpy().astype(np.int64)
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= size):
        raise DataError(f"field '{name}': expected ids in [0, {size}), got {int(ids.min())}")
    return torch.from_numpy(ids)


def token_seq_array(values: pd.Series, length: int) -> torch.Tensor:
    """A token_seq column as int64 ``[n, k]`` ids, padded with 0 on the right.

    Args:
        values: One array of ids a row; missing ones are NaN.
        length: k, RecBole's ``field2seqlen``; longer lists are cut there, as RecBole does.
    """
    lists = [v if isinstance(v, np.ndarray) else _NONE for v in values.to_numpy()]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    flat = np.concatenate([*lists, _NONE]).astype(np.int64)
    row = np.repeat(np.arange(len(lists)), lengths)
    slot = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out = np.zeros((len(lists), max(1, length)), dtype=np.int64)
    kept = slot < out.shape[1]
    out[row[kept], slot[kept]] = flat[kept]
    return torch.from_numpy(out)


_NONE = np.array([], dtype=np.int64)


def standardized(values: NDArray[np.float64], fitted: NDArray[np.float64]) -> torch.Tensor:
    """A float column as float32, standardised; a missing value becomes 0, the mean.

    Args:
        values: ``[n]`` with NaN where missing.
        fitted: Values of the training rows.
    """
    scale = fit_scale(fitted)
    out = (values - scale.mean) / scale.std
    return torch.from_numpy(np.nan_to_num(out, nan=0.0).astype(np.float32))


def fit_scale(fitted: NDArray[np.float64]) -> Scale:
    """Mean and standard deviation of the values that are there; (0, 1) where none is."""
    present = fitted[np.isfinite(fitted)]
    if not len(present):
        return Scale(0.0, 1.0)
    std = float(present.std())
    return Scale(float(present.mean()), std if std > 1e-8 else 1.0)


def read_header(path: Path, separator: str, encoding: str | None) -> dict[str, str]:
    """Field -> type of an atomic file."""
    with open(path, encoding=encoding) as file:
        names = file.readline().rstrip("\n").split(separator)
    return {f: t for f, _, t in (name.partition(":") for name in names)}


def read_atomic(
    path: Path, fields: Sequence[str], separator: str, encoding: str | None
) -> pd.DataFrame:
    """Read columns of an atomic file as texts, missing ones as None.

    Args:
        path: The file.
        fields: Names without types, in the order wanted.
        separator, encoding: RecBole's ``field_separator`` and ``encoding``.

    Raises:
        DataError: The file or a field is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected it for the fields {', '.join(fields)}")
    types = read_header(path, separator, encoding)
    for name in fields:
        if name not in types:
            raise DataError(
                f"{path}: expected a field '{name}', got {', '.join(types)}{nearest(name, types)}"
            )
    columns = [f"{name}:{types[name]}" for name in fields]
    frame = pd.read_csv(
        path,
        sep=separator,
        usecols=columns,
        dtype=str,
        encoding=encoding,
        engine="c" if len(separator) == 1 else "python",
    )[columns]
    frame.columns = pd.Index(fields)
    frame = frame.astype(object)
    return frame.where(frame.notna(), None)


def aligned(frame: pd.DataFrame, id_field: str, ids: NDArray[Any]) -> pd.DataFrame:
    """Rows of ``frame`` for each id, in the order of ``ids``; None where the frame has none."""
    first = frame.drop_duplicates(id_field, keep="first").set_index(id_field)
    out = first.reindex(ids).astype(object)
    out = out.where(out.notna(), None)
    out.index.name = id_field
    return out.reset_index()
