"""Study files are checked before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_choir.errors import ConfigError
from recbole_choir.experiments.ensemble import seed_pairs
from recbole_choir.experiments.record_store import PACK, pack, read_records
from recbole_choir.experiments.runner import open_progress, run_missing
from recbole_choir.experiments.runs import Run, finished, record_path
from recbole_choir.experiments.study import Study, main
from recbole_choir.experiments.tables import load_records

ROOT = Path(__file__).resolve().parent.parent.parent

GOOD = {
    "datasets": ["d"],
    "seeds": [1, 2],
    "common": {"epochs": 9},
    "tune": {"seed": 7, "grid": {"learning_rate": [0.1, 0.2]}},
    "cells": [{"model": "Base"}, {"name": "C", "model": "ChoirRec", "config": {"epochs": 3}}],
    "averages": [{"name": "two", "of": "Base"}],
}


def _study(tmp_path: Path, **changes: object) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return Study.load(path)


def _ready(study: Study, out: Path) -> list[Run]:
    """The runs that may start now, cell by cell."""
    return [run for progress in open_progress(study.plan, out).values() for run in progress.ready()]


def _untuned(tmp_path: Path, **changes: object) -> Study:
    return _study(tmp_path, tune={}, **changes)


def test_every_cell_is_tuned_on_the_same_grid(tmp_path: Path) -> None:
    runs = _ready(_study(tmp_path), tmp_path)
    assert [(r.cell, r.config["learning_rate"]) for r in runs] == [
        ("Base", 0.1),
        ("Base", 0.2),
        ("C", 0.1),
        ("C", 0.2),
    ]
    assert {r.seed for r in runs} == {7}
    assert [r.config["epochs"] for r in runs] == [9, 9, 3, 3], "a cell's own key wins"


def test_a_point_of_the_grid_wins_over_the_settings_of_a_cell(tmp_path: Path) -> None:
    cells = [{"model": "Base", "config": {"epochs": 3, "semantic": {"input": "text", "seed": 1}}}]
    inputs = [{"input": "random"}, {"input": "behaviour"}]
    tune = {"seed": 7, "grid": {"epochs": [4, 5], "semantic": inputs}}
    runs = _ready(_study(tmp_path, cells=cells, tune=tune, averages=[]), tmp_path)
    assert [(r.config["epochs"], r.config["semantic"]["input"]) for r in runs] == [
        *((4, "random"), (4, "behaviour"), (5, "random"), (5, "behaviour")),
    ]
    assert {r.config["semantic"]["seed"] for r in runs} == {1}


def test_a_grid_of_one_point_is_none(tmp_path: Path) -> None:
    tune = {"seed": 7, "grid": {"learning_rate": [0.1]}}
    runs = _ready(_study(tmp_path, tune=tune), tmp_path)
    assert [(r.role, r.config) for r in runs if r.cell == "Base"] == [("seed", {"epochs": 9})] * 2


def test_a_cell_changes_single_entries_of_the_recipe(tmp_path: Path) -> None:
    common = {"semantic": {"n_snapshots": 2, "soft": {"k": 5, "power": 2}}, "load_col": {"a": [1]}}
    cell = {"semantic": {"input": "random", "soft": {"k": 9}}, "load_col": {"b": [2]}}
    changes = {"common": common, "cells": [{"model": "Base", "config": cell}], "averages": []}
    study = _untuned(tmp_path, **changes)
    (config,) = {
        str(run.config["semantic"]): run.config for run in _ready(study, tmp_path)
    }.values()
    semantic = {"n_snapshots": 2, "input": "random", "soft": {"k": 9, "power": 2}}
    assert config["semantic"] == semantic
    assert config["load_col"] == {"b": [2]}, "replaced whole, as in a run's own layers"
    again = _untuned(tmp_path, **{**changes, "cells": [{"model": "Base"}]})
    assert again.plan.cells[0].config == common


def test_the_choice_is_made_on_validation(tmp_path: Path) -> None:
    study = _study(tmp_path)
    tuned = _ready(study, tmp_path)
    for run, valid, test in zip(tuned, [0.6, 0.7, 0.9, 0.8], [0.9, 0.1, 0.1, 0.9]):
        content = {"best_valid": {"gauc": valid}, "test": {"gauc": test}}
        record_path(run, tmp_path).write_text(json.dumps(content))
    state = open_progress(study.plan, tmp_path)
    runs = _ready(study, tmp_path)
    for progress in state.values():
        progress.ready()
    assert {key: progress.best().point for key, progress in state.items()} == {
        ("d", "Base"): {"learning_rate": 0.2},
        ("d", "C"): {"learning_rate": 0.1},
    }
    assert [r.config["learning_rate"] for r in runs] == [0.2, 0.2, 0.1, 0.1]
    assert [r.seed for r in runs] == [1, 2, 1, 2]


def test_keys_name_everything_that_was_asked(tmp_path: Path) -> None:
    keys = [r.key() for r in _ready(_study(tmp_path), tmp_path)]
    assert len(set(keys)) == len(keys)


def test_a_clone_goes_on_from_the_committed_records(tmp_path: Path) -> None:
    """Its trials are found, its choices are theirs, and the names of its runs stay."""
    study = Study.load(ROOT / "benchmarks" / "studies" / "ml-100k.yaml")
    shutil.copy(ROOT / "docs" / "records" / "ml-100k" / PACK, tmp_path)
    committed = read_records(tmp_path)
    due = _ready(study, tmp_path)
    assert {run.role for run in due} == {"seed"}, "their predictions are too large to commit"
    assert len(due) == 27
    assert {f"{run.key()}.json" for run in due} <= set(committed)


def test_a_study_is_run_stopped_and_resumed_like_a_comparison(fakes: Any, tmp_path: Path) -> None:
    study, out = _study(tmp_path), tmp_path / "out"
    out.mkdir()
    with pytest.raises(fakes.Killed):
        run_missing(study.plan, out, 1, fakes.Fake(out, stop_after=5), show_progress=False)
    rest = fakes.compare(study.plan, out)
    assert len(rest.runs) == 3
    assert fakes.compare(study.plan, out).runs == []
    pack(out)
    assert fakes.compare(study.plan, out).runs == [], "also from packed records"


def test_a_study_ends_with_its_averages_its_differences_and_its_tables(
    fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _study(tmp_path, seeds=[1, 2, 3], datasets=["ml-100k"])
    out = tmp_path / "out"
    monkeypatch.setattr("recbole_choir.experiments.study.Processes", lambda out, _: fakes.Fake(out))
    assert main([str(tmp_path / "study.yaml"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| two | 3 |" in text
    assert "| C − Base |" in text
    frame = load_records(out)
    assert frame.loc[frame["role"] == "average", "seed"].nunique() == 3
    members = sorted(path.stem[-8:] for path in out.glob("ml-100k-Base-[123]-*.json"))
    assert sorted(p.name for p in out.glob("ml-100k-two-*.json")) == [
        f"ml-100k-two-{m}.json" for m in members
    ]
    rows = json.loads((out / "summary" / "differences.json").read_text())
    assert {(r["cell"], r["against"], r["segment"]) for r in rows} == {
        (cell, "Base", segment) for cell in ("C", "two") for segment in ("all", "low", "level_1")
    }
    assert all(row["p_holm"] >= row["p"] for row in rows)
    chosen = json.loads((out / "summary" / "chosen.json").read_text())
    assert [(row["row"], row["trials"], row["defaults"]) for row in chosen] == [
        *(("Base", 2, None), ("C", 2, None)),
    ]


def test_a_failed_run_of_a_study_is_shown_and_stops_nothing(fakes: Any, tmp_path: Path) -> None:
    study, out = _untuned(tmp_path), tmp_path / "out"
    out.mkdir()
    fakes.compare(study.plan, out, fails=lambda run: (run.cell, run.seed) == ("C", 2))
    frame = load_records(out)
    assert frame.loc[frame["error"].notna(), "cell"].tolist() == ["C"]
    assert [run.key() for run in fakes.compare(study.plan, out).runs] == [
        run.key() for run in _ready(study, tmp_path) if (run.cell, run.seed) == ("C", 2)
    ]


def test_unknown_key_and_unknown_member(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'seed'.*did you mean 'seeds'"):
        _study(tmp_path, seed=1)
    with pytest.raises(ConfigError, match=r"average of 'Bass'.*did you mean 'Base'"):
        _study(tmp_path, averages=[{"name": "x", "of": "Bass"}])
    with pytest.raises(ConfigError, match=r"control 'Bade'.*did you mean 'Base'"):
        _study(tmp_path, cells=[{"model": "Base", "control": "Bade"}])
    with pytest.raises(ConfigError, match=r"unknown key 'confg'.*did you mean 'config'"):
        _study(tmp_path, cells=[{"model": "Base", "confg": {}}])
    with pytest.raises(ConfigError, match=r"got 'tail_item'.*did you mean 'tail_items'"):
        _study(tmp_path, segments=["all", "tail_item"])
    wanted = ["all", "asof_1", "n_buy_lt_5"]
    assert list(_study(tmp_path, segments=wanted).plan.segments) == wanted
    with pytest.raises(ConfigError, match="'cells' is missing"):
        _study(tmp_path, cells=[])
    with pytest.raises(ConfigError, match="all different, got 'Base' twice"):
        _study(tmp_path, cells=[{"model": "Base"}, {"model": "Base", "config": {"epochs": 1}}])
    with pytest.raises(ConfigError, match="expected a model, got"):
        _study(tmp_path, cells=[{"name": "Base"}])


def test_every_cell_is_compared_with_the_first_and_with_its_control(tmp_path: Path) -> None:
    cells = [{"model": "Base"}, {"name": "R", "model": "M"}]
    study = _study(tmp_path, cells=[*cells, {"name": "C", "model": "M", "control": "R"}])
    assert study.plan.pairs("d") == [("two", "Base"), ("R", "Base"), ("C", "Base"), ("C", "R")]


def test_two_seeds_are_one_pair_and_three_are_three() -> None:
    a, b, c = (Path(name) for name in "abc")
    assert seed_pairs([a]) == []
    assert seed_pairs([a, b]) == [(a, b)]
    assert seed_pairs([a, b, c]) == [(a, b), (b, c), (c, a)]


def test_a_record_without_its_predictions_is_run_again_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cell = _study(tmp_path).plan.cells[0]
    run, tuned = cell.run(1, {}, "seed"), cell.run(7, {"learning_rate": 0.1}, "tune")
    assert not finished(run, tmp_path)
    for one in (run, tuned):
        (tmp_path / f"{one.key()}.json").write_text("{}")
    assert finished(tuned, tmp_path), "trials leave none"
    assert not finished(run, tmp_path)
    assert not finished(run, tmp_path)
    assert caplog.text.count("no predictions (.npz) next to it") == 1
    (tmp_path / f"{run.key()}.npz").write_bytes(b"")
    assert finished(run, tmp_path)
    (tmp_path / f"{run.key()}.json").write_text('{"error": "it failed"}')
    assert not finished(run, tmp_path)
