"""A folder of records as a study leaves it, small enough to work out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_choir.semantic.table.writer import TableContent, write_table

LEVELS = [f"level_{k}" for k in range(1, 6)]
OTHERS = (
    *("low", "rest", "new_users", "new_items", "head_users", "tail_users", "head_items"),
    *("tail_items", "tail_sample"),
)


def record(cell: str, seed: int, gauc: float, **more: Any) -> dict[str, Any]:
    """A finished run: GAUC of level k is ``gauc + k / 100``, AUC is higher by 0.1."""

    def row(value: float) -> dict[str, Any]:
        return {
            "auc": value + 0.1,
            "gauc": value,
            "rows": 50,
            "users": 5,
            "positive_share": 0.5,
        }

    segments = {"all": row(gauc), **{name: row(gauc) for name in OTHERS}}
    segments |= {name: row(gauc + k / 100) for k, name in enumerate(LEVELS, 1)}
    norms = {
        name: {"users": 2, "rows_from": k, "rows_to": k + 1, "mean": k + 0.5, "low": k - 1.0}
        | {"median": float(k), "high": k + 1.0}
        for k, name in enumerate(["new", *LEVELS])
    }
    return {
        "dataset": "d",
        "cell": cell,
        "model": cell.split(",")[0],
        "seed": seed,
        "role": "seed",
        "asked": {"epochs": 2, "semantic": {"input": "random"}},
        "rows": {"train": 400, "valid": 50, "test": 50},
        "segments": segments,
        "history": [
            {
                "epoch": epoch,
                "train_loss": 0.7 - epoch / 10,
                "valid": {"gauc": 0.6 + epoch / 10, "auc": 0.7, "logloss": 0.6},
                "diagnostics": {},
            }
            for epoch in range(2)
        ],
        "user_norms": norms,
        "table": {"fingerprint": "f00d"},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "seconds": {"prepare": 1.0, "train": 2.0, "test": 0.5},
        "time": "2026-01-01T00:00:00+00:00",
        **more,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a record into the folder ``records``; returns the folder."""

    def write(cell: str, seed: int, gauc: float = 0.6, **more: Any) -> Path:
        folder = tmp_path / "records"
        folder.mkdir(exist_ok=True)
        name = f"{more.get('dataset', 'd')}-{cell}-{seed}-{more.get('role', 'seed')}.json"
        (folder / name).write_text(json.dumps(record(cell, seed, gauc, **more)))
        return folder

    return write


@pytest.fixture
def study(write: Callable[..., Path]) -> Path:
    """Base and a model with gates at two seeds, a control without norms, a failed cell."""
    gates = {f"mean_alpha_fusion_level_{k}": 0.5 - k / 20 for k in range(1, 6)}
    for seed, base, other in ((1, 0.60, 0.61), (2, 0.62, 0.65)):
        write("Base", seed, base)
        history = [{"epoch": 0, "train_loss": 0.5, "valid": None, "diagnostics": gates}]
        write("ChoirRec, text", seed, other, history=history)
    write("Base", 9, 0.99, role="tune")
    write("Averaged", 1, 0.63, role="average", of=["a.json", "b.json"])
    folder = write("Broken", 1)
    broken = {"dataset": "d", "cell": "Broken", "model": "Broken", "seed": 1, "role": "seed"}
    (folder / "d-Broken-1-seed.json").write_text(json.dumps({**broken, "error": "DataError: bad"}))
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A semantic table of forty users in two groups; one has no group, one a wicked profile."""
    n = 40
    ids = np.array([f"u{i}" for i in range(n)], dtype=object)
    code = np.arange(n) % 2
    code[0] = -1
    group = np.where(code < 0, None, code.astype(str).astype(object))
    profiles = pd.DataFrame({"snapshot": 1, "user_id": ids, "text": [f"likes {i}" for i in ids]})
    profiles.loc[1, "text"] = "</script><script>alert(1)</script><b>bold</b>"
    content = TableContent(
        recipe={"input": "text"},
        key="key",
        snapshot_times=[10.0],
        n_clusters=[2],
        user_attributes={"age": "token"},
        users=pd.DataFrame({"snapshot": 1, "user_id": ids, "code_1": code, "group_id": group}),
        groups=pd.DataFrame(
            {
                "snapshot": 1,
                "group_id": ["0", "1"],
                "level": 1,
                "size": [19, 20],
                "n_events": 5,
                "attr_age": ["young", "old"],
                "sequence": [["a"], ["b"]],
            }
        ),
        inputs={},
        profiles=profiles,
        embeddings=np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32) + code[:, None],
    )
    return write_table(content, tmp_path / "table")
