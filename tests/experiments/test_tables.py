"""Tables are made from records alone; failed cells are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_choir.console import segment_table
from recbole_choir.experiments.tables import comparison, gates, load_records, markdown_tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(cell: str, seed: int, value: float | None, role: str = "seed") -> None:
        content = {"dataset": "d", "cell": cell, "seed": seed, "role": role}
        if value is None:
            content["error"] = "DataError: broken"
        else:
            row = {"auc": value, "gauc": value + 0.1, "rows": 5, "users": 2}
            content["segments"] = {"all": row, "low": {**row, "gauc": None}}
        (tmp_path / f"{cell}-{seed}-{role}.json").write_text(json.dumps(content))

    write("Base", 1, 0.5)
    write("Base", 2, 0.6)
    write("Base", 9, 0.99, role="tune")
    write("Broken", 1, None)
    return tmp_path


def test_mean_and_sample_deviation(folder: Path) -> None:
    table = comparison(load_records(folder), "d", "gauc", ["all", "low"])
    assert table.loc["Base", "all"] == "0.6500 ± 0.0707"
    assert table.loc["Base", "low"] == "-"
    assert table.loc["Base", "runs"] == "2", "the tuning run is not a result"
    assert table.loc["Broken", "runs"] == "failed"


def test_markdown_names_dataset_and_metric(folder: Path) -> None:
    text = markdown_tables(folder)
    assert "**d, test GAUC**" in text
    assert "| Base | 2 | 0.5500 ± 0.0707 |" in text
    assert "| Broken | failed |" in text


def test_asof_segments_are_columns_where_some_record_has_them(folder: Path) -> None:
    assert "asof" not in markdown_tables(folder), "of records of an earlier version"
    row = {"auc": 0.7, "gauc": 0.8}
    segments = {"all": row, "asof_1": row, "n_buy_lt_5": {**row, "gauc": 0.75}}
    content = {"dataset": "d", "cell": "New", "seed": 1, "role": "seed", "segments": segments}
    (folder / "New.json").write_text(json.dumps(content))
    table = comparison(load_records(folder), "d", "gauc")
    assert [c for c in table if c.startswith(("asof", "n_buy"))] == ["asof_1", "n_buy_lt_5"]
    assert table.loc["New", "n_buy_lt_5"] == "0.7500"
    assert table.loc["Base", "n_buy_lt_5"] == "-"


def test_the_table_of_a_run_names_who_is_in_gauc() -> None:
    row = {"auc": 0.7, "gauc": float("nan"), "rows": 1200, "users": 9, "users_one_class": 2}
    row |= {"positive_share": 0.5}
    segments = {"all": {**row, "logloss": 0.25}, "low": row}
    record = {"name": "Base", "dataset": "d", "seed": 1, "segments": segments}
    table = segment_table(record)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells == {
        "segment": ["all", "low"],
        "AUC": ["0.7000", "0.7000"],
        "GAUC": ["-", "-"],
        "LogLoss": ["0.2500", "-"],
        "rows": ["1,200", "1,200"],
        "users": ["9", "9"],
        "users in GAUC": ["7", "7"],
        "positives": ["0.500", "0.500"],
    }


def test_gates_of_the_last_epoch_averaged_over_seeds(tmp_path: Path) -> None:
    for seed, last in ((1, 0.2), (2, 0.4)):
        history = [
            {"diagnostics": {"frac_qualified": 0.9}},
            {"diagnostics": {"frac_qualified": last}},
        ]
        content = {"dataset": "d", "cell": "C", "seed": seed, "role": "seed", "history": history}
        (tmp_path / f"{seed}.json").write_text(json.dumps(content))
    (tmp_path / "base.json").write_text(json.dumps({"dataset": "d", "cell": "B", "role": "seed"}))
    table = gates(tmp_path, "d")
    assert table.loc["C", "qualified"] == "0.300"
    assert list(table.index) == ["C"], "a model without gates has no row"
