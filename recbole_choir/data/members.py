"""Members of the groups of a joined table, by the rule of :mod:`recbole_choir.prefix_groups`."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_choir.prefix_groups import memberships

logger = logging.getLogger("recbole_choir")

Ints = NDArray[np.int64]


def belongs_to(
    read: NDArray[np.integer], codes: NDArray[np.integer], level: NDArray[np.integer] | None
) -> Ints:
    """All groups that each id of one snapshot is a member of.

    Args:
        read: ``[n]`` group row of each id, 0 for none.
        codes: ``[n, M]``, 0 for unknown, else the code + 1.
        level: ``[G]`` how many codes each row stands for, 0 for a row that is no prefix; None: all
            are such, and a row's members are those who read it.

    Returns:
        int64 ``[n, k]`` rows, 0 for none.
    """
    read = np.asarray(read, dtype=np.int64)
    if level is None:
        return np.reshape(read, (-1, 1))
    found = memberships(np.asarray(codes, np.int64) - 1, read - 1, np.asarray(level)[read])
    return np.asarray(found + 1, np.int64)


def belongs_in_all(
    read: NDArray[np.integer], codes: NDArray[np.integer], level: NDArray[np.integer] | None
) -> Ints:
    """As :func:`belongs_to` at every snapshot: from ``[S + 1, n]`` to ``[S + 1, n, k]``."""
    each = [belongs_to(read[s], codes[s], level) for s in range(len(read))]
    width = max(one.shape[1] for one in each)
    return np.stack([np.pad(one, ((0, 0), (0, width - one.shape[1]))) for one in each])


def prefix_levels(
    names: pa.Array | pa.ChunkedArray, read: NDArray[np.integer], codes: NDArray[np.integer]
) -> Ints:
    """How many codes each group stands for, read off its name.

    Args:
        names: ``[G]`` group ids.
        read: ``[R]`` group that each row of users or items names, -1 for none.
        codes: ``[R, M]`` codes of these rows, -1 for none.

    Returns:
        int64 ``[G]``; 0 where the name is no prefix of the codes of those who read the group, with
        a log line that counts them: their readers are their members then.
    """
    n_levels = codes.shape[1]
    parts = pc.split_pattern(pc.fill_null(names, ""), "-")
    length = pc.list_value_length(parts).to_numpy(zero_copy_only=False).astype(np.int64)
    texts = pc.list_flatten(parts)
    number = pc.match_substring_regex(texts, r"^[0-9]{1,9}$")
    value = pc.cast(pc.if_else(number, texts, "-1"), pa.int64()).to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    prefix = np.full((len(length), n_levels), -1, np.int64)
    inside = place < n_levels
    prefix[owner[inside], place[inside]] = value[inside]
    level = np.where(length <= n_levels, length, 0)
    wrong = np.zeros(len(length), bool)
    wrong[owner[value < 0]] = True
    rows = np.flatnonzero(read >= 0)
    asked = np.arange(n_levels) < level[read[rows], None]
    differ = ((prefix[read[rows]] != codes[rows]) & asked).any(axis=1)
    wrong[read[rows[differ]]] = True
    level[wrong] = 0
    strange = int((np.bincount(read[rows], minlength=len(level))[level == 0] > 0).sum())
    if strange:
        logger.info(
            "semantic table: %d groups have ids that are no prefix of their members' codes;"
            " their members are those who read them", strange,
        )  # fmt: skip
    return level
