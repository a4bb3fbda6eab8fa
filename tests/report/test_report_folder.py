"""Records are read and checked before a report is made of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_choir.errors import DataError
from recbole_choir.integration import parse_cli
from recbole_choir.report.records import RecordFolder, command

Write = Callable[..., Path]


def test_the_base_comes_first_and_trials_are_left_out(study: Path) -> None:
    folder = RecordFolder.load(study)
    assert folder.base == "Base"
    assert folder.cells("d") == ["Base", "Averaged", "Broken", "ChoirRec, text"]
    assert folder.n_left_out == 1
    assert [run.record["seed"] for run in folder.of("d") if run.cell == "Base"] == [1, 2]
    assert [run.cell for run in folder.runs if run.failed] == ["Broken"]


def test_another_base_can_be_named(study: Path) -> None:
    assert RecordFolder.load(study, "Averaged").cells("d")[0] == "Averaged"
    with pytest.raises(DataError, match=r"--base 'Bas': no such cell.*did you mean 'Base'"):
        RecordFolder.load(study, "Bas")


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder, found none"):
        RecordFolder.load(tmp_path / "none")
    with pytest.raises(DataError, match=r"expected records of runs \(\*\.json\), found none"):
        RecordFolder.load(tmp_path)


def test_something_else_than_records(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"snapshots": []}')
    with pytest.raises(DataError, match=r"a\.json: expected the record of a run.*snapshots"):
        RecordFolder.load(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not readable JSON"):
        RecordFolder.load(tmp_path)
    (tmp_path / "a.json").write_text('{"dataset": "d", "model": "Base"}')
    with pytest.raises(DataError, match="expected segments with 'all'"):
        RecordFolder.load(tmp_path)


def test_trials_alone_are_no_result(write: Write) -> None:
    with pytest.raises(DataError, match="expected finished runs, got 1 that only chose"):
        RecordFolder.load(write("Base", 9, role="tune"))


def test_runs_on_other_test_rows_do_not_belong_together(write: Write) -> None:
    whole = {"auc": 0.6, "gauc": 0.6, "rows": 51, "users": 5, "positive_share": 0.5}
    folder = write("Base", 1)
    write("Other", 1, dataset="e", segments={"all": whole})
    RecordFolder.load(folder)  # another dataset has other rows
    write("Base", 2, segments={"all": whole})
    with pytest.raises(DataError, match=r"runs on d scored on the same test rows, got 50 .* 51 "):
        RecordFolder.load(folder)


def test_runs_started_by_hand_are_told_apart_by_what_was_asked(tmp_path: Path) -> None:
    rates = {1: 0.1, 2: 0.1, 3: 0.2}
    for seed, rate in rates.items():
        config = {"seed": seed, "learning_rate": rate, "record_dir": f"r{seed}", "epochs": 1}
        content = {"dataset": "d", "model": "Base", "name": "Base", "seed": seed}
        content |= {"config": config, "segments": {"all": {"gauc": 0.5, "rows": 1}}}
        (tmp_path / f"{seed}.json").write_text(json.dumps(content))
    folder = RecordFolder.load(tmp_path)
    assert folder.cells("d") == ["Base, learning_rate=0.1", "Base, learning_rate=0.2"]
    assert folder.base == "Base, learning_rate=0.1"


def test_the_command_is_what_a_shell_reads() -> None:
    asked = {
        "epochs": 2,
        "semantic": {"input": "random", "encoder": None},
        "val_interval": {"timestamp": "(-inf,8)"},
        "learning_rate": 0.001,
        "quiet": True,
        "record_dir": "runs",
    }
    record = {"model": "ChoirRec", "dataset": "d", "seed": 7, "asked": asked}
    assert command(record) == (
        "recbole-choir --model=ChoirRec --dataset=d --seed=7 --epochs=2 --semantic.input=random "
        "--semantic.encoder=null '--val_interval.timestamp=(-inf,8)' --learning_rate=0.001"
    )


def test_the_command_is_read_back_as_it_was_asked() -> None:
    asked = {"a": "1e-3", "b": [1, "x y"], "c": {"d": {"e": True}}, "f": "it's: {", "g": 1e-05}
    line = command({"model": "M", "dataset": "d", "seed": 1, "asked": asked})
    read = parse_cli(shlex.split(line)[1:])
    assert {key: read[key] for key in asked} == asked


def test_an_average_names_its_parts() -> None:
    assert "a.json and b.json" in command({"of": ["a.json", "b.json"]})
