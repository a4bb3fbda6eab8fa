"""A small semantic table on disk, as somebody else's tool might write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Writer = Callable[..., Path]

USERS: dict[str, Any] = {
    "snapshot": [1, 1, 2, 2, 2],
    "user_id": ["u1", "u2", "u1", "u2", "u3"],
    "code_1": [0, 1, 1, 1, -1],
    "code_2": [2, 0, 0, 2, -1],
    "group_id": ["0", "1-0", "1", "1", None],
}
GROUPS: dict[str, Any] = {
    "snapshot": [1, 1, 2],
    "group_id": ["0", "1-0", "1"],
    "level": [1, 2, 1],
    "size": [7, 3, 9],
    "n_events": [20, 5, 40],
    "attr_gender": ["F", None, "M"],
    "attr_age": [30.0, np.nan, 20.0],
    "sequence": [["i2", "i1"], [], ["i3", "i1", "i2"]],
}
ITEMS: dict[str, Any] = {
    "snapshot": [2, 1, 1, 2, 2],
    "item_id": ["i2", "i1", "i2", "i1", "i3"],
    "code_1": [0, 1, 0, 2, -1],
    "code_2": [1, 0, 1, 0, -1],
    "group_id": ["0-1", "1", "0-1", "2", None],
    "vector": [1, 0, 1, 0, -1],
}
VECTORS = np.array([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]], dtype=np.float32)
ITEM_MANIFEST: dict[str, Any] = {"item_n_levels": 2, "item_n_clusters": [3, 2]}
MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "snapshots": [{"index": 1, "time": 10.0}, {"index": 2, "time": 20.0}],
    "n_levels": 2,
    "n_clusters": [2, 3],
}


@pytest.fixture
def write_table(tmp_path: Path) -> Writer:
    """Write the table above with changes: ``write(users={...}, groups={...}, n_levels=3)``."""

    def write(
        users: dict[str, Any] | None = None, groups: dict[str, Any] | None = None, **manifest: Any
    ) -> Path:
        folder = tmp_path / "table"
        folder.mkdir(exist_ok=True)
        for name, base, change in (("users", USERS, users), ("groups", GROUPS, groups)):
            columns = {k: v for k, v in {**base, **(change or {})}.items() if v is not None}
            types = {"sequence": pa.list_(pa.string()), "attr_age": pa.float64()}
            arrays = {
                k: pa.array(v, types.get(k, pa.int32() if k in INT else None), from_pandas=True)
                if not isinstance(v, pa.Array)
                else v
                for k, v in columns.items()
            }
            pq.write_table(pa.table(arrays), folder / f"{name}.parquet")
        text = json.dumps({k: v for k, v in {**MANIFEST, **manifest}.items() if v is not None})
        (folder / "manifest.json").write_text(text)
        return folder

    return write


@pytest.fixture
def write_items(write_table: Writer) -> Writer:
    """The same with items: ``write(items={...}, vectors=array, item_n_levels=3)``."""

    def write(items: dict[str, Any] | None = None, vectors: Any = VECTORS, **more: Any) -> Path:
        folder = write_table(**{**ITEM_MANIFEST, **more})
        columns = {k: v for k, v in {**ITEMS, **(items or {})}.items() if v is not None}
        arrays = {
            k: pa.array(v, pa.int32() if k in INT else None) if not isinstance(v, pa.Array) else v
            for k, v in columns.items()
        }
        pq.write_table(pa.table(arrays), folder / "items.parquet")
        if vectors is not None:
            np.save(folder / "item_vectors.npy", vectors)
        return folder

    return write


INT = {"snapshot", "code_1", "code_2", "level", "size", "n_events", "vector"}
