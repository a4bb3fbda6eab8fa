"""Pruned trials of a comparison: the rule, and what they change and what they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_choir.errors import Pruned
from recbole_choir.experiments.compare_command import write_tables
from recbole_choir.experiments.pruning import (
    KEPT,
    PARTS,
    WARM_UP,
    Rule,
    Watch,
    by_parts,
    checkpoints,
    planned_validations,
    scores_of,
)
from recbole_choir.experiments.runner import open_progress, run_missing
from recbole_choir.report.records import RecordFolder

optuna = pytest.importorskip("optuna")


def test_parts_of_a_budget_by_hand() -> None:
    assert planned_validations(8, 0.5) == 16
    assert planned_validations(1, 0.25) == 4
    assert planned_validations(2, 3) == 1
    assert checkpoints(16) == [4, 8, 12, 16]
    assert checkpoints(2) == [1, 1, 2, 2]
    assert checkpoints(1) == [1, 1, 1, 1]
    # best so far, carried on where early stopping ended the run after three of eight validations
    assert by_parts([0.5, 0.4, 0.6], 8, True).tolist() == [0.5, 0.6, 0.6, 0.6]
    assert by_parts([0.5, 0.4, 0.6], 8, False).tolist() == [0.4, 0.4, 0.4, 0.4]


def test_the_rule_by_hand() -> None:
    # Three trials of other budgets, by quarters: .5 .6 .6 .7; .4 .4 .8 .8; .6 .6 .6 .6.
    trials = [([0.5, 0.6, 0.55, 0.7], 4), ([0.4, 0.8], 2), ([0.6], 9), ([], 4)]
    rule = Rule.of(trials, True, "gauc", planned=8)
    third = [np.percentile(v, 200 / 3) for v in ([0.5, 0.4, 0.6], [0.6, 0.4, 0.6], [0.6, 0.8, 0.6])]
    assert rule.thresholds[:3] == pytest.approx(third)
    assert rule.thresholds[0] == pytest.approx(0.5 + 0.1 / 3)
    assert rule.stop([0.1]) is None, "a quarter of its budget is waited for"
    assert rule.stop([0.1, 0.53]) == 2
    assert rule.stop([0.1, 0.54]) is None
    assert rule.stop([0.1, 0.54, 0.1, 0.59]) == 4
    assert rule.stop([0.1, 0.61, 0.1, 0.1, 0.1, 0.1]) == 6
    assert rule.stop([0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]) is None, "its best counts"
    assert Rule.of(trials, True, "gauc", planned=1).stop([0.0]) is None, "nothing to save"
    less = Rule.of([([0.5, 0.4], 2), ([0.3], 1)], False, "logloss", planned=4)
    assert less.stop([0.9]) == 1
    assert less.stop([0.3]) is None
    assert Rule.of([([], 1)], True, "gauc", 4).stop([0.0] * 3) is None, "nothing decides"


CURVES = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=7)


@given(CURVES, st.lists(st.floats(0, 1), min_size=8, max_size=8), st.booleans())
def test_the_rule_is_optunas_percentile_pruner_on_the_parts(
    curves: list[list[float]], scores: list[float], larger: bool
) -> None:
    study = optuna.create_study(direction="maximize" if larger else "minimize")
    for one in curves:
        values = {p + 1: float(v) for p, v in enumerate(by_parts(one, len(one), larger))}
        study.add_trial(optuna.trial.create_trial(value=values[PARTS], intermediate_values=values))
    pruner = optuna.pruners.PercentilePruner(KEPT, n_startup_trials=0, n_warmup_steps=0)
    stop = None
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values={})
    for p, best in enumerate(by_parts(scores, 8, larger)[:-1], start=1):
        trial.intermediate_values[p] = float(best)
        if stop is None and pruner.prune(study, trial):
            stop = 2 * p
    rule = Rule.of([(one, len(one)) for one in curves], larger, "gauc", planned=8)
    assert rule.stop(scores) == stop


def test_the_watch_of_a_run_stops_it_with_one_line() -> None:
    watch = Watch(Rule((0.5, 0.6, 0.6, 0.6), True, "gauc", 4))
    watch(0, 0.5)
    watch(0, 0.7)
    watch(1, 0.2)  # its best is .7
    other = Watch(Rule((0.5, 0.6, 0.6, 0.6), True, "gauc", 4))
    other(0, 0.5)
    with pytest.raises(Pruned) as stop:
        other(0, 0.59)
    assert str(stop.value) == (
        "pruned at validation 2 of 4: gauc 0.59 is worse than 0.6, the best third of earlier trials"
    )


def test_scores_of_older_records_are_those_of_their_epochs() -> None:
    assert scores_of({"history": [{"valid": {"gauc": 0.5}}, {"valid": None}]}, "gauc") == [0.5]
    two = {"valid": {"gauc": 0.6}, "validations": [{"valid": {"gauc": s}} for s in (0.6, 0.4)]}
    assert scores_of({"history": [two]}, "gauc") == [0.6, 0.4]


def test_weak_trials_are_stopped_counted_shown_and_never_chosen(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("Base", trials=20)
    assert plan.prune, "by itself from eight trials on"
    fake = fakes.compare(plan, out)
    progress = open_progress(plan, out)["ml-100k", "Base"]
    trials = progress.trials()
    assert [t.number for t in trials] == list(range(20))
    pruned = [t for t in trials if t.state == "pruned"]
    assert len(pruned) >= 4
    assert min(t.number for t in pruned) >= WARM_UP
    assert {t.value for t in pruned} == {None}
    seeds = [run.config for run in fake.runs if run.role == "seed"]
    best = max((run for run in fake.runs if run.role == "tune"), key=fakes.validation)
    assert seeds == [best.config] * 3, "what is stopped here is weak"
    left = [json.loads(text) for text in fakes.contents(out).values()]
    stopped = [r for r in left if r.get("state") == "pruned"]
    assert len(stopped) == len(pruned)
    assert {len(r["validations"]) for r in stopped} <= {1, 2}, "of four"
    assert fakes.compare(plan, out).runs == [], "not run again"
    state = run_missing(plan, out, 1, fakes.Fake(out), show_progress=False)
    page = write_tables(plan, state, out, "").read_text()
    search = page.split("### Search")[1].splitlines()[2:]
    assert search[0].startswith("| model | trials | pruned | failed | validation GAUC |")
    assert search[2].startswith(f"| Base | 20 | {len(pruned)} | 0 | {progress.best().value:.4f} |")
    chosen = json.loads((out / "summary" / "chosen.json").read_text())
    assert [(r["row"], r["trials"], r["pruned"], r["over"]) for r in chosen] == [
        ("Base", 20, len(pruned), True)
    ]
    assert chosen[0]["point"] == progress.best().point
    assert len(RecordFolder.load(out).runs) == 3 + 3, "seeds and averages"


def test_the_decision_of_a_trial_by_hand(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("Base", trials=14)
    fake = fakes.compare(plan, out, workers=1)
    runs = [run for run in fake.runs if run.role == "tune"]
    assert len(runs) == 14
    states: list[str] = []
    for number, run in enumerate(runs):
        judges = 0 if number < 5 else 5 if number < 10 else number
        curves = [fakes.curve(r) for r, s in zip(runs[:judges], states) if s == "complete"]
        at = [sorted(max(c[: k + 1]) for c in curves) for k in range(3)] if curves else []
        third = [float(np.percentile(values, 200 / 3)) for values in at]
        mine = fakes.curve(run)
        weak = any(max(mine[: k + 1]) < third[k] for k in range(len(third)))
        states.append("pruned" if weak else "complete")
    found = [t.state for t in open_progress(plan, out)["ml-100k", "Base"].trials()]
    assert found == states
    assert set(states) == {"pruned", "complete"}


@pytest.mark.parametrize("workers", [1, 5])
def test_with_pruning_neither_workers_nor_kills_change_a_record(
    fakes: Any, tmp_path: Path, workers: int
) -> None:
    plan = fakes.plan_of("DeepFM", trials=13, prune=True)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    fakes.compare(plan, whole, workers=2)
    for stop_after in (3, 6, 9):
        with pytest.raises(fakes.Killed):
            run_missing(
                plan,
                stopped,
                workers,
                fakes.Fake(stopped, stop_after=stop_after),
                show_progress=False,
            )
    fakes.compare(plan, stopped, workers)
    assert fakes.contents(stopped) == fakes.contents(whole)
    assert any('"pruned"' in text for text in fakes.contents(whole).values())


def test_without_pruning_what_was_stopped_is_run_whole(fakes: Any, out: Path) -> None:
    few = fakes.plan_of("Base", trials=5)
    assert not few.prune
    assert len(fakes.compare(few, out).runs) == 5 + 3
    pruning = fakes.plan_of("Base", trials=12, prune=True)
    first = [run for run in fakes.compare(pruning, out).runs if run.role == "tune"]
    assert len(first) == 7, "the five whole ones are taken as they are"
    states = [t.state for t in open_progress(pruning, out)["ml-100k", "Base"].trials()]
    again = fakes.compare(fakes.plan_of("Base", trials=12, prune=False), out)
    whole = open_progress(fakes.plan_of("Base", trials=12, prune=False), out)["ml-100k", "Base"]
    assert [t.state for t in whole.trials()] == ["complete"] * 12
    stopped = states[5:10].count("pruned")  # of the points that both searches have
    assert stopped
    assert len([r for r in again.runs if r.role == "tune"]) >= stopped
    assert not any(r.rule.thresholds for r in again.runs)


def test_a_search_alone_runs_no_seed_and_goes_on_to_seeds_later(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("DeepFM", trials=3, seeds=())
    fake = fakes.compare(plan, out)
    assert [run.role for run in fake.runs] == ["tune"] * 6
    page = write_tables(plan, open_progress(plan, out), out, "compare --tune-only").read_text()
    assert "No seeds were run." in page
    assert "Overall" not in page
    assert "| DeepFM | 3 | 0 | 0 | " in page
    chosen = json.loads((out / "summary" / "chosen.json").read_text())
    assert {r["row"] for r in chosen} == {"Base", "DeepFM"}
    best = {r["row"]: r for r in chosen}["DeepFM"]
    tried = [run for run in fake.runs if run.cell == "DeepFM"]
    assert best["value"] == max(map(fakes.validation, tried))
    later = fakes.compare(fakes.plan_of("DeepFM", trials=3), out)
    assert [run.role for run in later.runs] == ["seed"] * 6
    assert later.runs[-1].config == best["point"]
