"""Parts of a token that depend on the snapshot through a small table of distinct keys."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from recbole_choir.model.layers.lookup import gather_rows


class TokenPart(Protocol):
    """A part of an id's token at a snapshot.

    Attributes:
        width: Columns it adds.
        varies: Whether it depends on the snapshot.
    """

    width: int
    varies: bool

    def __call__(self, ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        """The part ``[..., width]`` of ids at snapshots, both ``[...]``."""

    def at(self, snapshot: int) -> torch.Tensor:
        """The part ``[n, width]`` of the whole vocabulary at one snapshot."""

    def whole(self) -> torch.Tensor:
        """``[S + 1, n, width]`` at all snapshots; ``[n, width]`` where it does not vary."""


class IdPart(TokenPart, Protocol):
    """The part of a token that stands for the id itself, where a table of ids is not enough."""

    def refresh(self) -> None:
        """Compute what it derives from its weights from them as they are now."""


class KeyedPart(nn.Module):
    """A :class:`TokenPart` made of the key, such as codes or a vector, of (snapshot, id).

    Many ids and snapshots share a key: where there are fewer keys than lookups, each is embedded
    once. A subclass defines :meth:`embed`.

    Args:
        keys: ``[U, k]`` distinct keys.
        row: ``[S + 1, n]`` row of each id's key at each snapshot.
        width: Columns of an embedded key.
    """

    keys: torch.Tensor
    row: torch.Tensor
    varies = True

    def __init__(self, keys: torch.Tensor, row: torch.Tensor, width: int) -> None:
        super().__init__()
        # Of the dataset, not of the weights: not saved.
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("row", row.int(), persistent=False)
        self.width = width

    def embed(self, keys: torch.Tensor) -> torch.Tensor:
        """Embed keys ``[u, k]``: ``[u, width]``."""
        raise TypeError(f"{type(self).__name__} defines no embed: use one of its subclasses")

    def forward(self, ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        """The part ``[..., width]`` of ids at snapshots, both ``[...]``."""
        return self._of_rows(self.row[snapshot, ids])

    def at(self, snapshot: int) -> torch.Tensor:
        """The part ``[n, width]`` of the whole vocabulary at one snapshot."""
        return self._of_rows(self.row[snapshot])

    def whole(self) -> torch.Tensor:
        """The part ``[S + 1, n, width]`` of the whole vocabulary at all snapshots."""
        return self._of_rows(self.row)

    def _of_rows(self, row: torch.Tensor) -> torch.Tensor:
        if self.keys.shape[0] <= row.numel():
            return gather_rows(self.embed(self.keys), row)
        keys = self.keys.index_select(0, row.reshape(-1))
        return self.embed(keys).view(*row.shape, self.width)
