"""Who belongs to a group: the one rule, for those who make tables and for those who read them.

An id reads one group: a prefix of its codes. The members of that group are all ids whose codes
begin with that prefix, also those that read a deeper group of their own. So an id belongs to its
own group and to every shorter prefix that somebody else reads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def prefix_ids(codes: NDArray[np.integer]) -> Ints:
    """Number the distinct prefixes of codes at every level.

    Args:
        codes: int [n, M]; negative where an id has none. A prefix with a negative code is none.

    Returns:
        int64 [n, M], -1 for none: row i and j have the same number at level l exactly if their
        first l codes agree. Numbers follow the order of the prefixes.
    """
    out = np.full(codes.shape, -1, np.int64)
    known = np.arange(len(codes))
    parent = np.zeros(len(codes), np.int64)
    for level in range(codes.shape[1]):
        code = codes[known, level].astype(np.int64)
        known, parent, code = known[code >= 0], parent[code >= 0], code[code >= 0]
        if len(code) == 0:
            return out
        _, parent = np.unique(parent * (code.max() + 1) + code, return_inverse=True)
        parent = parent.reshape(-1)
        out[known, level] = parent
    return out


def memberships(
    codes: NDArray[np.integer], read: NDArray[np.integer], level: NDArray[np.integer]
) -> Ints:
    """All groups that each id belongs to, of those that somebody reads.

    Args:
        codes: int [n, M], negative where an id has none.
        read: int [n] number of the group that an id reads, -1 for none.
        level: int [n] how many codes that group stands for; 0 where its name is no prefix of the
            codes (a table made by another tool): such a group has its readers as members, and
            nobody else.

    Returns:
        int64 [n, k], k at most M + 1: numbers as in ``read``, -1 for none. Each group an id belongs
        to stands in one column. A group's members are the ids with its number in any column.

    References:
        ChoirRec 4.3; AKT-Rec 3.2.2, Eq. 9; docs/gaps.md C12, A18 (back-off to a prefix).
    """
    read, level = np.asarray(read, np.int64), np.asarray(level)
    prefixes = prefix_ids(codes)
    columns = []
    for at in range(codes.shape[1]):
        readers = (level == at + 1) & (read >= 0) & (prefixes[:, at] >= 0)
        if not readers.any():
            continue
        group = np.full(int(prefixes[:, at].max()) + 2, -1, np.int64)  # the last answers for -1
        group[prefixes[readers, at]] = read[readers]
        columns.append(group[prefixes[:, at]])
    alone = (level == 0) & (read >= 0)
    if alone.any() or not columns:
        columns.append(np.where(alone, read, -1))
    return np.stack(columns, axis=1)
