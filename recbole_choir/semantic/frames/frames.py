"""What a snapshot may know: interactions before a moment, users and items, as plain data frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from recbole_choir.errors import DataError, nearest

USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
TIMESTAMP: Final = "timestamp"
LABEL: Final = "label"
QUERY: Final = "query"
TITLE: Final = "title"
CATEGORY: Final = "category"


@dataclass(frozen=True)
class Frames:
    """The data one snapshot is made from, with everything at or after ``time`` left out.

    The rows that are too late are dropped on construction, so that nothing built from a ``Frames``
    can see them by accident. Ids are raw ids as text; ids of another type are turned into text.

    Args:
        interactions: One row an event, in any order: ``user_id``, ``item_id``, ``timestamp``
            (epoch seconds, float64), ``label`` (an event is positive where it is > 0) and
            optionally ``query`` (text).
        users: One row a user: ``user_id`` and attribute columns.
        items: One row an item: ``item_id`` and optionally ``title`` (text), ``category``
            (a list of names, coarse to fine, or one name) and others.
        time: The moment of the snapshot in epoch seconds; ``inf`` (all events) by default.

    Raises:
        DataError: A column is missing, a timestamp or id is missing, or a user or item has two
            rows.
    """

    interactions: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    time: float = float("inf")

    def __post_init__(self) -> None:
        if self.time != self.time:
            raise DataError("Frames: expected a time in epoch seconds, got nan")
        interactions = _checked(self.interactions, "interactions", (USER_ID, ITEM_ID))
        for name in (TIMESTAMP, LABEL):
            _require(interactions, "interactions", name)
        n_missing = int(interactions[TIMESTAMP].isna().sum())
        if n_missing:
            raise DataError(f"interactions.{TIMESTAMP}: expected a number, got {n_missing} missing")
        early = (interactions[TIMESTAMP] < self.time).to_numpy(dtype=bool)
        if not early.all():
            interactions = interactions.loc[early]
        object.__setattr__(self, "interactions", interactions)
        object.__setattr__(self, "users", _checked(self.users, "users", (USER_ID,), unique=True))
        object.__setattr__(self, "items", _checked(self.items, "items", (ITEM_ID,), unique=True))

    @property
    def positives(self) -> pd.DataFrame:
        """The interactions whose label is > 0."""
        return self.interactions.loc[(self.interactions[LABEL] > 0).to_numpy(dtype=bool)]

    def before(self, time: float) -> Frames:
        """The same users and items with the events strictly before ``time``.

        Args:
            time: Epoch seconds, at most ``self.time``: later events are not known here.

        Raises:
            DataError: ``time`` is later than ``self.time``.
        """
        if time > self.time:
            raise DataError(f"Frames.before: expected a time <= {self.time}, got {time}")
        return Frames(self.interactions, self.users, self.items, time)


def outcome_columns(interactions: pd.DataFrame) -> list[str]:
    """Columns of 0 and 1 next to the known ones: what else came of an event (``conversion``).

    Missing values count as 0. In the order of their names.
    """
    known = (USER_ID, ITEM_ID, TIMESTAMP, LABEL, QUERY)
    return sorted(
        str(name)
        for name, values in interactions.items()
        if name not in known
        and (pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values))
        and bool(values.dropna().isin((0, 1)).all())
        and bool(values.notna().any())
    )


def _require(frame: pd.DataFrame, where: str, column: str) -> None:
    if column not in frame.columns:
        known = [str(c) for c in frame.columns]
        raise DataError(
            f"{where}: expected a column {column!r}, got {known}{nearest(column, known)}"
        )


def _checked(
    frame: pd.DataFrame, where: str, id_columns: tuple[str, ...], *, unique: bool = False
) -> pd.DataFrame:
    """The frame with its id columns as text; an error where an id is missing or repeated."""
    for column in id_columns:
        _require(frame, where, column)
        ids = frame[column]
        n_missing = int(ids.isna().sum())
        if n_missing:
            raise DataError(f"{where}.{column}: expected an id in every row, got {n_missing} empty")
        if not pd.api.types.is_string_dtype(ids):
            frame = frame.assign(**{column: ids.astype(str)})
        if unique and frame[column].duplicated().any():
            twice = frame.loc[frame[column].duplicated(), column].iloc[0]
            raise DataError(f"{where}.{column}: expected one row an id, got {twice!r} twice")
    return frame
