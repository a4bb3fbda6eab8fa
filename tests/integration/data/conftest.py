"""A toy dataset with every kind of gap, and configurations for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_choir.integration.config import ChoirConfig

Row = tuple[str, str, float, float]
START = 1_600_000_000.0


def toy_rows(n: int = 240, seed: int = 0) -> list[Row]:
    """``(user, item, rating, time)`` in file order, which is not the order of time.

    Stamps are 30 s apart, and some are shared. u9 and i9 appear in the last rows only.
    """
    rng = np.random.default_rng(seed)
    stamps = START + 30.0 * np.sort(rng.integers(0, n, n))
    rows = [
        (f"u{rng.integers(1, 9)}", f"i{rng.integers(1, 9)}", float(rng.integers(1, 6)), float(t))
        for t in stamps
    ]
    for k in range(n - 6, n):
        rows[k] = ("u9", "i9" if k % 2 else "i1", rows[k][2], rows[k][3])
    return [rows[i] for i in rng.permutation(n)]


def write_inter(path: Path, rows: list[Row]) -> None:
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\thour:token\tprice:float\n"
    lines = [
        f"{u}\t{i}\t{r:g}\t{t:.1f}\t{int(t // 3600) % 24}\t{(t // 30) % 7:g}\n"
        for u, i, r, t in rows
    ]
    path.write_text(head + "".join(lines))


def write_sides(folder: Path) -> None:
    """u8 has no attributes at all, u7 lacks single ones; i8 lacks its category."""
    users = [f"u{k}\t{'F' if k % 2 else 'M'}\t{150 + k}\tx{k} y\n" for k in range(1, 7)]
    users += ["u7\t\t\t\n", "u9\tM\t170\tx1\n"]
    head = "user_id:token\tgender:token\theight:float\ttags:token_seq\n"
    (folder / "toy.user").write_text(head + "".join(users))
    items = [f"i{k}\tThe item {k}\t{'a b' if k % 2 else 'b'}\tm{k % 3}\n" for k in range(1, 8)]
    items += ["i8\t\t\tm0\n", "i9\tA late one\tc\tm1\n"]
    head = "item_id:token\ttitle:token_seq\tgenre:token_seq\tmaker:token\n"
    (folder / "toy.item").write_text(head + "".join(items))


@pytest.fixture
def write_toy(toy: Path) -> Callable[..., None]:
    """``write_toy(rows)``: other interactions; ``write_toy(rows, "test")``: a pre-split file."""

    def write(rows: list[Row], part: str = "") -> None:
        write_inter(toy / "toy" / f"toy{'.' if part else ''}{part}.inter", rows)

    return write


@pytest.fixture
def rows_of_toy() -> list[Row]:
    """The rows of `toy` in file order: (user, item, rating, time)."""
    return toy_rows()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A data_path with the dataset `toy`."""
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    write_inter(folder / "toy.inter", toy_rows())
    write_sides(folder)
    return tmp_path / "data"


VALUES: dict[str, Any] = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp", "hour", "price"],
        "user": ["user_id", "gender", "height", "tags"],
        "item": ["item_id", "genre", "maker"],
    },
    "threshold": {"rating": 4},
    "filter_inter_by_user_or_item": False,
    "category_field": "genre",
    "title_field": "title",
    "history_length": 6,
    "train_batch_size": 32,
    "eval_batch_size": 50,
    "state": "WARNING",
    "gpu_id": "",
    "reproducibility": True,
}


@pytest.fixture
def write_table(toy: Path) -> Callable[..., Path]:
    """Write a semantic table for `toy` with snapshots at the given fractions of its time."""

    def write(fractions: tuple[float, ...] = (0.2, 0.6)) -> Path:
        folder = toy / "table"
        folder.mkdir(exist_ok=True)
        times = [START + 30.0 * 240 * f for f in fractions]
        numbers = range(1, len(fractions) + 1)
        known = ["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"]
        rows = [(s, u, (k + s) % 2, k % 3) for s in numbers for k, u in enumerate(known)]
        people = {
            "snapshot": pa.array([r[0] for r in rows], pa.int32()),
            "user_id": pa.array([r[1] for r in rows]),
            "code_1": pa.array([r[2] for r in rows], pa.int32()),
            "code_2": pa.array([r[3] for r in rows], pa.int32()),
            "group_id": pa.array([str(r[2]) for r in rows]),
        }
        groups = [(s, g) for s in numbers for g in ("0", "1")]
        about = {
            "snapshot": pa.array([g[0] for g in groups], pa.int32()),
            "group_id": pa.array([g[1] for g in groups]),
            "level": pa.array([1 for _ in groups], pa.int32()),
            "size": pa.array([4 for _ in groups], pa.int32()),
            "n_events": pa.array([9 for _ in groups], pa.int32()),
            "attr_gender": pa.array(["F" if g[1] == "0" else None for g in groups]),
            "attr_height": pa.array([155.0 for _ in groups], pa.float64()),
            "sequence": pa.array([[f"i{s}", f"i{s + 3}", "i7"][: s + 1] for s, _ in groups]),
        }
        pq.write_table(pa.table(people), folder / "users.parquet")
        pq.write_table(pa.table(about), folder / "groups.parquet")
        manifest = {
            "format_version": 1,
            "snapshots": [{"index": i, "time": t} for i, t in zip(numbers, times)],
            "n_levels": 2,
            "n_clusters": [2, 3],
            "user_attributes": {"gender": "token", "height": "float"},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write


@pytest.fixture
def write_item_table(write_table: Callable[..., Path]) -> Callable[..., Path]:
    """The table of ``write_table`` with ids and vectors of items; i8 has no vector, i9 no row."""

    def write(fractions: tuple[float, ...] = (0.2, 0.6)) -> Path:
        folder = write_table(fractions)
        numbers = range(1, len(fractions) + 1)
        rows = [(s, k, (k + s) % 3, k % 2) for s in numbers for k in range(1, 9)]
        things = {
            "snapshot": pa.array([r[0] for r in rows], pa.int32()),
            "item_id": pa.array([f"i{r[1]}" for r in rows]),
            "code_1": pa.array([r[2] for r in rows], pa.int32()),
            "code_2": pa.array([r[3] for r in rows], pa.int32()),
            # Small clusters have backed off to their prefix.
            "group_id": pa.array([f"{r[2]}-{r[3]}" if r[2] == 2 else str(r[2]) for r in rows]),
            "vector": pa.array([r[1] - 1 if r[1] < 8 else -1 for r in rows], pa.int32()),
        }
        pq.write_table(pa.table(things), folder / "items.parquet")
        vectors = np.arange(1, 8, dtype=np.float32)[:, None] * np.float32([1.0, -0.5])
        np.save(folder / "item_vectors.npy", vectors)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest |= {"item_n_levels": 2, "item_n_clusters": [3, 2], "sizes": {"items": len(rows)}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write


@pytest.fixture
def make_config(toy: Path) -> Callable[..., ChoirConfig]:
    """``make_config(model, key=value, ...)`` for the dataset `toy`."""

    def make(model: str = "Base", **values: Any) -> ChoirConfig:
        merged = {**VALUES, "data_path": str(toy), **values}
        merged = {k: v for k, v in merged.items() if v != "default"}
        return ChoirConfig(model=model, dataset="toy", config_dict=merged)

    return make
