"""``recbole-choir compare`` from the command line."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from recbole_choir.cli import main
from recbole_choir.experiments import compare_command as command
from recbole_choir.files import the_only_one


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(*words: str) -> str:
        assert main(["compare", "--out", str(tmp_path / "o"), *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "did you mean 'ChoirRec'" in says("--models=ChoirRek")
    assert "did you mean 'ml-100k'" in says("--models=Base", "--datasets=ml100k")
    assert "did you mean 'epochs'" in says("--models=Base", "--epoch=3")
    assert "--models: missing" in says()
    assert "--ablation: none of Base has rows" in says("--models=Base", "--ablation")
    assert "--variants: POSO has no rows; known: AKTRec, Base, ChoirRec" in says(
        "--models=Base", "--variants=POSO"
    )
    assert "--workers: expected at least 1" in says("--models=Base", "--workers=0")
    assert "--search: expected a folder" in says("--models=Base", "--search=no")
    assert "expected --key=value" in says("--models=Base", "stray")
    assert "--tune-only: expected trials to run, got --tune=0" in says(
        "--models=Base", "--tune-only", "--tune=0"
    )
    assert not (tmp_path / "o").exists(), "checked before anything is written"


def test_a_missing_optuna_is_one_line_that_says_what_to_do(
    fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'", name=name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    words = ["compare", "--models=Base", "--seeds=2", "--out", str(tmp_path / "o")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "needs the package optuna" in error
    assert "pip install 'recbole-choir[tuning]', or --tune=0" in error
    assert error.count("\n") == 1
    monkeypatch.setattr(command, "Processes", lambda out, threads: fakes.Fake(out))
    assert main([*words, "--tune=0"]) == 0, "and without a search it is not needed"


def test_help_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["compare", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    options = [
        "--prune",
        "--no-prune",
        "--tune-only",
        "--models",
        "--seeds",
        "--tune",
        "--ablation",
        "--variants",
        "--sweep",
    ]
    for option in (*options, "--fast", "--dry-run"):
        assert option in text


def test_from_the_command_to_the_tables(
    fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "out"
    made: list[Any] = []

    def processes(folder: Path, threads: int) -> Any:
        made.append(fakes.Fake(folder, fails=lambda run: run.cell == "DeepFM"))
        return made[-1]

    monkeypatch.setattr(command, "Processes", processes)
    words = ["compare", "--models=DeepFM", "--seeds=2", "--tune=2", "--epochs=3", "--out", str(out)]
    assert main(words) == 1, "a failed cell is no success"
    text, error = capsys.readouterr()
    assert "| DeepFM | failed | - | - |" in text
    assert "4 runs failed" in error
    assert {run.config["epochs"] for run in made[0].runs} == {3}
    assert str(tmp_path) not in (out / "comparison.md").read_text(), "no one's machine"
    written = [out / "comparison.md", *out.rglob("*.csv")]
    before = {p.name: p.read_text() for p in written}
    assert main([*words, "--only-tables"]) == 1
    assert {p.name: p.read_text() for p in written} == before, "its command too"
    assert len(made) == 1, "nothing was run"
    differences = json.loads((out / "summary" / "differences.json").read_text())
    assert {row["cell"] for row in differences} == {"two Base seeds averaged"}


def test_two_comparisons_do_not_work_in_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = the_only_one(tmp_path / ".lock", "busy")
    words = ["compare", "--models=Base", "--tune=0", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "another comparison is at work there" in capsys.readouterr().err
    lock.release()
    the_only_one(tmp_path / ".lock", "busy").release()


def test_an_interrupt_ends_at_once_and_says_what_is_next(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(command, "Processes", lambda out, threads: interrupted)
    monkeypatch.setattr("recbole_choir.processes.os._exit", end)
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--models=Base", "--tune=0", "--out", str(tmp_path / "o")])
    assert stop.value.code == 130
    assert "the same command goes on" in capfd.readouterr().err


def test_fast_is_a_default_that_what_is_given_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    base = ["compare", "--fast", "--dry-run", "--out", str(tmp_path)]
    assert main(base) == 0
    text = capsys.readouterr().out
    assert "3 cells, at most 12 runs; seeds 2020, 2021;" in text
    assert main([*base, "--models=DeepFM", "--tune=1", "--seeds=3"]) == 0
    assert "2 cells, at most 8 runs" in capsys.readouterr().out
