"""What the semantic table knows of a row's group: code, attributes and behaviour sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.model.choirrec.prefix_fusion import PrefixFusion
from recbole_choir.model.layers.field_embedding import FieldBank, ItemTokens
from recbole_choir.model.layers.lookup import gather_rows

if TYPE_CHECKING:
    from recbole_choir.data.table.group_tables import GroupTables


class GroupLookup(nn.Module):
    """The group tables as buffers of the model, read by (snapshot, user).

    They are not saved with the weights: they are those of the semantic table. Row 0 of every
    group array is the empty group; snapshot 0 and users without a group lead to it.

    Args:
        groups: The group tables of the dataset.
        user_attrs: User fields; those that the table describes become :attr:`fields`.
    """

    user_group: torch.Tensor
    user_code_row: torch.Tensor
    code_table: torch.Tensor
    group_seq: torch.Tensor
    group_size: torch.Tensor

    def __init__(self, groups: GroupTables, user_attrs: Sequence[Field]) -> None:
        super().__init__()
        self.n_codes = [int(k) for k in groups.n_codes]
        self.n_groups = int(groups.group_seq.shape[0])
        self.register_buffer("user_group", groups.user_group.int(), persistent=False)
        # Distinct codes once, and each user's row among them: codes are shared by a whole group.
        codes = groups.user_codes.long()  # [S + 1, n_users, M]
        table, row = torch.unique(codes.flatten(0, 1), dim=0, return_inverse=True)
        self.register_buffer("code_table", table, persistent=False)  # [U, M]
        self.register_buffer("user_code_row", row.view(codes.shape[:2]).int(), persistent=False)
        self.register_buffer("group_seq", groups.group_seq.int(), persistent=False)
        self.register_buffer("group_size", groups.group_size, persistent=False)
        self.fields: list[Field] = []
        self.positions: list[int] = []  # of these fields among the user attributes
        for position, spec in enumerate(user_attrs):
            if spec.name not in groups.group_attr:
                continue
            values = groups.group_attr[spec.name]
            values = values.float() if spec.kind == "float" else values.long()
            self.register_buffer(f"attr_{len(self.fields)}", values, persistent=False)
            self.fields.append(spec)
            self.positions.append(position)

    def group_of(self, snapshot: torch.Tensor, user: torch.Tensor) -> torch.Tensor:
        """Row ``[B]`` of the group arrays for each row's snapshot and user."""
        return self.user_group[snapshot, user].long()

    def codes_of(self, snapshot: torch.Tensor, user: torch.Tensor) -> torch.Tensor:
        """Codes ``[B, M]``, 0 for unknown, else the code + 1."""
        return self.code_table[self.user_code_row[snapshot, user].long()]

    def embed_codes(
        self, fusion: PrefixFusion, snapshot: torch.Tensor, user: torch.Tensor
    ) -> torch.Tensor:
        """``e_G`` ``[B, .]`` of each row; once per distinct code where those are fewer."""
        row = self.user_code_row[snapshot, user].long()
        if self.code_table.shape[0] <= row.shape[0]:
            return gather_rows(fusion(self.code_table), row)
        return fusion(self.code_table[row])

    def attributes(self, group: torch.Tensor) -> list[torch.Tensor]:
        """Value ``[B]`` of each field in :attr:`fields`: its members' mode or mean."""
        return [self.get_buffer(f"attr_{i}")[group] for i in range(len(self.fields))]

    def sequence(
        self, group: torch.Tensor, items: ItemTokens
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The groups' sequences: a table ``[n, D]``, rows ``[B, L_G]`` in it, mask ``[B, L_G]``.

        Where the batch has no table of all items and fewer groups than rows, the sequences are
        encoded once a group, not once a row.
        """
        ids = self.group_seq[group].long()  # [B, L_G]
        if items.table is None and self.n_groups <= group.shape[0]:
            table, rows = items.rows(self.group_seq.long())  # [n, D], [G, L_G]
            return table, rows[group], ids > 0
        table, rows = items.rows(ids)
        return table, rows, ids > 0


def embed_group_attributes(
    bank: FieldBank, positions: Sequence[int], values: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """``e_P_G``: the group's attribute values through the users' own tables.

    Args:
        bank: Embeddings of the user attributes.
        positions: Index of each value's field in the bank.
        values: ``[B]`` per field; one id also where users have several (token_seq).

    Returns:
        A ``[B, d]`` per field.

    References:
        ChoirRec 4.3.2; docs/gaps.md C16 (shared tables).
    """
    parts = []
    for position, value in zip(positions, values, strict=True):
        parts.append(bank.embed_one(position, value))
    return parts
