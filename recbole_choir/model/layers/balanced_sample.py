"""Rows of a batch, as many of one kind as of another."""

from __future__ import annotations

import torch
from torch import nn

from recbole_choir.model.layers.host_generator import HostGenerator


def activity_types(rows: torch.Tensor, n_types: int) -> torch.Tensor:
    """Cut users into types of equal size by their training rows; equal counts in order of id.

    Args:
        rows: ``[n]`` training rows; ids without any are of type 0, as the least active are.
        n_types: Number of types.

    Returns:
        int64 ``[n]``, 0 for the least active.
    """
    seen = torch.nonzero(rows > 0).squeeze(1)
    order = seen[rows[seen].argsort(stable=True)]
    types = torch.zeros_like(rows, dtype=torch.long)
    types[order] = torch.arange(len(order), device=rows.device) * n_types // max(1, len(order))
    return types


class BalancedSample(nn.Module):
    """Draw the same number of rows of every type, without waiting for the device.

    Args:
        n_types: Number of types.
        per_type: Rows of each; a type with fewer in the batch gives all of them.
        seed: Of the draws.
    """

    def __init__(self, n_types: int, per_type: int, seed: int) -> None:
        super().__init__()
        self.n_types, self.per_type = n_types, per_type
        self.draws = HostGenerator(seed)

    def forward(self, types: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw rows.

        Args:
            types: int64 ``[B]``, below ``n_types``.

        Returns:
            Rows ``[n_types per_type]`` and which of them were drawn, bool of the same shape.
        """
        n, device = len(types), types.device
        shuffled = self.draws.uniform(n, device=device).argsort()
        order = shuffled[types[shuffled].argsort(stable=True)]  # by type, at random within one
        kind = types[order]
        every = torch.arange(self.n_types, device=device)
        first = torch.searchsorted(kind, every)  # [n_types]
        rank = torch.arange(n, device=device) - first[kind]
        size = self.n_types * self.per_type
        # What is too many goes into one slot more, which is cut off.
        slot = torch.where(rank < self.per_type, kind * self.per_type + rank, size)
        row = order.new_zeros(size + 1).scatter_(0, slot, order)
        drawn = torch.zeros(size + 1, dtype=torch.bool, device=device)
        drawn.scatter_(0, slot, torch.ones_like(slot, dtype=torch.bool))
        return row[:-1], drawn[:-1]
