"""The histories that came before training positives, by the item that was chosen then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_choir.data.rows import HIST_END, HIST_START, RowInputs


@dataclass
class ItemContexts:
    """Contexts of items as ranges of the history pool: 32 bytes each, whatever their length.

    Args:
        item, user: int64 ``[C]`` who chose what; items ascend.
        start, end: int64 ``[C]`` the user's history then, in ``RowInputs.history``; never empty.
        first: int64 ``[n_items + 1]`` contexts of item i are ``first[i]`` to ``first[i + 1]``.
    """

    item: torch.Tensor
    user: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    first: torch.Tensor

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def build(
        cls, rows: RowInputs, chosen: NDArray[np.bool_], limit: int | None = None, seed: int = 0
    ) -> ItemContexts:
        """Collect the contexts of some items from the training rows with label 1.

        Args:
            rows: Rows and histories of the dataset.
            chosen: bool ``[n_items]``: which items.
            limit: At most so many of an item, drawn at random and in random order; None: all of
                them, by user and time.
            seed: Of the draw.
        """
        train = np.sort(rows.parts[0])
        priority = np.random.default_rng(seed).random(len(train))
        item, start, end = (
            values[train]
            for values in (rows.events.item, rows.columns[HIST_START], rows.columns[HIST_END])
        )
        kept = np.flatnonzero((rows.events.label[train] > 0) & (end > start) & chosen[item])
        user = rows.events.user[train]
        second = user[kept] if limit is None else priority[kept]
        kept = kept[np.lexsort((second, item[kept]))]  # a stable sort: rows stay in time order
        if limit is not None:
            kept = kept[_rank(item[kept]) < limit]
        counts = np.bincount(item[kept], minlength=len(chosen))
        of = [torch.from_numpy(a[kept].astype(np.int64)) for a in (item, user, start, end)]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(of[0], of[1], of[2], of[3], torch.from_numpy(first))


def _rank(sorted_keys: NDArray[np.integer]) -> NDArray[np.int64]:
    """Place of each entry among those of its key."""
    return np.arange(len(sorted_keys)) - np.searchsorted(sorted_keys, sorted_keys)
