"""What MELT does with contexts: drawn for head items in L_I, averaged for tail items in e~."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
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


class TailRows(nn.Module):
    """``W mean_{c in C_i, c not of u} f(c) + b`` of a tail item i for a user u.

    With its own context in the mean, a training positive on an item of one or two contexts would
    find its label in its input. So the contexts of the row's user are left out, for every row: sums
    are kept by (item, user) as well as by item, in double precision, where what was added to a sum
    comes off it without a trace.

    The authors' code writes the mean into the item's row at the start of an epoch and trains on
    from there. Here the mean differs between users, so the row's movement since that moment is
    added to it: what is given back is the mean less the row as it was, to be put on the row as it
    is. Sums and rows stand until the next :meth:`refresh` and are saved with the weights.

    Args:
        contexts: All contexts of the tail items, by item and user.
        n_users: Vocabulary size.
        size: Width of the embeddings.

    References:
        MELT (arXiv 2304.08382), item branch; docs/baselines.md (leak to avoid).
    """

    keys: torch.Tensor
    pair_first: torch.Tensor
    pair_count: torch.Tensor
    item_first: torch.Tensor
    item_count: torch.Tensor
    pair_sum: torch.Tensor
    item_sum: torch.Tensor
    start: torch.Tensor
    bias: torch.Tensor
    filled: torch.Tensor

    def __init__(self, contexts: ItemContexts, n_users: int, size: int) -> None:
        super().__init__()
        self.n_users = n_users
        keys, count = torch.unique_consecutive(
            contexts.item * n_users + contexts.user, return_counts=True
        )
        n_items = len(contexts.first) - 1
        item = keys // n_users
        at = torch.arange(n_items + 1, device=item.device)
        # Of the dataset, not of the weights: not saved.
        self._keep("keys", keys)
        self._keep("pair_first", count.cumsum(0) - count)
        self._keep("pair_count", count)
        self._keep("item_first", torch.searchsorted(item, at)[:-1])
        self._keep("item_count", contexts.first[1:] - contexts.first[:-1])
        double = {"dtype": torch.float64, "device": item.device}
        self.register_buffer("pair_sum", torch.zeros(len(keys), size, **double))
        self.register_buffer("item_sum", torch.zeros(n_items, size, **double))
        self.register_buffer("start", torch.zeros(n_items, size, device=item.device))
        self.register_buffer("bias", torch.zeros(size, **double))
        self.register_buffer("filled", torch.zeros((), device=item.device))

    def _keep(self, name: str, values: torch.Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def refresh(self, vectors: torch.Tensor, layer: nn.Linear, rows: torch.Tensor) -> None:
        """Compute the sums.

        Args:
            vectors: ``f(c)`` ``[C, d]`` of all contexts.
            layer: W and b.
            rows: The items' own rows ``[n_items, d]`` as they are now.
        """
        if len(self.keys):
            mapped = vectors.double() @ layer.weight.double().T
            every = torch.arange(len(mapped), device=mapped.device)
            pairs = F.embedding_bag(every, mapped, self.pair_first, mode="sum")
            self.pair_sum.copy_(pairs)
            every = torch.arange(len(pairs), device=pairs.device)
            self.item_sum.copy_(F.embedding_bag(every, pairs, self.item_first, mode="sum"))
        self.start.copy_(rows)
        self.bias.copy_(layer.bias)
        self.filled.fill_(1.0)

    @torch.no_grad()
    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Look up for users and items ``[B]``.

        Returns:
            Shifts float32 ``[B, size]`` of the items' own rows; 0 for head items, for items that no
            other user chose, and before the first :meth:`refresh`.
        """
        total, count = self.item_sum[item], self.item_count[item]
        if len(self.keys):
            key = item * self.n_users + user
            at = torch.searchsorted(self.keys, key).clamp_max(len(self.keys) - 1)
            own = self.keys[at] == key
            total = total - self.pair_sum[at] * own.unsqueeze(1)
            count = count - self.pair_count[at] * own
        mean = total / count.clamp_min(1).unsqueeze(1) + self.bias
        known = (count > 0) & (self.filled > 0)
        return (mean.float() - self.start[item]) * known.unsqueeze(1)
