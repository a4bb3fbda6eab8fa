"""Statistics of items in words, each as of the event that they describe."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.asof import asof_sum
from recbole_choir.semantic.frames.frames import ITEM_ID, LABEL, TIMESTAMP, Frames
from recbole_choir.semantic.interest.history import Histories, row_of

#: Exposures before the event at which the next word begins. They do not depend on the data, so an
#: event keeps its words at all snapshots.
SHOWN_EDGES: Final = (1, 10, 100, 1000)
SHOWN_WORDS: Final = ("new", "rarely shown", "known", "popular", "very popular")

#: The item's positive rate over that of all items, shrunk by ``PRIOR`` exposures.
RATE_EDGES: Final = (0.5, 0.8, 1.25, 2.0)
RATE_WORDS: Final = ("hardly liked", "less liked", "", "more liked", "much liked")
PRIOR: Final = 20.0


def event_levels(
    frames: Frames, histories: Histories, item_ids: NDArray[np.object_]
) -> NDArray[np.int64]:
    """Level of exposure and of positive rate of each event's item, strictly before the event.

    ::

        n, p    exposures and positives of the item before the event; r the rate of all items
        rate    ((p + m r) / (n + m)) / r

    What is said of an event is what could be known when it happened: neither its own label nor
    anything later is in it, and a later snapshot says the same.

    Args:
        frames: All interactions, positives and others.
        histories: The events described.
        item_ids: object [I] ids of the rows that events name.

    Returns:
        int64 [E, 2]: entries of ``SHOWN_WORDS`` and of ``RATE_WORDS``.

    References:
        AKT-Rec, section 3.1.1 (statistics in discrete levels).
    """
    rows = frames.interactions
    item = row_of(item_ids, rows[ITEM_ID].to_numpy(dtype=object))
    time = rows[TIMESTAMP].to_numpy(dtype=np.float64)
    positive = (rows[LABEL].to_numpy(dtype=np.float64) > 0).astype(np.float64)
    weight = np.stack([np.ones(len(rows)), positive], axis=1)  # [N, 2]
    known = item >= 0
    own = asof_sum(item[known], time[known], histories.item, histories.time, weight[known])
    zero = np.zeros(len(histories.item), np.int64)
    everyone = asof_sum(np.zeros(len(rows), np.int64), time, zero, histories.time, weight)
    base = (everyone[:, 1] + 1.0) / (everyone[:, 0] + 2.0)
    rate = (own[:, 1] + PRIOR * base) / (own[:, 0] + PRIOR) / base
    return np.stack(
        [
            np.searchsorted(SHOWN_EDGES, own[:, 0], side="right"),
            np.searchsorted(RATE_EDGES, rate, side="right"),
        ],
        axis=1,
    ).astype(np.int64)
