"""Contexts of items drawn for a training step, within a budget known beforehand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from recbole_choir.data.item_contexts import ItemContexts
from recbole_choir.model.layers.host_generator import HostGenerator


class DrawnContexts(NamedTuple):
    """Contexts of some items.

    Attributes:
        context: int64 ``[S]`` numbers of contexts; any number in slots that are not used.
        owner: float ``[A, S]``: 1 where a slot's context is one of item a.
        items: int64 ``[A]`` the items.
        complete: bool ``[A]`` items that got all that was drawn for them.
    """

    context: torch.Tensor
    owner: torch.Tensor
    items: torch.Tensor
    complete: torch.Tensor


class ContextDraw(nn.Module):
    """Draw ``n ~ U{1..min(|C_i|, T)}`` distinct contexts of each item, until S are drawn.

    Args:
        contexts: Of all items, in random order within an item.
        most: T.
        budget: S.
        seed: Of the draws.
    """

    first: torch.Tensor

    def __init__(self, contexts: ItemContexts, most: int, budget: int, seed: int) -> None:
        super().__init__()
        self.draws = HostGenerator(seed)
        self.register_buffer("first", contexts.first, persistent=False)
        self.most, self.budget = most, budget

    def forward(self, items: torch.Tensor, valid: torch.Tensor) -> DrawnContexts:
        """Draw.

        Args:
            items: int64 ``[B]``, distinct where valid.
            valid: bool ``[B]``; others get no contexts.
        """
        uniform = self.draws.uniform(3, len(items), device=items.device)
        available = self.first[items + 1] - self.first[items]
        usable = valid & (available > 0)
        chosen = torch.where(usable, uniform[0], 2.0).argsort(stable=True)[: self.budget]
        items, usable, available = items[chosen], usable[chosen], available[chosen]
        number, begin = uniform[1:, chosen]
        most = available.clamp_max(self.most)
        wanted = ((number * most).long() + 1).clamp(max=most) * usable  # [A]
        end = wanted.cumsum(0)
        start = end - wanted
        slot = torch.arange(self.budget, device=items.device)
        inside = (slot >= start.unsqueeze(1)) & (slot < end.unsqueeze(1))  # [A, S]
        # A run of a list in random order, from a random place, round its end.
        place = ((begin * available).long().unsqueeze(1) + slot - start.unsqueeze(1)) * inside
        place = place % available.clamp_min(1).unsqueeze(1)
        context = ((self.first[items].unsqueeze(1) + place) * inside).sum(0)
        return DrawnContexts(
            context, inside.to(torch.float32), items, usable & (end <= self.budget)
        )
