"""Fingerprints of frames that do not depend on the order of rows, pandas or parquet versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

_LENGTH = 16


def fingerprint_columns(frame: pd.DataFrame, columns: Iterable[str]) -> str:
    """Fingerprint of some columns of a frame, in the frame's order of rows.

    Numbers are hashed as float64 or int64, lists as JSON, all else as text; missing values are
    told apart from empty text.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in columns:
        digest.update(f"{name}\0{len(frame)}\0".encode())
        digest.update(_bytes_of(frame[name]))
    return digest.hexdigest()[:_LENGTH]


def fingerprint_json(value: Mapping[str, Any]) -> str:
    """Fingerprint of plain values, whatever the order of keys: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def _bytes_of(values: pd.Series) -> bytes:
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_integer_dtype(values):
        if not values.isna().any():
            return values.to_numpy(np.int64).tobytes()
    elif pd.api.types.is_float_dtype(values):
        numbers = values.to_numpy(np.float64, na_value=np.nan) + 0.0  # -0.0 is 0.0
        numbers[np.isnan(numbers)] = np.nan  # one pattern of bits for nan
        return numbers.tobytes()
    return "\0".join(values.map(_text_of).tolist()).encode("utf-8", "surrogatepass")


def _text_of(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return json.dumps([str(v) for v in value])
    # NaN and NA compare unequal to themselves or to nothing at all.
    return "\1" if value is None or value is pd.NA or value != value else str(value)
