"""The distinct ids of a batch, with shapes that are known beforehand."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Distinct(NamedTuple):
    """The ids of a batch in ascending order, with each id's first occurrence marked.

    Attributes:
        ids: ``[B]`` sorted.
        order: ``[B]`` position in the batch of each of them.
        first: bool ``[B]``: the first of its kind, and not the padding id.
    """

    ids: torch.Tensor
    order: torch.Tensor
    first: torch.Tensor

    def row_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """``[B]`` in the order of the batch: 1 on one row of each id, else 0."""
        return torch.empty_like(self.ids, dtype=dtype).scatter_(0, self.order, self.first.to(dtype))


def distinct(ids: torch.Tensor) -> Distinct:
    """Mark the distinct ids of ``[B]``.

    ``torch.unique`` would have to wait for the device to know how many there are.
    """
    ordered, order = ids.sort(stable=True)
    first = ordered > 0
    first[1:] &= ordered[1:] != ordered[:-1]
    return Distinct(ordered, order, first)
