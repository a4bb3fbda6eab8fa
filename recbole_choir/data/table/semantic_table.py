"""Reading a semantic table from disk and checking that it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_choir import table_format as tf
from recbole_choir.data.members import prefix_levels
from recbole_choir.data.table.checks import (
    check_codes,
    check_rows,
    check_snapshots,
    check_unique,
    codebook_sizes,
    readable,
    snapshot_keys,
)
from recbole_choir.data.table.ids import IdStamp
from recbole_choir.data.table.item_files import ItemPart
from recbole_choir.data.table.parquet import Columns, read_columns
from recbole_choir.data.table.soft_files import SoftPart
from recbole_choir.errors import TableError, nearest
from recbole_choir.files import parse_json
from recbole_choir.table_seal import RowsStamp, check_seal, sealed_interactions


@dataclass(frozen=True)
class SemanticTable:
    """A table as it lies on disk, in raw ids, its parts checked against each other.

    Args:
        path: The table's folder.
        fingerprint: Of its content.
        snapshot_times: ``[S]`` float64, ascending.
        n_codes: Codewords at each level.
        attributes: Group attribute -> ``token`` or ``float``.
        users: Columns of ``users.parquet``.
        groups: Columns of ``groups.parquet``.
        user_group: ``[rows of users]`` row of ``groups`` each user reads, -1 for none.
        group_level: ``[rows of groups]`` how many codes each stands for, of
            :func:`~.members.prefix_levels`.
        ids: ``users`` and ``items`` that the maker stamped; empty for a table without stamps.
        items: Semantic ids and content vectors of items, or None where the table has none.
        soft: Soft groups of users, or None where the table has none.
        made_from: The interactions that each snapshot was made from; None where the table has no
            seal that says so.
    """

    path: Path
    fingerprint: str
    snapshot_times: NDArray[np.float64]
    n_codes: list[int]
    attributes: dict[str, str]
    users: Columns
    groups: Columns
    user_group: NDArray[np.int64]
    group_level: NDArray[np.int64]
    ids: dict[str, IdStamp]
    items: ItemPart | None = None
    soft: SoftPart | None = None
    made_from: list[RowsStamp] | None = None

    @classmethod
    def load(cls, path: str | Path, sealed: bool = True) -> SemanticTable:
        """Read a table and check everything that can be checked without the dataset.

        Args:
            path: The table's folder (form: :mod:`recbole_choir.table_format`).
            sealed: Compare its files with its seal (:mod:`recbole_choir.table_seal`).

        Returns:
            The table.

        Raises:
            TableError: A file is another than when the table was sealed, a file or column is
                missing or damaged, the format is of another version, a code or snapshot is out of
                range, a row is there twice, or a user's group is not among the groups of its
                snapshot.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        made_from = None
        if sealed and check_seal(folder, manifest):
            made_from = sealed_interactions(folder, manifest)
        times = _snapshot_times(manifest, folder)
        n_codes = codebook_sizes(manifest, folder)
        codes = [tf.code_column(level) for level in range(1, len(n_codes) + 1)]
        users = read_columns(folder / tf.USERS, [tf.SNAPSHOT, tf.USER_ID, *codes, tf.GROUP_ID])
        groups = read_columns(
            folder / tf.GROUPS, [tf.SNAPSHOT, tf.GROUP_ID, tf.SIZE, tf.SEQUENCE], everything=True
        )
        for name, columns in (("users", users), ("groups", groups)):
            check_rows(manifest, folder, name, len(columns))
            check_snapshots(folder, name, columns, len(times))
        check_codes(users, codes, n_codes)
        check_unique(folder, "users", users, tf.USER_ID)
        groups.ints(tf.SIZE)
        groups.lists(tf.SEQUENCE)
        user_group = _match_groups(folder, users, groups)
        user_codes = np.stack([users.ints(name) for name in codes], axis=1)
        return cls(
            path=folder,
            fingerprint=str(manifest.get("fingerprint") or _file_fingerprint(folder)),
            snapshot_times=times,
            n_codes=n_codes,
            attributes=_attributes(manifest, folder, groups),
            users=users,
            groups=groups,
            user_group=user_group,
            group_level=prefix_levels(groups.strings(tf.GROUP_ID), user_group, user_codes),
            ids=_id_stamps(manifest),
            items=ItemPart.load(folder, manifest, len(times)),
            soft=SoftPart.load(folder, manifest, len(times)),
            made_from=made_from,
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a table's manifest.

    Raises:
        TableError: The folder, the manifest or a readable form of it is missing, or the format is
            of another version.
    """
    path = folder / tf.MANIFEST
    if not folder.is_dir():
        raise TableError(f"semantic table: expected a folder, found none at {folder}")
    if not path.is_file():
        raise TableError(f"{folder}: expected a semantic table, found no {tf.MANIFEST} in it")
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(
            f"{path}: not a readable manifest: {' '.join(str(error).split())}"
        ) from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != tf.FORMAT_VERSION:
        raise TableError(f"{path}: expected format_version {tf.FORMAT_VERSION}, got {version!r}")
    return manifest


def _snapshot_times(manifest: Mapping[str, Any], folder: Path) -> NDArray[np.float64]:
    try:
        listed = [(int(s["index"]), float(s["time"])) for s in manifest["snapshots"]]
    except (KeyError, TypeError, ValueError):
        raise TableError(
            f"{folder / tf.MANIFEST}: expected snapshots as a list of index and time,"
            f" got {manifest.get('snapshots')!r}"
        ) from None
    times = np.array([t for _, t in listed], dtype=np.float64)
    in_order = [i for i, _ in listed] == list(range(1, len(listed) + 1))
    if not listed or not in_order or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise TableError(
            f"{folder / tf.MANIFEST}: expected snapshots numbered from 1 with rising times,"
            f" got {listed}"
        )
    return times


def _match_groups(folder: Path, users: Columns, groups: Columns) -> NDArray[np.int64]:
    """Row of ``groups`` of each row of ``users`` (-1: none), by (snapshot, group id)."""
    check_unique(folder, "groups", groups, tf.GROUP_ID)
    wanted = users.strings(tf.GROUP_ID)
    found = pc.index_in(snapshot_keys(users, tf.GROUP_ID), snapshot_keys(groups, tf.GROUP_ID))
    lost = pc.and_(pc.is_null(found), pc.is_valid(wanted))
    if pc.any(lost).as_py():
        missing = pc.filter(snapshot_keys(users, tf.GROUP_ID), lost)
        raise TableError(
            f"{folder / tf.USERS}: {len(missing)} rows name a group that {tf.GROUPS} lacks in that"
            f" snapshot, such as {readable(missing)}"
        )
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _attributes(manifest: Mapping[str, Any], folder: Path, groups: Columns) -> dict[str, str]:
    """Kind of each group attribute: as the manifest says, else by the column's type."""
    present = {
        n.removeprefix(tf.ATTR_PREFIX): groups.table.schema.field(n).type
        for n in groups.table.column_names
        if n.startswith(tf.ATTR_PREFIX)
    }
    declared = manifest.get("user_attributes")
    if not isinstance(declared, dict):
        return {n: "float" if pa.types.is_floating(t) else "token" for n, t in present.items()}
    for name, kind in declared.items():
        if name not in present:
            raise TableError(
                f"{folder / tf.GROUPS}: expected a column {tf.ATTR_PREFIX}{name},"
                f" got {sorted(present)}{nearest(name, present)}"
            )
        numeric = pa.types.is_floating(present[name]) or pa.types.is_integer(present[name])
        if kind not in ("token", "float") or (kind == "float") != numeric:
            raise TableError(
                f"{folder / tf.GROUPS}: attribute '{name}' is declared {kind!r},"
                f" got a column of type {present[name]}"
            )
    return {str(n): str(k) for n, k in declared.items()}


def _id_stamps(manifest: Mapping[str, Any]) -> dict[str, IdStamp]:
    inputs = manifest.get("inputs")
    out: dict[str, IdStamp] = {}
    for name in ("users", "items"):
        entry = inputs.get(name) if isinstance(inputs, dict) else None
        if isinstance(entry, dict) and entry.get("fingerprint"):
            rows = entry.get("rows")
            out[name] = IdStamp(None if rows is None else int(rows), str(entry["fingerprint"]))
    return out


def _file_fingerprint(folder: Path) -> str:
    """Fingerprint of the files that are read, for a table whose maker gave none."""
    digest = hashlib.sha256()
    for name in (tf.USERS, tf.GROUPS, tf.ITEMS, tf.ITEM_VECTORS, tf.SOFT, tf.SOFT_VECTORS):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
