"""The sweep of K allows small groups, so that too many codewords can show what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.experiments.plan import load_rows, rows_dir
from recbole_choir.semantic import build, load_recipe

VALUES = load_rows("ChoirRec", rows_dir()).sweep["K"]


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    n = 600
    events = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in rng.integers(0, 60, n)],
            "item_id": [f"i{i:02d}" for i in rng.integers(0, 20, n)],
            "timestamp": np.arange(n, dtype=float),
            "label": rng.integers(0, 2, n),
        }
    )
    items = pd.DataFrame({"item_id": [f"i{i:02d}" for i in range(20)], "category": "k"})
    return events, items


@pytest.mark.parametrize("value", list(VALUES))
def test_every_point_of_the_sweep_reads_whole_codes(value: str, tmp_path: Path) -> None:
    recipe = load_recipe("embedded", {**VALUES[value]["semantic"], "input": "random"})
    assert recipe.min_members == 1
    events, items = frames()
    folder = build(events, None, items, recipe, tmp_path / "t", show_progress=False)
    users = pd.read_parquet(folder / "users.parquet")
    assert (users["group_id"].str.count("-") == recipe.n_levels - 1).all()
    known = sorted(users["user_id"].unique())
    groups = GroupTables.join(
        SemanticTable.load(folder),
        np.array(["[PAD]", *known]),
        np.array(["[PAD]", *items["item_id"]]),
    )
    index = groups.membership(1).index
    read = np.unique(index[index > 0])
    size = np.bincount(index[index > 0], minlength=groups.n_groups)
    assert size[read].tolist() == groups.group_size.numpy()[read].tolist()


def test_at_large_k_groups_of_one_are_read_and_the_default_backs_off(tmp_path: Path) -> None:
    events, items = frames()
    smallest = {}
    for name, changes in (
        ("swept", VALUES["2"]["semantic"]),
        ("default", {"users_per_group": 2.5}),
    ):
        recipe = load_recipe("embedded", {**changes, "input": "random"})
        folder = build(events, None, items, recipe, tmp_path / name, show_progress=False)
        sizes = json.loads((folder / "quality.json").read_text())["snapshots"][0]["group_sizes"]
        smallest[name] = next(k for k, n in sizes.items() if n)
    # the default backs off as far as the first level, which is read whatever its size
    assert smallest == {"swept": "1", "default": "10-19"}
