"""Records are strict JSON and name no one's machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from recbole_choir.record import file_name, without_machine, write_json


def test_undefined_numbers_are_null(tmp_path: Path) -> None:
    content = {"a": [float("nan"), 1.5], "b": {"c": np.float64("inf")}, "d": (2, None)}
    text = write_json(tmp_path / "r.json", content).read_text()

    def refuse(name: str) -> None:
        raise ValueError(name)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": [None, 1.5], "b": {"c": None}, "d": [2, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"], "no temporary file is left"


def test_absolute_paths_lose_their_folders(tmp_path: Path) -> None:
    config = {"data_path": str(tmp_path / "ml"), "record_dir": "saved/records", "seed": 1}
    assert without_machine(config) == {"data_path": "ml", "record_dir": "saved/records", "seed": 1}


def test_names_become_parts_of_file_names() -> None:
    assert file_name("ChoirRec + group statistics, text_parts") == (
        "ChoirRec_group_statistics_text_parts"
    )


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    one, two = file_name("x" * 400), file_name("x" * 399 + "y")
    assert len(one) == len(two) == 100
    assert one != two
    assert file_name("x" * 100) == "x" * 100
