"""Whom an id may learn from: ids of the opposite class, head or tail, in its cluster."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("recbole_choir")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Partners:
    """Lists of ids, of which ids of one cluster and class share one.

    Args:
        start, end: int64 ``[n]`` range of each id's list in ``ids``.
        ids: int64 ``[P]``: all lists of clusters, then all lists of prefixes; each ascending.
        cumulative: float64 ``[P + 1]`` cumulative weights.
    """

    start: Ints
    end: Ints
    ids: Ints
    cumulative: NDArray[np.float64]

    @classmethod
    def build(
        cls,
        home: Ints,
        prefix: Ints,
        tail: NDArray[np.bool_],
        rows: Ints,
        belongs: Ints | None = None,
    ) -> Partners:
        """List the opposite class of each cluster and prefix, over the whole vocabulary.

        An id takes the list of its cluster; where that has nobody of the opposite class, the list
        of its prefix; else none. Only ids with a training row are listed. An id without one has a
        list all the same: there it finds the heads of its cluster.

        Args:
            home: int64 ``[n]`` cluster of each id, 0 for none.
            prefix: int64 ``[n]`` number of the first two codes, 0 for unknown.
            tail: bool ``[n]``.
            rows: int64 ``[n]`` training rows of each id; 0 for the padding id.
            belongs: int64 ``[n, k]`` all clusters that each id is a member of, 0 for none; its own
                by default.

        Returns:
            The lists; a head weighs the square root of its training rows, a tail 1.

        References:
            AKT-Rec Eq. 4; PAPER_GAPS A3, A4.
        """
        belongs = home[:, None] if belongs is None else belongs
        by_cluster, start, end = _opposite(home, belongs, tail, rows)
        by_prefix, start_2, end_2 = _opposite(prefix, prefix[:, None], tail, rows)
        backs_off = (end == start) & (end_2 > start_2)
        start = np.where(backs_off, start_2 + len(by_cluster), start)
        end = np.where(backs_off, end_2 + len(by_cluster), end)
        ids = np.concatenate([by_cluster, by_prefix])
        weight = np.where(tail[ids], 1.0, np.sqrt(rows[ids]))
        seen = rows > 0
        logger.info(
            "partners across head and tail: %d of %d ids in training have one in their cluster,"
            " %d in its prefix",
            int((seen & (end > start) & ~backs_off).sum()), int(seen.sum()),
            int((seen & backs_off).sum()),
        )  # fmt: skip
        return cls(start, end, ids, np.append(0.0, np.cumsum(weight)))


def _opposite(
    key: Ints, belongs: Ints, tail: NDArray[np.bool_], rows: Ints
) -> tuple[Ints, Ints, Ints]:
    """Members sorted by (key, class), and the range of the opposite class for each id."""
    member, column = np.nonzero((rows > 0)[:, None] & (belongs > 0))
    place = belongs[member, column] * 2 + tail[member]
    order = np.argsort(place, kind="stable")
    member, place = member[order], place[order]
    wanted = key * 2 + ~tail
    start = np.searchsorted(place, wanted, "left").astype(np.int64)
    end = np.searchsorted(place, wanted, "right").astype(np.int64)
    return member.astype(np.int64), np.where(key > 0, start, 0), np.where(key > 0, end, 0)
