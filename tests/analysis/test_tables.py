"""Tables are made from records alone; failed cells are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_choir.analysis.tables import comparison, gates, load_records, markdown_tables


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
