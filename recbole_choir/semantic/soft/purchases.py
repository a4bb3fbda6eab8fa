"""All purchases as numbers, once: what every snapshot counts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.semantic.frames.frames import ITEM_ID, TIMESTAMP, USER_ID, Frames
from recbole_choir.semantic.frames.matrices import positions
from recbole_choir.settings.soft import ITEMS, TEXT_SPACES

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Purchases:
    """Positives in the order of time.

    Args:
        user, item: int64 ``[E]`` rows of ``frames.users`` and ``frames.items``.
        time: float64 ``[E]``, ascending.
        n_users, n_items: Sizes of the frames.
    """

    user: Ints
    item: Ints
    time: NDArray[np.float64]
    n_users: int
    n_items: int

    @classmethod
    def of(cls, frames: Frames) -> Purchases:
        """Read the frames; events of users or items without a row are left out."""
        bought = frames.positives
        user = positions(bought[USER_ID], pd.Index(frames.users[USER_ID].to_numpy(object)))
        item = positions(bought[ITEM_ID], pd.Index(frames.items[ITEM_ID].to_numpy(object)))
        time = bought[TIMESTAMP].to_numpy(np.float64)
        order = np.argsort(time, kind="stable")
        order = order[(user[order] >= 0) & (item[order] >= 0)]
        return cls(
            user[order].astype(np.int64),
            item[order].astype(np.int64),
            time[order],
            len(frames.users),
            len(frames.items),
        )

    def before(self, time: float) -> csr_matrix:
        """How often each user bought each item strictly before ``time``: ``[n_users, n_items]``."""
        end = int(np.searchsorted(self.time, time, "left"))
        counts = csr_matrix(
            (np.ones(end), (self.user[:end], self.item[:end])), shape=(self.n_users, self.n_items)
        )
        counts.sum_duplicates()
        return counts


def values_of_items(frames: Frames, field: str) -> csr_matrix:
    """Which values of a field each item has: ``[n_items, n_values]`` of ones.

    Args:
        frames: Its items alone are read.
        field: ``items`` for the items themselves, or a column: one value, or a list of them.

    Raises:
        ConfigError: The items have no such field.
    """
    n = len(frames.items)
    if field == ITEMS:
        return csr_matrix((np.ones(n), (np.arange(n), np.arange(n))), shape=(n, n))
    known = [str(c) for c in frames.items.columns if c != ITEM_ID]
    if field not in known:
        names = [ITEMS, *TEXT_SPACES, *known]
        raise ConfigError(
            f"recipe.soft.spaces: expected any of {', '.join(names)}, got '{field}'"
            f"{nearest(field, names)}"
        )
    values = frames.items[field].reset_index(drop=True).explode().dropna()
    codes, distinct = pd.factorize(values.astype(str).to_numpy(object), sort=True)
    out = csr_matrix((np.ones(len(codes)), (values.index, codes)), shape=(n, len(distinct)))
    out.sum_duplicates()
    out.data[:] = 1.0
    return out
