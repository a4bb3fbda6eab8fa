"""Embeddings of typed fields, and the token of an item that every part of a model shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.errors import DataError
from recbole_choir.model.layers.lookup import distinct_keys, gather_rows


class FieldEmbedding(nn.Module):
    """One field as a vector.

    - ``token``: a row of the table; id 0 (padding, unknown) is the zero vector, always.
    - ``token_seq``: mean over the ids that are not 0; no id at all gives the zero vector.
    - ``float``: the value times a learned vector, so that a standardised value's mean (which is
      also what a missing value holds) gives the zero vector.

    Args:
        spec: Name, kind and vocabulary size of the field.
        size: Width d of the embedding.
        std: Standard deviation of the normal initial values. Small, so that ids never seen in
            training stay near the zero vector of an unknown id.
    """

    def __init__(self, spec: Field, size: int, std: float = 0.05) -> None:
        super().__init__()
        self.kind = spec.kind
        rows = 1 if spec.kind == "float" else spec.size
        self.weight = nn.Parameter(torch.empty(rows, size))
        nn.init.normal_(self.weight, std=std)
        if spec.kind != "float":
            with torch.no_grad():
                self.weight[0].zero_()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Embed the values of this field.

        Args:
            values: ``[...]`` ids (token) or numbers (float), ``[..., k]`` ids (token_seq).

        Returns:
            ``[..., d]``.
        """
        if self.kind == "float":
            return values.unsqueeze(-1) * self.weight[0]
        if self.kind == "token":
            return self.one(values)
        shape = values.shape[:-1]
        bags = F.embedding_bag(
            values.reshape(-1, values.shape[-1]), self.weight, mode="mean", padding_idx=0
        )  # [prod(shape), d]
        return bags.view(*shape, -1)

    def one(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed single ids ``[...]`` with this table: a token_seq field seen as one token."""
        return F.embedding(ids, self.weight, padding_idx=0)

    def whole(self) -> torch.Tensor:
        """The table of a token field; as with :meth:`one`, row 0 gets no gradient."""
        return F.pad(self.weight[1:], (0, 0, 1, 0))


class FieldBank(nn.Module):
    """The embeddings of several fields, concatenated in the order of the schema.

    Args:
        fields: The fields; may be empty.
        size: Width d of each embedding.
        std: See :class:`FieldEmbedding`.
    """

    def __init__(self, fields: Sequence[Field], size: int, std: float = 0.05) -> None:
        super().__init__()
        self.fields = tuple(fields)
        # A list, not a dict by name: fields called "type" or "a.b" are not legal module names.
        self.tables = nn.ModuleList(FieldEmbedding(f, size, std) for f in self.fields)
        self.width = size * len(self.fields)

    def forward(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Embed one tensor per field (see :class:`FieldEmbedding`): a list of ``[..., d]``."""
        return [table(v) for table, v in zip(self.tables, values, strict=True)]

    def embed_one(self, position: int, values: torch.Tensor) -> torch.Tensor:
        """Embed ``[...]`` ids or numbers with the table of one field: ``[..., d]``."""
        table = self.tables[position]
        if not isinstance(table, FieldEmbedding):  # never: the list holds nothing else
            raise TypeError(f"expected a FieldEmbedding, got {type(table).__name__}")
        return table(values) if table.kind == "float" else table.one(values)


class FeatureTable(nn.Module):
    """The attribute values of all users, or of all items, kept on the model's device.

    They are buffers that are not saved: they belong to the dataset, not to the weights.

    Args:
        fields: Which fields, in order.
        features: Field name to ``[n]`` or ``[n, k]``.
        side: ``user`` or ``item``; for the error message.

    Raises:
        DataError: If a field has no values.
    """

    def __init__(
        self, fields: Sequence[Field], features: dict[str, torch.Tensor], side: str
    ) -> None:
        super().__init__()
        self.n_fields = len(fields)
        for i, spec in enumerate(fields):
            if spec.name not in features:
                raise DataError(
                    f"{side} features: expected values of field '{spec.name}', "
                    f"got {sorted(features)}"
                )
            values = features[spec.name]
            values = values.float() if spec.kind == "float" else values.long()
            self.register_buffer(f"field_{i}", values, persistent=False)

    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """Values of the rows ``ids`` ``[...]``: one ``[...]`` or ``[..., k]`` tensor per field."""
        return [self.get_buffer(f"field_{i}")[ids] for i in range(self.n_fields)]

    def whole(self) -> list[torch.Tensor]:
        """Values of all rows."""
        return [self.get_buffer(f"field_{i}") for i in range(self.n_fields)]


class ItemTokens:
    """Item tokens of one batch: looked up in a table made once, or made where they are needed.

    Args:
        encoder: Makes tokens from ids.
        table: Tokens of the whole vocabulary ``[n_items, D]``, or None.
    """

    def __init__(self, encoder: ItemEncoder, table: torch.Tensor | None) -> None:
        self.encoder = encoder
        self.table = table

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., D]`` of the items ``ids`` ``[...]``; id 0 gives the zero vector."""
        if self.table is None:
            return self.encoder(ids)
        return gather_rows(self.table, ids)

    def rows(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A table ``[n, D]`` and the rows ``[...]`` in it that are the tokens of ``ids``.

        For code that can work on the rows in place instead of on a copy of each.
        """
        if self.table is not None:
            return self.table, ids
        once, index = distinct_keys(ids)
        return self.encoder(once), index


class ItemEncoder(nn.Module):
    """The token ``x_i = [e_i; item-attribute embeddings]`` of an item.

    One instance serves the target, the history and the group sequence: "share a common item
    representation".

    Args:
        n_items: Vocabulary size with the padding id 0.
        fields: Item attributes.
        features: Their values, see :class:`FeatureTable`.
        size: Width d of the id and of each attribute.
        std: See :class:`FieldEmbedding`.
        with_id: False leaves the table of ids out: a subclass has its own.

    References:
        ChoirRec 4.4.1 (shared item representation); docs/baselines.md.
    """

    def __init__(
        self,
        n_items: int,
        fields: Sequence[Field],
        features: dict[str, torch.Tensor],
        size: int,
        std: float = 0.05,
        with_id: bool = True,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        if with_id:
            self.id_table = FieldEmbedding(Field("item_id", "token", n_items), size, std)
        self.features = FeatureTable(fields, features, "item")
        self.attributes = FieldBank(fields, size, std)
        self.width = size + self.attributes.width

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Encode items one by one: ``[...]`` to ``[..., D]``."""
        return torch.cat([self.id_table(ids), *self.attributes(self.features(ids))], dim=-1)

    def whole(self) -> torch.Tensor:
        """Encode the whole vocabulary: ``[n_items, D]``, the same bits as one by one."""
        return torch.cat([self.id_table.whole(), *self.attributes(self.features.whole())], dim=-1)

    def tokens(self, n_lookups: int) -> ItemTokens:
        """Prepare the lookups of a batch.

        When a batch looks up at least as many tokens as there are items, encoding the whole
        vocabulary once is the cheaper way: the attributes' masked means are then computed once
        an item, not once an occurrence.

        Args:
            n_lookups: How many tokens the batch will look up, known from its shape.
        """
        return ItemTokens(self, self.whole() if self.n_items <= n_lookups else None)
