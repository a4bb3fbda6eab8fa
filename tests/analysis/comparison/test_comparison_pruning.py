"""Pruned trials of a comparison: the rule, and what they change and what they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_choir.analysis.comparison.command import write_tables
from recbole_choir.analysis.comparison.pruning import (
    KEPT,
    WARM_UP,
    Rule,
    Watch,
    first_validation,
    running_best,
    scores_of,
)
from recbole_choir.analysis.comparison.runner import open_progress, run_missing
from recbole_choir.analysis.page.folder import RecordFolder
from recbole_choir.integration.validation_points import Pruned

optuna = pytest.importorskip("optuna")


def compare(fakes: Any, plan: Any, out: Path, workers: int = 2, **options: Any) -> Any:
    fake = fakes.Fake(out, **options)
    run_missing(plan, out, workers, fake, show_progress=False)
    return fake


def contents(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(out.glob("*.json"))}


def test_the_rule_by_hand() -> None:
    # Running bests, carried on: .5 .6 .6; .4 .7 .7; .6 .6 .6. Upper quartiles .55, .65, .65.
    rule = Rule.of([[0.5, 0.6, 0.55], [0.4, 0.7], [0.6]], True, "gauc", first=2)
    assert rule.thresholds == pytest.approx((0.55, 0.65, 0.65))
    assert rule.stop([0.1]) is None, "the first validation says little"
    assert rule.stop([0.1, 0.64]) == 2
    assert rule.stop([0.1, 0.66]) is None
    assert rule.stop([0.66, 0.1, 0.1, 0.1, 0.1]) is None, "its best counts"
    assert rule.stop([0.1, 0.66, 0.7, 0.7]) is None
    less = Rule.of([[0.5, 0.4], [0.3]], False, "logloss")
    assert less.thresholds == pytest.approx((0.35, 0.325))
    assert less.stop([0.9]) == 1
    assert less.stop([0.35, 0.33]) == 2
    assert less.stop([0.35, 0.32]) is None
    assert Rule.of([[], []], True, "gauc").stop([0.0] * 9) is None, "nothing decides"


CURVES = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=7)


@given(CURVES, st.lists(st.floats(0, 1), min_size=1, max_size=6), st.booleans())
def test_the_rule_is_optunas_percentile_pruner_on_the_running_best(
    curves: list[list[float]], scores: list[float], larger: bool
) -> None:
    study = optuna.create_study(direction="maximize" if larger else "minimize")
    length = max(map(len, [*curves, scores]))
    for one in curves:
        best = running_best(one, larger)
        padded = np.pad(best, (0, length - len(best)), mode="edge")
        values = {k + 1: float(v) for k, v in enumerate(padded)}
        study.add_trial(optuna.trial.create_trial(value=values[length], intermediate_values=values))
    # n_warmup_steps counts from 0
    pruner = optuna.pruners.PercentilePruner(KEPT, n_startup_trials=0, n_warmup_steps=2)
    stop = None
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values={})
    for k, score in enumerate(scores, start=1):
        trial.intermediate_values[k] = score
        if stop is None and k >= 2 and pruner.prune(study, trial):
            stop = k
    assert Rule.of(curves, larger, "gauc", first=2).stop(scores) == stop


def test_half_an_epoch_is_waited_for() -> None:
    assert [first_validation(step) for step in (3, 1, 0.5, 0.25, 0.1)] == [1, 1, 1, 2, 5]


def test_the_watch_of_a_run_stops_it_with_one_line() -> None:
    watch = Watch(Rule((0.5, 0.6), True, "gauc", 2))
    watch(0, 0.4)
    watch(0, 0.7)
    watch(1, 0.2)  # its best is .7
    other = Watch(Rule((0.5, 0.6), True, "gauc", 2))
    other(0, 0.4)
    with pytest.raises(Pruned) as stop:
        other(0, 0.59)
    assert str(stop.value) == (
        "pruned at validation 2: gauc 0.59 is worse than 0.6, the best quarter of earlier trials"
    )


def test_scores_of_older_records_are_those_of_their_epochs() -> None:
    assert scores_of({"history": [{"valid": {"gauc": 0.5}}, {"valid": None}]}, "gauc") == [0.5]
    two = {"valid": {"gauc": 0.6}, "validations": [{"valid": {"gauc": s}} for s in (0.6, 0.4)]}
    assert scores_of({"history": [two]}, "gauc") == [0.6, 0.4]


def test_weak_trials_are_stopped_counted_shown_and_never_chosen(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("Base", trials=20)
    assert plan.prune, "by itself from eight trials on"
    fake = compare(fakes, plan, out)
    progress = open_progress(plan, out)["ml-100k", "Base"]
    trials = progress.trials()
    assert [t.number for t in trials] == list(range(20))
    pruned = [t for t in trials if t.state == "pruned"]
    assert len(pruned) >= 5
    assert min(t.number for t in pruned) >= WARM_UP
    assert {t.value for t in pruned} == {None}
    seeds = [run.config for run in fake.runs if run.role == "seed"]
    best = max((run for run in fake.runs if run.role == "tune"), key=fakes.validation)
    assert seeds == [best.config] * 3, "what is stopped here is weak"
    left = [json.loads(text) for text in contents(out).values()]
    stopped = [r for r in left if r.get("state") == "pruned"]
    assert len(stopped) == len(pruned)
    assert {len(r["validations"]) for r in stopped} == {1}
    assert compare(fakes, plan, out).runs == [], "not run again"
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
    fake = compare(fakes, plan, out, workers=1)
    runs = [run for run in fake.runs if run.role == "tune"]
    assert len(runs) == 14
    states: list[str] = []
    for number, run in enumerate(runs):
        judges = 0 if number < 5 else 5 if number < 10 else number
        curves = [fakes.curve(r) for r, s in zip(runs[:judges], states) if s == "complete"]
        at = [sorted(max(c[: k + 1]) for c in curves) for k in range(4)] if curves else []
        quartile = [float(np.percentile(values, 75)) for values in at]
        mine = fakes.curve(run)
        weak = any(max(mine[: k + 1]) < quartile[k] for k in range(len(quartile)))
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
    compare(fakes, plan, whole, workers=2)
    for stop_after in (3, 6, 9):
        with pytest.raises(fakes.Killed):
            run_missing(
                plan,
                stopped,
                workers,
                fakes.Fake(stopped, stop_after=stop_after),
                show_progress=False,
            )
    compare(fakes, plan, stopped, workers)
    assert contents(stopped) == contents(whole)
    assert any('"pruned"' in text for text in contents(whole).values())


def test_without_pruning_what_was_stopped_is_run_whole(fakes: Any, out: Path) -> None:
    few = fakes.plan_of("Base", trials=5)
    assert not few.prune
    assert len(compare(fakes, few, out).runs) == 5 + 3
    pruning = fakes.plan_of("Base", trials=12, prune=True)
    first = [run for run in compare(fakes, pruning, out).runs if run.role == "tune"]
    assert len(first) == 7, "the five whole ones are taken as they are"
    states = [t.state for t in open_progress(pruning, out)["ml-100k", "Base"].trials()]
    again = compare(fakes, fakes.plan_of("Base", trials=12, prune=False), out)
    whole = open_progress(fakes.plan_of("Base", trials=12, prune=False), out)["ml-100k", "Base"]
    assert [t.state for t in whole.trials()] == ["complete"] * 12
    stopped = states[5:10].count("pruned")  # of the points that both searches have
    assert stopped
    assert len([r for r in again.runs if r.role == "tune"]) >= stopped
    assert not any(r.rule.thresholds for r in again.runs)


def test_a_search_alone_runs_no_seed_and_goes_on_to_seeds_later(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("DeepFM", trials=3, seeds=())
    fake = compare(fakes, plan, out)
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
    later = compare(fakes, fakes.plan_of("DeepFM", trials=3), out)
    assert [run.role for run in later.runs] == ["seed"] * 6
    assert later.runs[-1].config == best["point"]
