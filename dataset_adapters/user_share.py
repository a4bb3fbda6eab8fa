"""A recorded share of the users of a log too large for one machine, decided id by id."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError

# Constants of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), whose bits pass for random.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def check_share(name: str, share: Any) -> None:
    """Refuse a share that is none.

    Raises:
        DataError: It is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise DataError(
            f"{name}: option 'user_share': expected a share above 0 and at most 1, got {share}"
        )


def in_share(users: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Decide which users belong to a share, from their ids alone.

    A run's own ``user_share`` has a hash of texts (``integration.feature_arrays.in_share``). That
    one chose the users of recorded results, this one those of folders that are converted already:
    with one hash for both, some of them would be other users.

    Nothing needs to be known of other users, so a log is read once, in any order and in chunks.
    A larger share holds the smaller ones of its seed.

    Args:
        users: ``[N]`` ids.
        share: From 0 to 1.
        seed: Another seed chooses other users.

    Returns:
        ``[N]``.
    """
    if share >= 1:
        return np.ones(len(users), dtype=bool)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        mixed = users.astype(np.uint64) ^ (np.uint64(seed + 1) * _STEP)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
        mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) < share * 2.0**53)


def first_of_items(known: pd.DataFrame | None, chunk: pd.DataFrame) -> pd.DataFrame:
    """Keep the first row of each item over chunks; memory grows with items, not with rows.

    Args:
        known: What earlier chunks left, with a column ``item``; None at the start.
        chunk: The same columns.
    """
    both = chunk if known is None else pd.concat([known, chunk], ignore_index=True)
    return both.drop_duplicates("item", ignore_index=True)


def blank_rows(kind: str, ids: set[str], columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows of empty cells for users or items that the raw files do not describe.

    RecBole leaves out the interactions of ids that a side table lacks.

    Args:
        kind: ``user`` or ``item``.
        ids: Those that are left.
        columns: The other columns, with types.
    """
    left = pd.DataFrame({f"{kind}_id:token": sorted(ids)}, dtype=object)
    return left.assign(**dict.fromkeys(columns, ""))
