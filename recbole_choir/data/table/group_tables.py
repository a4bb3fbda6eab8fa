"""A semantic table joined to a dataset's own ids, as tensors that live once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from recbole_choir import table_format as tf
from recbole_choir.data.counting import Membership
from recbole_choir.data.members import belongs_to
from recbole_choir.data.table.ids import check_known, check_stamps, internal_ids
from recbole_choir.data.table.parquet import examples
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import TableError

logger = logging.getLogger("recbole_choir")


@dataclass(frozen=True)
class Scale:
    """How a float attribute was standardised: ``(x - mean) / std``."""

    mean: float
    std: float


@dataclass
class GroupTables:
    """Codes and groups of the dataset's users, and what is known of each group.

    Row 0 of the group arrays is the empty group, snapshot 0 is "no snapshot yet", user 0 is the
    padding user: all three are empty. Group arrays are never copied per user or row.

    Args:
        user_group: int32 ``[S + 1, n_users]`` row of the group arrays that a user reads, 0 for
            none: one group a user, where :meth:`membership` says all groups that it belongs to.
        user_codes: int32 ``[S + 1, n_users, M]``, 0 for unknown, else the code + 1.
        n_codes: Codewords K at each level.
        group_attr: Field -> ``[G]`` token ids (int64, 0 unknown) or standardised floats
            (float32, 0 unknown: the mean).
        group_seq: int32 ``[G, L_G]`` internal item ids, oldest first, 0-padded on the right.
        group_size: int64 ``[G]`` members.
        snapshot_times: float64 ``[S]``, ascending; stays on the host.
        fingerprint: Of the table's content.
        counts: What the join had to leave empty, for the record.
        group_level: int64 ``[G]`` on the host: how many codes each group stands for, which says who
            its members are (:mod:`recbole_choir.prefix_groups`); 0 for one whose id is no prefix,
            and None where all are such: a group's members are those who read it.
    """

    user_group: torch.Tensor
    user_codes: torch.Tensor
    n_codes: list[int]
    group_attr: dict[str, torch.Tensor]
    group_seq: torch.Tensor
    group_size: torch.Tensor
    snapshot_times: torch.Tensor
    fingerprint: str
    counts: dict[str, int] = field(default_factory=dict)
    group_level: NDArray[np.int64] | None = None

    @classmethod
    def join(
        cls,
        table: SemanticTable,
        user_tokens: NDArray[Any],
        item_tokens: NDArray[Any],
        attributes: Mapping[str, Mapping[str, int] | Scale] | None = None,
        first_validation_time: float | None = None,
    ) -> GroupTables:
        """Join a table to a dataset by raw id.

        Users of the dataset that the table lacks have no group and unknown codes; one log line
        counts them. Values of a group's attribute that the dataset's vocabulary lacks become the
        padding 0, counted as well.

        Args:
            table: A loaded table.
            user_tokens, item_tokens: Raw ids by internal id; position 0 is the padding.
            attributes: Field -> vocabulary (raw value -> id), or the scale of a float field.
                Attributes of the table that are not named here are left out.
            first_validation_time: Time of the first row that is evaluated; None where the split is
                not one in time.

        Returns:
            The group tables, on the host.

        Raises:
            TableError: The ids' fingerprints differ, the table names users or items that the
                dataset does not have, no user is in both, a snapshot is later than the first
                validation row, or an attribute is of another kind in the dataset.
        """
        _check_leak(table, first_validation_time)
        users = pa.array([str(t) for t in user_tokens[1:]], pa.string())
        items = pa.array([str(t) for t in item_tokens[1:]], pa.string())
        user_row = internal_ids(table.users.strings(tf.USER_ID), users)
        if not (user_row > 0).any():
            raise TableError(
                f"{table.path}: no user of the table is in the dataset: the table has"
                f" {examples(table.users.strings(tf.USER_ID).to_pylist())}, the dataset"
                f" {examples(users.to_pylist())}"
            )
        check_stamps(table.path, table.ids, {"users": users, "items": items})
        check_known(table.path, "users", table.users.strings(tf.USER_ID), user_row, len(users))
        n_snapshots, n_users = len(table.snapshot_times), len(user_tokens)
        at = (table.users.ints(tf.SNAPSHOT), user_row)
        user_group = np.zeros((n_snapshots + 1, n_users), dtype=np.int32)
        user_group[at] = table.user_group + 1
        levels = range(1, len(table.n_codes) + 1)
        user_codes = np.zeros((n_snapshots + 1, n_users, len(table.n_codes)), dtype=np.int32)
        for level in levels:
            user_codes[..., level - 1][at] = table.users.ints(tf.code_column(level)) + 1

        counts: dict[str, int] = {}
        counts["users_without_row"] = n_users - 1 - len(np.unique(user_row))
        counts["users_without_group"] = int((user_group[1:, 1:] == 0).all(axis=0).sum())
        if counts["users_without_group"]:
            logger.info(
                "semantic table %s: %d of %d users have no group in any snapshot (%d are not in"
                " the table); they use the empty group",
                table.path, counts["users_without_group"], n_users - 1, counts["users_without_row"],
            )  # fmt: skip
        group_attr = {
            name: _attribute(table, name, spec, counts)
            for name, spec in (attributes or {}).items()
            if name in table.attributes
        }
        size = np.append(0, table.groups.ints(tf.SIZE))
        return cls(
            user_group=torch.from_numpy(user_group),
            user_codes=torch.from_numpy(user_codes),
            n_codes=list(table.n_codes),
            group_attr=group_attr,
            group_seq=_sequences(table, items),
            group_size=torch.from_numpy(size),
            snapshot_times=torch.from_numpy(table.snapshot_times),
            fingerprint=table.fingerprint,
            counts=counts,
            group_level=np.append(0, table.group_level),
        )

    @property
    def n_groups(self) -> int:
        """Rows of the group arrays, the empty group included."""
        return int(self.group_size.shape[0])

    @property
    def n_snapshots(self) -> int:
        """Number of snapshots S."""
        return int(self.snapshot_times.shape[0])

    def snapshot_of(self, time: NDArray[np.float64]) -> NDArray[np.int64]:
        """Newest snapshot strictly before each time ``[N]``; 0 where there is none yet."""
        found = np.searchsorted(self.snapshot_times.cpu().numpy(), time, "left")
        return found.astype(np.int64, copy=False)

    def group_of(self, snapshot: torch.Tensor, user: torch.Tensor) -> torch.Tensor:
        """Row ``[B]`` (int64) of the group arrays for snapshots and users ``[B]``."""
        return self.user_group[snapshot, user].long()

    def codes_of(self, snapshot: torch.Tensor, user: torch.Tensor) -> torch.Tensor:
        """Codes ``[B, M]`` (int64) for snapshots and users ``[B]``; 0 is unknown."""
        return self.user_codes[snapshot, user].long()

    def membership(self, snapshot: int) -> Membership:
        """Who belongs to which group in a snapshot, and which group each user reads.

        Everything that counts over groups asks here, so that groups with weights can take the
        place of one group a user.
        """
        read = self.user_group[snapshot].cpu().numpy()
        codes = self.user_codes[snapshot].cpu().numpy()
        return Membership.nested(belongs_to(read, codes, self.group_level), read)

    def to(self, device: torch.device | str) -> GroupTables:
        """The same tables with all arrays but the snapshot times on ``device``."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("user_group", "user_codes", "group_seq", "group_size"):
            values[name] = values[name].to(device)
        values["group_attr"] = {n: v.to(device) for n, v in self.group_attr.items()}
        return GroupTables(**values)


def _check_leak(table: SemanticTable, first_validation_time: float | None) -> None:
    last = float(table.snapshot_times[-1])
    if first_validation_time is not None and last > first_validation_time:
        raise TableError(
            f"{table.path}: the last snapshot is of time {last!r}, later than the first validation"
            f" row at {first_validation_time!r}: it would carry validation events into a model"
        )


def _attribute(
    table: SemanticTable, name: str, spec: Mapping[str, int] | Scale, counts: dict[str, int]
) -> torch.Tensor:
    """Values ``[G]`` of one group attribute in the dataset's own ids or scale."""
    kind = table.attributes[name]
    if (kind == "float") != isinstance(spec, Scale):
        expected = "float" if isinstance(spec, Scale) else "token"
        raise TableError(
            f"{table.path}: attribute '{name}' is {expected} in the dataset, got {kind}"
        )
    column = tf.ATTR_PREFIX + name
    if isinstance(spec, Scale):
        value = (table.groups.floats(column) - spec.mean) / spec.std
        value = np.nan_to_num(value, nan=0.0)
        return torch.from_numpy(np.append(0.0, value).astype(np.float32))
    raw = table.groups.strings(column)
    vocabulary = pa.array([str(v) for v in spec], pa.string())
    at = pc.fill_null(pc.index_in(raw, vocabulary), -1).to_numpy(zero_copy_only=False)
    ids = np.append(np.fromiter(spec.values(), np.int64, len(spec)), 0)[at]
    lost = (at < 0) & np.asarray(pc.is_valid(raw))
    if lost.any():
        counts[f"unknown_{name}"] = int(lost.sum())
        logger.warning(
            "semantic table %s: %d of %d groups have a '%s' that the dataset lacks; they use 0",
            table.path, int(lost.sum()), len(raw), name,
        )  # fmt: skip
    return torch.from_numpy(np.append(0, ids).astype(np.int64))


def _sequences(table: SemanticTable, items: pa.Array) -> torch.Tensor:
    """Behaviour sequences int32 ``[G, L_G]`` in internal ids."""
    raw, lengths = table.groups.lists(tf.SEQUENCE)
    ids = internal_ids(raw, items)
    check_known(table.path, "items of group sequences", raw, ids, len(items))
    out = np.zeros((len(lengths) + 1, max(1, int(lengths.max(initial=0)))), dtype=np.int32)
    group = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    out[group, np.arange(len(ids)) - first] = ids
    return torch.from_numpy(out)
