"""One pool of events for all rows, and two pointers a row: leak-free history at 16 bytes a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_choir.data.asof import AsOfIndex

#: Batch fields of the labelled history (all labelled events, not positives alone).
LABELLED_ITEMS = "labelled_items"  # int64 [B, L]; their labels are fields.HIST_LABELS
LABELLED_LEN = "labelled_len"  # int64 [B]


@dataclass
class HistoryPool:
    """Events sorted by (user, time), from which a batch gathers the last L of each row.

    Make one with :meth:`build`. The caller decides which events belong into it: positives, or all
    labelled events (then with their labels).

    Args:
        index: The sorted keys and times, on the host.
        items: ``[P + 1]`` int64 items in that order; the last slot is the padding 0.
        labels: ``[P + 1]`` float32 labels in that order, or None.
    """

    index: AsOfIndex
    items: torch.Tensor
    labels: torch.Tensor | None = None

    @classmethod
    def build(
        cls,
        user: NDArray[np.integer],
        item: NDArray[np.integer],
        time: NDArray[np.float64],
        label: NDArray[np.generic] | None = None,
    ) -> HistoryPool:
        """Sort events into a pool.

        Args:
            user, item: ``[P]`` internal ids of the events.
            time: ``[P]`` float64 times. Events of one user and stamp keep their given order.
            label: ``[P]`` labels, for a labelled history only.

        Returns:
            The pool, on the host.
        """
        index = AsOfIndex(user, time)
        items = np.zeros(len(index.order) + 1, dtype=np.int64)
        items[:-1] = np.asarray(item)[index.order]
        labels = None
        if label is not None:
            values = np.zeros(len(index.order) + 1, dtype=np.float32)
            values[:-1] = np.asarray(label)[index.order]
            labels = torch.from_numpy(values)
        return cls(index, torch.from_numpy(items), labels)

    def pointers(
        self, user: NDArray[np.integer], time: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Range of each row's history: the user's events strictly before the row.

        Args:
            user: ``[N]`` internal user ids.
            time: ``[N]`` float64 times of the rows.

        Returns:
            ``(start, end)``, each int64 ``[N]``; equal where there is no history.
        """
        return self.index.bounds(user, time)

    def gather(self, start: torch.Tensor, end: torch.Tensor, length: int) -> torch.Tensor:
        """Items of the newest ``length`` events of each range.

        Args:
            start, end: ``[B]`` int64 ranges on the pool's device.
            length: L.

        Returns:
            int64 ``[B, L]``, oldest to newest, padded with 0 on the right.
        """
        return take_newest(self.items, start, end, length)

    def gather_labels(self, start: torch.Tensor, end: torch.Tensor, length: int) -> torch.Tensor:
        """Labels of the events that :meth:`gather` returns: float32 ``[B, L]``, 0 in padding.

        Raises:
            ValueError: The pool was built without labels.
        """
        if self.labels is None:
            raise ValueError("history pool: built without labels, expected build(..., label=...)")
        return take_newest(self.labels, start, end, length)

    def to(self, device: torch.device | str) -> HistoryPool:
        """The same pool with its events on ``device``."""
        labels = None if self.labels is None else self.labels.to(device)
        return HistoryPool(self.index, self.items.to(device), labels)


def take_newest(
    pool: torch.Tensor, start: torch.Tensor, end: torch.Tensor, length: int
) -> torch.Tensor:
    """The newest ``length`` entries of each range of a pool.

    Args:
        pool: ``[P + 1]``, with the padding in its last slot.
        start, end: ``[B]`` int64 ranges on the pool's device.
        length: L.

    Returns:
        ``[B, L]``, oldest to newest, padded on the right.
    """
    first = torch.maximum(start, end - length)  # [B]
    at = first[:, None] + torch.arange(length, device=pool.device)  # [B, L]
    at.masked_fill_(at >= end[:, None], pool.shape[0] - 1)  # the padding slot
    return pool.index_select(0, at.view(-1)).view(at.shape)
