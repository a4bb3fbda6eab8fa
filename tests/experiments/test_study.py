"""Study files are checked before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from recbole_choir.errors import ConfigError
from recbole_choir.experiments.ensemble import seed_pairs
from recbole_choir.experiments.runs import finished
from recbole_choir.experiments.study import Study, choose

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


def test_every_cell_is_tuned_on_the_same_grid(tmp_path: Path) -> None:
    runs = list(_study(tmp_path).tuning_runs())
    assert [(r.cell, r.config["learning_rate"]) for r in runs] == [
        ("Base", 0.1),
        ("Base", 0.2),
        ("C", 0.1),
        ("C", 0.2),
    ]
    assert {r.seed for r in runs} == {7}
    assert [r.config["epochs"] for r in runs] == [9, 9, 3, 3], "a cell's own key wins"


def test_a_cell_changes_single_entries_of_the_recipe(tmp_path: Path) -> None:
    common = {"semantic": {"n_snapshots": 2, "soft": {"k": 5, "power": 2}}, "load_col": {"a": [1]}}
    cell = {"semantic": {"input": "random", "soft": {"k": 9}}, "load_col": {"b": [2]}}
    study = _study(tmp_path, common=common, cells=[{"model": "Base", "config": cell}], averages=[])
    (config,) = {str(run.config["semantic"]): run.config for run in study.seed_runs({})}.values()
    semantic = {"n_snapshots": 2, "input": "random", "soft": {"k": 9, "power": 2}}
    assert config["semantic"] == semantic
    assert config["load_col"] == {"b": [2]}, "replaced whole, as in a run's own layers"
    assert study.common == common


def test_the_choice_is_made_on_validation(tmp_path: Path) -> None:
    study = _study(tmp_path)
    for run, valid, test in zip(study.tuning_runs(), [0.6, 0.7, 0.9, 0.8], [0.9, 0.1, 0.1, 0.9]):
        content = {"best_valid": {"gauc": valid}, "test": {"gauc": test}}
        (tmp_path / f"{run.key()}.json").write_text(json.dumps(content))
    chosen = choose(study, tmp_path)
    assert chosen == {("d", "Base"): {"learning_rate": 0.2}, ("d", "C"): {"learning_rate": 0.1}}
    assert [r.config["learning_rate"] for r in study.seed_runs(chosen)] == [0.2, 0.2, 0.1, 0.1]


def test_keys_name_everything_that_was_asked(tmp_path: Path) -> None:
    keys = [r.key() for r in _study(tmp_path).tuning_runs()]
    assert len(set(keys)) == len(keys)


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
    assert _study(tmp_path, segments=wanted).compared == wanted
    with pytest.raises(ConfigError, match="'cells' is missing"):
        _study(tmp_path, cells=[])


def test_every_cell_is_compared_with_the_first_and_with_its_control(tmp_path: Path) -> None:
    cells = [{"model": "Base"}, {"name": "R", "model": "M"}]
    study = _study(tmp_path, cells=[*cells, {"name": "C", "model": "M", "control": "R"}])
    assert study.pairs() == [("R", "Base"), ("C", "Base"), ("two", "Base"), ("C", "R")]


def test_two_seeds_are_one_pair_and_three_are_three() -> None:
    a, b, c = (Path(name) for name in "abc")
    assert seed_pairs([a]) == []
    assert seed_pairs([a, b]) == [(a, b)]
    assert seed_pairs([a, b, c]) == [(a, b), (b, c), (c, a)]


def test_a_record_without_its_predictions_is_run_again_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = _study(tmp_path)
    run, tuned = next(study.seed_runs({})), next(study.tuning_runs())
    assert not finished(run, tmp_path)
    for one in (run, tuned):
        (tmp_path / f"{one.key()}.json").write_text("{}")
    assert finished(tuned, tmp_path), "trials leave none"
    assert not finished(run, tmp_path)
    assert not finished(run, tmp_path)
    assert caplog.text.count("no predictions (.npz) beside it") == 1
    (tmp_path / f"{run.key()}.npz").write_bytes(b"")
    assert finished(run, tmp_path)
    (tmp_path / f"{run.key()}.json").write_text('{"error": "it failed"}')
    assert not finished(run, tmp_path)
