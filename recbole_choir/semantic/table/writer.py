"""Writing a semantic table: whole or not at all (form: :mod:`recbole_choir.table_format`)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recbole_choir.errors import TableError
from recbole_choir.files import parse_json
from recbole_choir.processes import is_alive
from recbole_choir.semantic.frames.fingerprint import fingerprint_columns, fingerprint_json
from recbole_choir.semantic.soft.files import soft_arrow, soft_vectors_arrow
from recbole_choir.semantic.soft.groups import SoftContent
from recbole_choir.table_format import (
    ATTR_PREFIX,
    EMBEDDINGS,
    FORMAT_VERSION,
    GROUP_ID,
    GROUPS,
    ITEM_ID,
    ITEM_VECTORS,
    ITEMS,
    LEVEL,
    MANIFEST,
    N_EVENTS,
    PROFILES,
    QUALITY,
    SEQUENCE,
    SIZE,
    SNAPSHOT,
    SOFT,
    SOFT_VECTORS,
    USER_ID,
    USERS,
    VECTOR,
    code_column,
)
from recbole_choir.table_seal import SEAL, RowsStamp, make_seal

logger = logging.getLogger(__name__)

QUALITY_TEXT = "quality.txt"


@dataclass(frozen=True)
class ItemContent:
    """The items of a table.

    Args:
        rows: ``snapshot``, ``item_id``, ``code_1`` ..., ``group_id``, ``vector``.
        vectors: float32 [V, d], the rows that ``vector`` counts from 0.
        n_clusters: Codewords at each level.
    """

    rows: pd.DataFrame
    vectors: NDArray[np.float32]
    n_clusters: list[int]

    def parts(self) -> dict[str, Any]:
        """What enters the table's fingerprint."""
        return {
            "n_clusters": [int(k) for k in self.n_clusters],
            "items": fingerprint_columns(self.rows, list(self.rows.columns)),
            "vectors": hashlib.sha256(self.vectors.astype("<f4").tobytes()).hexdigest(),
            "shape": list(self.vectors.shape),
        }


@dataclass
class TableContent:
    """What goes into a table.

    Args:
        recipe: The recipe as plain values.
        key: Fingerprint of recipe and inputs: two tables with one key have the same content.
        snapshot_times: Epoch seconds, increasing.
        n_clusters: Codewords at each level.
        user_attributes: Field -> ``token`` or ``float``.
        users: ``snapshot``, ``user_id``, ``code_1`` ..., ``group_id``.
        groups: ``snapshot``, ``group_id``, ``level``, ``size``, ``n_events``, ``attr_*``,
            ``sequence``.
        inputs: Rows and fingerprint of each input.
        versions: Versions of what made the table.
        statistics: Counts and figures worth reading.
        profiles: ``snapshot``, ``user_id``, ``text``; only the rows whose text is new.
        embeddings: Vectors of the last snapshot, float32 [n_users, d]; zeros where there is none.
        quality: The quality report as plain values.
        quality_text: The same for people.
        items: Ids, clusters and vectors of the items; None if the recipe makes none.
        soft: Soft groups of the users; None if the recipe makes none.
        write_codebooks: Called with the folder to write the codebooks into.
        made_from: The interactions strictly before each snapshot, for the seal.
    """

    recipe: Mapping[str, Any]
    key: str
    snapshot_times: list[float]
    n_clusters: list[int]
    user_attributes: Mapping[str, str]
    users: pd.DataFrame
    groups: pd.DataFrame
    inputs: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    profiles: pd.DataFrame | None = None
    embeddings: np.ndarray | None = None
    quality: Mapping[str, Any] | None = None
    quality_text: str | None = None
    items: ItemContent | None = None
    soft: SoftContent | None = None
    write_codebooks: Callable[[Path], None] | None = None
    made_from: Sequence[RowsStamp] | None = None

    def fingerprint(self) -> str:
        """Fingerprint of what a model reads: snapshots, users, groups, items and soft groups."""
        return fingerprint_json(
            {
                "snapshots": [float(t).hex() for t in self.snapshot_times],
                "n_clusters": [int(k) for k in self.n_clusters],
                "attributes": dict(self.user_attributes),
                "users": fingerprint_columns(self.users, list(self.users.columns)),
                "groups": fingerprint_columns(self.groups, list(self.groups.columns)),
                **({} if self.items is None else {"items": self.items.parts()}),
                **({} if self.soft is None else {"soft": self.soft.parts()}),
            }
        )


def write_table(content: TableContent, out_dir: str | Path) -> Path:
    """Write a table into a temporary folder next to ``out_dir`` and rename it when it is whole.

    A table that stands there already is replaced. A run that is killed leaves the old state, and
    the next one clears what it had begun.

    Args:
        content: The table.
        out_dir: The table's folder.

    Returns:
        ``out_dir``.

    Raises:
        TableError: ``out_dir`` holds something that is not a table, or it cannot be written.
    """
    out = Path(out_dir)
    _refuse_strangers(out)
    temporary = _beside(out, "writing")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        temporary.mkdir()
        _write_files(content, temporary)
        _swap(temporary, out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TableError(f"{out}: the semantic table could not be written: {reason}") from None
    except pa.ArrowException as error:
        line = " ".join(str(error).split())
        raise TableError(f"{out}: the semantic table could not be written: {line}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def read_manifest(table: str | Path) -> dict[str, Any]:
    """Read a table's manifest.

    Raises:
        TableError: It is not there or cannot be read.
    """
    path = Path(table) / MANIFEST
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())
        raise TableError(f"{path}: not a readable manifest of a semantic table: {line}") from None
    if not isinstance(manifest, dict):
        raise TableError(f"{path}: expected a JSON object, got {type(manifest).__name__}")
    return manifest


def is_whole(table: str | Path, key: str) -> bool:
    """Whether a folder holds an undamaged table with that key (recipe and inputs)."""
    folder = Path(table)
    if not (folder / MANIFEST).is_file():
        return False
    try:
        manifest = read_manifest(folder)
    except TableError:
        return False
    sizes = manifest.get("files")
    if manifest.get("key") != key or not isinstance(sizes, dict):
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in sizes.items()
    )


def _write_files(content: TableContent, folder: Path) -> None:
    pq.write_table(_users_arrow(content), folder / USERS, compression="zstd")
    pq.write_table(_groups_arrow(content), folder / GROUPS, compression="zstd")
    if content.items is not None:
        pq.write_table(_items_arrow(content.items), folder / ITEMS, compression="zstd")
        np.save(folder / ITEM_VECTORS, content.items.vectors)
    if content.soft is not None:
        pq.write_table(soft_arrow(content.soft), folder / SOFT, compression="zstd")
        if content.soft.spaces:
            vectors = soft_vectors_arrow(content.soft)
            pq.write_table(vectors, folder / SOFT_VECTORS, compression="zstd")
    if content.profiles is not None:
        content.profiles.to_json(folder / PROFILES, orient="records", lines=True, force_ascii=False)
        (folder / PROFILES).chmod(0o600)  # what is told of users is for their owner alone
    if content.embeddings is not None:
        np.save(folder / EMBEDDINGS, content.embeddings)
    if content.write_codebooks is not None:
        content.write_codebooks(folder)
    if content.quality is not None:
        (folder / QUALITY).write_text(json.dumps(content.quality, indent=2) + "\n", "utf-8")
    if content.quality_text is not None:
        (folder / QUALITY_TEXT).write_text(content.quality_text, "utf-8")
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": content.fingerprint(),
        "key": content.key,
        "recipe": dict(content.recipe),
        "snapshots": [{"index": i, "time": t} for i, t in enumerate(content.snapshot_times, 1)],
        "n_levels": len(content.n_clusters),
        "n_clusters": list(content.n_clusters),
        "user_attributes": dict(content.user_attributes),
        "inputs": dict(content.inputs),
        **_of_items(content.items),
        **({} if content.soft is None else {"soft": content.soft.for_manifest()}),
        "sizes": _sizes(content),
        "statistics": dict(content.statistics),
        "versions": dict(content.versions),
        "files": {p.name: p.stat().st_size for p in sorted(folder.iterdir())},
    }
    manifest[SEAL] = make_seal(folder, manifest, content.made_from)
    # Last, so that a folder with a manifest is a folder with everything.
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, "utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _of_items(items: ItemContent | None) -> dict[str, Any]:
    if items is None:
        return {}
    return {
        "item_n_levels": len(items.n_clusters),
        "item_n_clusters": list(items.n_clusters),
    }


def _sizes(content: TableContent) -> dict[str, int]:
    sizes = {"users": len(content.users), "groups": len(content.groups)}
    if content.items is not None:
        sizes |= {"items": len(content.items.rows), "item_vectors": len(content.items.vectors)}
    if content.soft is not None:
        sizes["soft"] = sum(matrix.nnz for matrix in content.soft.weights)
    return sizes


def _items_arrow(items: ItemContent) -> pa.Table:
    rows = items.rows
    columns: dict[str, pa.Array] = {
        SNAPSHOT: pa.array(rows[SNAPSHOT].to_numpy(np.int32)),
        ITEM_ID: _strings(rows[ITEM_ID]),
    }
    for level in range(1, len(items.n_clusters) + 1):
        columns[code_column(level)] = pa.array(rows[code_column(level)].to_numpy(np.int32))
    columns[GROUP_ID] = _strings(rows[GROUP_ID])
    columns[VECTOR] = pa.array(rows[VECTOR].to_numpy(np.int32))
    return pa.table(columns)


def _users_arrow(content: TableContent) -> pa.Table:
    users = content.users
    columns: dict[str, pa.Array] = {
        SNAPSHOT: pa.array(users[SNAPSHOT].to_numpy(np.int32)),
        USER_ID: _strings(users[USER_ID]),
    }
    for level in range(1, len(content.n_clusters) + 1):
        columns[code_column(level)] = pa.array(users[code_column(level)].to_numpy(np.int32))
    columns[GROUP_ID] = _strings(users[GROUP_ID])
    return pa.table(columns)


def _groups_arrow(content: TableContent) -> pa.Table:
    groups = content.groups
    columns: dict[str, pa.Array] = {
        SNAPSHOT: pa.array(groups[SNAPSHOT].to_numpy(np.int32)),
        GROUP_ID: _strings(groups[GROUP_ID]),
    }
    for name in (LEVEL, SIZE, N_EVENTS):
        columns[name] = pa.array(groups[name].to_numpy(np.int32))
    for name, kind in content.user_attributes.items():
        values = groups[ATTR_PREFIX + name]
        columns[ATTR_PREFIX + name] = (
            pa.array(values.to_numpy(np.float64), from_pandas=True)
            if kind == "float"
            else _strings(values)
        )
    columns[SEQUENCE] = pa.array(groups[SEQUENCE].tolist(), pa.list_(pa.string()))
    return pa.table(columns)


def _strings(values: pd.Series) -> pa.Array:
    return pa.array(values.to_numpy(object), pa.string(), from_pandas=True)


def _beside(out: Path, state: str) -> Path:
    return out.parent / f".{out.name}.{state}-{socket.gethostname()}-{os.getpid()}"


def _sweep(out: Path) -> None:
    """Clear what killed runs on this machine left next to the table."""
    for state in ("replaced", "writing"):
        for left in sorted(out.parent.glob(f".{out.name}.{state}-{socket.gethostname()}-*")):
            pid = left.name.rsplit("-", 1)[1]
            # what bears our own number was left by an earlier process
            if not pid.isdigit() or (int(pid) != os.getpid() and is_alive(int(pid))):
                continue
            if state == "replaced" and not out.exists():
                left.rename(out)  # killed between the two renames: the old table goes back
            else:
                shutil.rmtree(left, ignore_errors=True)


def _refuse_strangers(out: Path) -> None:
    if not out.exists() or (out / MANIFEST).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise TableError(
            f"{out}: expected a new or empty folder or a semantic table, "
            f"got something without {MANIFEST}: not replaced"
        )


def _swap(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
        return
    # Renaming onto a full folder is not possible: the old one steps aside first.
    aside = _beside(out, "replaced")
    out.rename(aside)
    try:
        temporary.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)
