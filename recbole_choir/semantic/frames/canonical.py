"""Checking the frames given to ``build`` and bringing them into one form."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recbole_choir.errors import DataError, nearest
from recbole_choir.semantic.frames.fingerprint import fingerprint_columns
from recbole_choir.semantic.frames.frames import (
    ITEM_ID,
    LABEL,
    QUERY,
    TIMESTAMP,
    USER_ID,
    Frames,
    outcome_columns,
)
from recbole_choir.table_format import fingerprint_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedFrames:
    """Frames as :func:`prepare_frames` checked, sorted and fingerprinted them.

    Args:
        frames: In one form and order.
        inputs: Their rows and fingerprints, of :func:`describe_inputs`.
    """

    frames: Frames
    inputs: dict[str, Any]


def prepare_frames(
    interactions: pd.DataFrame, users: pd.DataFrame | None, items: pd.DataFrame | None
) -> PreparedFrames:
    """Check, sort and fingerprint the frames once, for the key of a table and for building it.

    Args:
        interactions, users, items: As :func:`recbole_choir.semantic.build` takes them.

    Raises:
        DataError: A frame is wrong, see :func:`canonical_frames`.
    """
    frames = canonical_frames(interactions, users, items)
    return PreparedFrames(frames, describe_inputs(frames))


def canonical_frames(
    interactions: pd.DataFrame, users: pd.DataFrame | None, items: pd.DataFrame | None
) -> Frames:
    """Check the frames and put them into an order that does not depend on that of their rows.

    Args:
        interactions: ``user_id``, ``item_id``, ``timestamp`` (epoch seconds), ``label`` (0 or 1),
            optionally ``query``, and columns of 0 and 1 that say what else came of an event
            (``conversion``, ``cart``); others are dropped.
        users: ``user_id`` and attributes; None if there are none.
        items: ``item_id``, optionally ``title``, ``category`` and others; None if there are none.

    Returns:
        Frames with sorted rows. Users and items that only the interactions name are added without
        attributes, with a log line that counts them.

    Raises:
        DataError: A column is missing, an id, time or label is missing, a label is not 0 or 1, an
            id has two rows, or there are no interactions.
    """
    for column in (USER_ID, ITEM_ID, TIMESTAMP, LABEL):
        _require(interactions, "interactions", column)
    if len(interactions) == 0:
        raise DataError("interactions: expected at least one row, got none")
    kept = [USER_ID, ITEM_ID, TIMESTAMP, LABEL]
    if QUERY in interactions.columns:
        kept.append(QUERY)
    outcomes = outcome_columns(interactions)
    kept += outcomes
    rows = interactions[kept].copy()
    for column in outcomes:
        rows[column] = rows[column].astype(np.float64).fillna(0.0)
    for column in (USER_ID, ITEM_ID):
        rows[column] = _ids(rows[column], f"interactions.{column}")
    rows[TIMESTAMP] = _numbers(rows[TIMESTAMP], f"interactions.{TIMESTAMP}")
    rows[LABEL] = _labels(rows[LABEL])
    rows = _sorted(rows, kept)
    return Frames(
        rows, canonical_users(users, rows[USER_ID]), canonical_items(items, rows[ITEM_ID])
    )


def canonical_users(users: pd.DataFrame | None, named: pd.Series) -> pd.DataFrame:
    """One sorted row per user of the frame or named by an interaction.

    Floating point columns are continuous attributes; all others become text, None where missing.
    """
    if users is not None:
        users = users.copy()
        for field in users.columns:
            # Adding a user without attributes would turn whole numbers into 7.0: as text they stay.
            if field != USER_ID and not pd.api.types.is_float_dtype(users[field]):
                users[field] = _as_text(users[field])
    out = _entities(users, USER_ID, "users", named)
    for field in out.columns.drop(USER_ID):
        if not pd.api.types.is_float_dtype(out[field]):
            out[field] = out[field].astype(object).where(out[field].notna(), None)
    return out


def canonical_items(items: pd.DataFrame | None, named: pd.Series) -> pd.DataFrame:
    """One sorted row per item of the frame or named by an interaction."""
    return _entities(items, ITEM_ID, "items", named)


def describe_inputs(frames: Frames) -> dict[str, Any]:
    """Rows and fingerprints of canonical frames.

    ``fingerprint`` of users and items is that of their ids (the reader compares it with the
    dataset's vocabulary), ``content`` covers their attributes as well.
    """
    events = frames.interactions
    out: dict[str, Any] = {
        "interactions": {
            "rows": len(events),
            "fingerprint": fingerprint_columns(events, list(events.columns)),
        }
    }
    for name, frame, key in (("users", frames.users, USER_ID), ("items", frames.items, ITEM_ID)):
        out[name] = {
            "rows": len(frame),
            "fingerprint": fingerprint_ids(frame[key]),
            "content": fingerprint_columns(frame, sorted(frame.columns)),
        }
    return out


def _require(frame: pd.DataFrame, where: str, column: str) -> None:
    if column not in frame.columns:
        known = [str(c) for c in frame.columns]
        raise DataError(
            f"{where}: expected a column '{column}', got {', '.join(known)}{nearest(column, known)}"
        )


def _ids(values: pd.Series, where: str) -> pd.Series:
    missing = int(values.isna().sum())
    if missing:
        raise DataError(f"{where}: expected an id in every row, got {missing} missing")
    if pd.api.types.is_float_dtype(values):
        # 7.0 and "7" would be two users: a float column of ids is a reading mistake.
        raise DataError(f"{where}: expected ids as text or whole numbers, got {values.dtype}")
    return values.astype(str).astype(object)


def _numbers(values: pd.Series, where: str) -> pd.Series:
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: expected numbers, got {values.dtype}") from None
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise DataError(f"{where}: expected a finite number in every row, got {bad} without")
    return numbers


def _labels(values: pd.Series) -> pd.Series:
    numbers = _numbers(values, f"interactions.{LABEL}")
    strange = numbers[~numbers.isin((0.0, 1.0))]
    if len(strange):
        raise DataError(
            f"interactions.{LABEL}: expected 0 or 1, got {strange.iloc[0]:g} ({len(strange)} rows)"
        )
    return numbers.astype(np.int64)


def _entities(frame: pd.DataFrame | None, key: str, where: str, named: pd.Series) -> pd.DataFrame:
    """One sorted row per id, with those that only the interactions name added."""
    given = pd.DataFrame({key: pd.Series(dtype=object)}) if frame is None else frame.copy()
    _require(given, where, key)
    given[key] = _ids(given[key], f"{where}.{key}")
    twice = given.loc[given[key].duplicated(), key]
    if len(twice):
        raise DataError(f"{where}.{key}: expected one row an id, got '{twice.iloc[0]}' twice")
    known = pd.Index(given[key])
    extra = pd.Index(named.unique()).difference(known)
    if len(extra) and frame is not None:
        logger.warning(
            "%s: %d ids occur in the interactions alone and have no attributes", where, len(extra)
        )
    ids = np.sort(np.asarray(known.append(extra), object))
    return given.set_index(key).reindex(pd.Index(ids, name=key)).reset_index()


def _as_text(values: pd.Series) -> pd.Series:
    """Values as text, None where missing; lists stay lists."""
    return pd.Series(
        [
            v if isinstance(v, list | tuple | np.ndarray) else None if pd.isna(v) else str(v)
            for v in values
        ],
        index=values.index,
        dtype=object,
    )


def _sorted(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rows in the order of all their columns: equal sets of rows give equal frames."""
    if QUERY in columns:
        rows[QUERY] = rows[QUERY].astype(object).where(rows[QUERY].notna(), "").astype(str)
    return rows.sort_values(columns, kind="stable").reset_index(drop=True)
