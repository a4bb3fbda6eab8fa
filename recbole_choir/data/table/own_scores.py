"""The user's own score of the target item: the control that every gain of neighbours has to beat.

A user's vector and an item's in a space of behaviour, made before the row's snapshot, and their
product. It knows what the user's own past says and nothing of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.cross_statistics import CrossStatistics
from recbole_choir.data.statistics import Events

_BLOCK: Final = 65_536


@dataclass(frozen=True)
class OwnVectors:
    """Vectors of one space at every snapshot.

    Args:
        space: Its name.
        users: float32 ``[S + 1, n_users, d]``; zeros: none.
        items: float32 ``[S + 1, n_items, d]``; zeros: none.
    """

    space: str
    users: NDArray[np.float32]
    items: NDArray[np.float32]


def own_scores(
    rows: Events, snapshot: NDArray[np.integer], spaces: Sequence[OwnVectors]
) -> CrossStatistics:
    """Products of the user's and the item's vectors as of each row's snapshot.

    Args:
        rows: The rows to describe; their labels are not read.
        snapshot: ``[N]`` newest snapshot strictly before each row, 0 for none.
        spaces: One column each.

    Returns:
        Raw scores ``[N, spaces]``; unknown where user or item has no vector.
    """
    values = np.zeros((len(rows), len(spaces)))
    known = np.zeros(values.shape, dtype=bool)
    for column, space in enumerate(spaces):
        for first in range(0, len(rows), _BLOCK):
            at = slice(first, first + _BLOCK)
            u = space.users[snapshot[at], rows.user[at]]  # [block, d]
            i = space.items[snapshot[at], rows.item[at]]
            values[at, column] = np.einsum("nd,nd->n", u, i, dtype=np.float64)
            known[at, column] = u.any(axis=1) & i.any(axis=1)
    return CrossStatistics(values, known, tuple(f"own_score_{space.space}" for space in spaces))
