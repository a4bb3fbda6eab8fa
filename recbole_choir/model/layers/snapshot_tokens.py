"""Item tokens that depend on the snapshot of the row that looks them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.model.layers.field_embedding import ItemEncoder, ItemTokens
from recbole_choir.model.layers.keyed_part import IdPart, TokenPart
from recbole_choir.model.layers.lookup import distinct_keys, gather_rows


class SnapshotTokens(ItemTokens):
    """Item tokens of one batch, each read at its row's snapshot.

    Args:
        encoder: Makes tokens from snapshots and ids.
        table: Tokens ``[(S + 1) n_items, D]``, or ``[n_items, D]`` where they do not vary, or None.
        snapshot: ``[B]`` of the batch's rows.
        attributes: Attributes ``[n_items, .]`` of all items for tokens made one by one, or None.
    """

    encoder: SnapshotItemEncoder

    def __init__(
        self,
        encoder: SnapshotItemEncoder,
        table: torch.Tensor | None,
        snapshot: torch.Tensor,
        attributes: torch.Tensor | None = None,
    ) -> None:
        super().__init__(encoder, table)
        self.snapshot = snapshot
        self.attributes = attributes

    def _spread(self, ids: torch.Tensor) -> torch.Tensor:
        """The snapshot of each id of ``[B, ...]``."""
        return self.snapshot.view(-1, *[1] * (ids.dim() - 1)).expand(ids.shape)

    def _row(self, ids: torch.Tensor) -> torch.Tensor:
        return self._spread(ids) * self.encoder.n_items + ids if self.encoder.varies else ids

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, ..., D]`` of the items ``ids`` ``[B, ...]``; id 0 gives the zero vector."""
        if self.table is None:
            return self._encode(ids, self._spread(ids))
        return gather_rows(self.table, self._row(ids))

    def _encode(self, ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        attributes = None if self.attributes is None else gather_rows(self.attributes, ids)
        return self.encoder.token(ids, snapshot, attributes=attributes)

    def rows(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A table ``[n, D]`` and the rows ``[B, ...]`` in it that are the tokens of ``ids``."""
        if self.table is not None:
            return self.table, self._row(ids)
        n = self.encoder.n_items
        once, index = distinct_keys(self._row(ids))  # (snapshot, item) as one number
        snapshot = once.div(n, rounding_mode="floor")  # 0 where tokens do not vary
        return self._encode(once - snapshot * n, snapshot), index


class SnapshotItemEncoder(ItemEncoder):
    """The token ``[id part; item attributes; further parts]`` of an item at a snapshot.

    One instance serves the target, the history and the cluster sequence.

    Args:
        n_items: Vocabulary size with the padding id 0.
        fields, features: Item attributes, see :class:`ItemEncoder`.
        size: Width of the id part and of each attribute.
        std: Of initial values.
        parts: Further parts, such as a content vector.
        identity: The id part; None for a plain table of ids. A caller that gives it may read the
            attribute of this name.
        n_snapshots: S + 1, "no snapshot yet" included.
    """

    identity: IdPart

    def __init__(
        self,
        n_items: int,
        fields: Sequence[Field],
        features: dict[str, torch.Tensor],
        size: int,
        std: float = 0.05,
        parts: Sequence[TokenPart] = (),
        identity: IdPart | None = None,
        n_snapshots: int = 1,
    ) -> None:
        super().__init__(n_items, fields, features, size, std, with_id=identity is None)
        self.has_identity = identity is not None
        if identity is not None:
            self.identity = identity
        self.parts = nn.ModuleList(cast(nn.Module, part) for part in parts)
        self.width += sum(part.width for part in parts)
        own = identity is not None and identity.varies
        self.varies = own or any(part.varies for part in parts)
        self.n_snapshots = n_snapshots

    def refresh(self) -> None:
        """Compute again what the id part derives from its weights, where it has such a thing."""
        if self.has_identity:
            self.identity.refresh()

    @property
    def n_rows(self) -> int:
        """Rows of the table of all tokens."""
        return self.n_items * (self.n_snapshots if self.varies else 1)

    def token(
        self,
        ids: torch.Tensor,
        snapshot: torch.Tensor,
        identity: torch.Tensor | None = None,
        attributes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode items one by one.

        Args:
            ids, snapshot: ``[...]``.
            identity, attributes: Id part ``[..., size]`` and all attributes ``[..., .]`` where the
                caller has made them already.

        Returns:
            ``[..., D]``.
        """
        if identity is None:
            identity = self.identity(ids, snapshot) if self.has_identity else self.id_table(ids)
        own = attributes is None
        columns = self.attributes(self.features(ids)) if own else [attributes]
        parts = [part(ids, snapshot) for part in self.parts]
        return torch.cat([identity, *columns, *parts], dim=-1)

    def at(self, snapshot: int) -> torch.Tensor:
        """Encode the whole vocabulary at one snapshot: ``[n_items, D]``."""
        parts = [cast(TokenPart, p).at(snapshot) for p in self.parts]
        identity = self.identity.at(snapshot) if self.has_identity else self.id_table.whole()
        return torch.cat([identity, *self.attributes(self.features.whole()), *parts], dim=-1)

    def whole(self) -> torch.Tensor:
        """Encode the whole vocabulary at all snapshots: ``[n_rows, D]``, by snapshot, then id."""
        identity = self.identity.whole() if self.has_identity else self.id_table.whole()
        parts = [cast(TokenPart, p).whole() for p in self.parts]
        columns = [identity, self.all_attributes(), *parts]
        if self.varies:
            columns = [c.expand(self.n_snapshots, *c.shape[-2:]) for c in columns]
        return torch.cat(columns, dim=-1).view(-1, self.width)

    def all_attributes(self) -> torch.Tensor:
        """Attributes ``[n_items, .]`` of the whole vocabulary; width 0 where there are none."""
        columns = self.attributes(self.features.whole())
        # One tensor to spread over the snapshots, and one sum in the backward pass.
        like = next(self.parameters())
        return torch.cat(columns, dim=-1) if columns else like.new_zeros(self.n_items, 0)

    def tokens_at(self, n_lookups: int, snapshot: torch.Tensor) -> SnapshotTokens:
        """Prepare the lookups of a batch whose rows have the snapshots ``[B]``.

        As with :meth:`ItemEncoder.tokens`, all tokens of all snapshots are made once where that is
        less work than making each where it is needed; failing that, all attributes, which do not
        depend on the snapshot.

        Args:
            n_lookups: How many tokens the batch will look up, known from its shape.
            snapshot: Newest snapshot strictly before each row, 0 for none.
        """
        if self.n_rows <= n_lookups:
            return SnapshotTokens(self, self.whole(), snapshot)
        attributes = self.all_attributes() if self.n_items <= n_lookups else None
        return SnapshotTokens(self, None, snapshot, attributes)
