"""Fingerprints of frames that do not depend on the order of rows, pandas or parquet versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.util import hash_array

from recbole_choir.semantic.frames.frames import Frames

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


def fingerprint_frames(frames: Frames) -> str:
    """Fingerprint of all that a snapshot may know, in the frames' order of rows, and of its time.

    For what is kept from run to run on one machine: ids are hashed by pandas, whose hash is fast
    but no part of a table's form.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256(float(frames.time).hex().encode())
    for name in sorted(frames.interactions.columns):
        values = frames.interactions[name]
        digest.update(f"{name}\0{len(values)}\0".encode())
        if pd.api.types.is_numeric_dtype(values):
            digest.update(values.to_numpy(np.float64, na_value=np.nan).tobytes())
        else:
            digest.update(hash_array(values.to_numpy(object)).tobytes())
    for frame in (frames.users, frames.items):
        digest.update(fingerprint_columns(frame, sorted(frame.columns)).encode())
    return digest.hexdigest()[:32]


def _bytes_of(values: pd.Series) -> bytes:
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_integer_dtype(values):
        if not values.isna().any():
            return values.to_numpy(np.int64).tobytes()
    elif pd.api.types.is_float_dtype(values):
        numbers = values.to_numpy(np.float64, na_value=np.nan) + 0.0  # -0.0 is 0.0
        numbers[np.isnan(numbers)] = np.nan  # one pattern of bits for nan
        return numbers.tobytes()
    # all text: nothing to turn (a column of strings may hold missing ones and be called so too)
    if pd.api.types.infer_dtype(values, skipna=False) == "string" and not values.isna().any():
        return "\0".join(values.tolist()).encode("utf-8", "surrogatepass")
    return "\0".join(values.map(_text_of).tolist()).encode("utf-8", "surrogatepass")


def _text_of(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return json.dumps([str(v) for v in value])
    # NaN and NA compare unequal to themselves or to nothing at all.
    return "\1" if value is None or value is pd.NA or value != value else str(value)
