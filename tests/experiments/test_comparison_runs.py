"""Trials, seeds, stops and failures of a comparison, without training."""

from __future__ import annotations

import errno
import json
import os
import signal
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from recbole_choir.experiments import runner
from recbole_choir.experiments.compare_command import write_tables
from recbole_choir.experiments.record_store import pack
from recbole_choir.experiments.runner import open_progress, run_missing
from recbole_choir.experiments.runs import Run
from recbole_choir.experiments.tuning import Tuning, open_storage

optuna = pytest.importorskip("optuna")


def seeds_of(fake: Any, cell: str) -> list[dict[str, Any]]:
    return [run.config for run in fake.runs if run.cell == cell and run.role == "seed"]


def test_equal_trials_then_seeds_at_the_point_with_the_best_validation(
    fakes: Any, out: Path
) -> None:
    plan = fakes.plan_of("DeepFM", "ChoirRec", trials=12)
    fake = fakes.compare(plan, out)
    state = open_progress(plan, out)
    for cell in plan.cells:
        assert [t.number for t in state[cell.id].trials()] == list(range(12))
        tried = [run for run in fake.runs if run.cell == cell.name and run.role == "tune"]
        assert {run.seed for run in tried} == {1}
        best = max(tried, key=fakes.validation)
        assert seeds_of(fake, cell.name) == [best.config] * 3
    assert {run.seed for run in fake.runs if run.role == "seed"} == {11, 12, 13}


def test_the_first_trial_is_the_defaults_and_later_ones_learn(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("Base", trials=20)
    fake = fakes.compare(plan, out)
    rates = [run.config["learning_rate"] for run in fake.runs if run.role == "tune"]
    first = next(run.config for run in fake.runs)
    wanted = {"learning_rate": 0.002, "embedding_size": 16, "dropout_prob": 0.1}
    assert first == {**wanted, "epochs": 4, "embedding_decay": 0.0003}
    near = [abs(rate - 0.005) < 0.003 for rate in rates]
    assert sum(near[10:]) / len(near[10:]) > sum(near[:10]) / 10


def test_cells_with_one_space_try_the_same_first_points(fakes: Any, out: Path) -> None:
    fake = fakes.compare(fakes.plan_of("DeepFM", trials=4), out)
    rates = {
        cell: [r.config["learning_rate"] for r in fake.runs if (r.cell, r.role) == (cell, "tune")]
        for cell in ("Base", "DeepFM")
    }
    assert sorted(rates["Base"]) == sorted(rates["DeepFM"])


@pytest.mark.parametrize("workers", [1, 5])
def test_neither_workers_nor_kills_change_a_record(
    fakes: Any, tmp_path: Path, workers: int
) -> None:
    plan = fakes.plan_of("ChoirRec", trials=11)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    fakes.compare(plan, whole, workers=2)
    started = 0
    for stop_after in (1, 15):
        fake = fakes.Fake(stopped, stop_after=stop_after)
        with pytest.raises(fakes.Killed):
            run_missing(plan, stopped, workers, fake, show_progress=False)
        started += len(fake.runs)
    started += len(fakes.compare(plan, stopped, workers).runs)
    assert fakes.contents(stopped) == fakes.contents(whole)
    lost = 2 * (workers - 1)  # in flight when killed; here they had ended
    assert len(fakes.contents(whole)) <= started <= len(fakes.contents(whole)) + lost
    assert fakes.compare(plan, stopped).runs == [], "nothing is left to do"


def test_a_kill_between_the_values_of_a_trial_leaves_no_crooked_trial(
    fakes: Any, out: Path
) -> None:
    plan = fakes.plan_of("Base", trials=3)
    cell = plan.cells[0]
    storage = open_storage(out)
    tuning = Tuning(cell, 3, 1, storage)
    study = optuna.load_study(study_name=tuning.name, storage=storage)
    study.ask({"learning_rate": tuning._space["learning_rate"]})  # and no other value
    fake = fakes.compare(plan, out)
    tried = [run.config for run in fake.runs if run.role == "tune"]
    assert len(tried) == 3
    assert all(set(config) == set(cell.space) for config in tried)


def test_a_comparison_goes_on_from_packed_records(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("ChoirRec", trials=11)
    fakes.compare(plan, out)
    page = write_tables(plan, open_progress(plan, out), out, "").read_text()
    pack(out)
    (out / "tuning.db").unlink()  # as in a clone of what was committed
    assert fakes.compare(plan, out).runs == []
    assert write_tables(plan, open_progress(plan, out), out, "").read_text() == page
    for path in out.glob("*.npz"):
        path.unlink()
    assert {run.role for run in fakes.compare(plan, out).runs} == {"seed"}, "tests need scores"


def test_more_trials_go_on_from_those_that_are_there(fakes: Any, out: Path) -> None:
    few = fakes.compare(fakes.plan_of("Base", trials=3), out)
    more = fakes.compare(fakes.plan_of("Base", trials=6), out)
    again = [run for run in more.runs if run.role == "tune"]
    assert len([r for r in few.runs if r.role == "tune"]) == len(again) == 3


def test_the_choice_reads_validation_alone(fakes: Any, tmp_path: Path) -> None:
    """The test metric is garbage: another for every run, not a number, or not there."""
    plan = fakes.plan_of("ChoirRec", trials=11)
    chosen = []
    for name, test in (
        ("honest", None),
        ("opposite", lambda run: -fakes.validation(run)),
        ("nothing", lambda run: float("nan")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        fake = fakes.compare(plan, folder, test=test)
        chosen.append([run.key() for run in fake.runs])
    assert chosen[0] == chosen[1] == chosen[2]


def test_a_failed_trial_counts_and_a_cell_without_one_good_trial_fails(
    fakes: Any, out: Path
) -> None:
    plan = fakes.plan_of("DeepFM", "ChoirRec", trials=3)

    def fails(run: Run) -> bool:
        high = run.role == "tune" and run.config["learning_rate"] != 0.002
        return run.cell == "DeepFM" or (run.cell == "ChoirRec" and high)

    fake = fakes.compare(plan, out, fails=fails)
    assert seeds_of(fake, "DeepFM") == [], "no point was chosen, so none is run"
    assert [c["learning_rate"] for c in seeds_of(fake, "ChoirRec")] == [0.002] * 3
    all_records = map(json.loads, fakes.contents(out).values())
    failed = [record for record in all_records if "error" in record]
    assert {(r["cell"], r["role"]) for r in failed} == {
        *(("DeepFM", "tune"), ("DeepFM", "seed"), ("ChoirRec", "tune")),
    }
    message = "every trial of 'DeepFM' failed, the first with: ValueError: loss is not finite"
    assert {r["error"] for r in failed if r["role"] == "seed"} == {message}


def test_failed_runs_are_shown_and_run_again(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("DeepFM", trials=2)
    fake = fakes.Fake(out, fails=lambda run: run.cell == "DeepFM" and run.seed == 12)
    state = run_missing(plan, out, 1, fake, show_progress=False)
    text = write_tables(plan, state, out, "compare").read_text()
    assert "| DeepFM | 2, 1 failed |" in text
    assert "- DeepFM, seed 12: ValueError: loss is not finite" in text
    again = fakes.Fake(out)
    state = run_missing(plan, out, 1, again, show_progress=False)
    assert [(run.cell, run.seed) for run in again.runs] == [("DeepFM", 12)]
    text = write_tables(plan, state, out, "compare").read_text()
    assert "failed |" in text, "the column of failed trials"
    assert "1 failed" not in text
    assert "Failed runs" not in text


def test_failed_trials_are_tried_again_at_the_next_start(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("Base", trials=3)
    fakes.compare(plan, out, fails=lambda run: True)
    fake = fakes.compare(plan, out)
    assert [run.role for run in fake.runs] == ["tune"] * 3 + ["seed"] * 3
    assert [t.state for t in open_progress(plan, out)["ml-100k", "Base"].trials()] == [
        "complete"
    ] * 3


def test_without_a_search_there_is_no_storage_and_all_have_their_defaults(
    fakes: Any, out: Path
) -> None:
    fake = fakes.compare(fakes.plan_of("DeepFM", trials=0), out)
    assert [run.config for run in fake.runs] == [{}] * 6
    assert not (out / "tuning.db").exists()


def test_a_repeated_point_is_one_run_and_counts_as_a_trial(
    fakes: Any, out: Path, tmp_path: Path
) -> None:
    search = tmp_path / "search"
    search.mkdir()
    (search / "default.yaml").write_text("embedding_size: {choices: [8, 16]}\n")
    plan = fakes.plan_of("Base", trials=6, search=search)
    fake = fakes.compare(plan, out, workers=4)
    assert len([run for run in fake.runs if run.role == "tune"]) == 2
    trials = open_progress(plan, out)["ml-100k", "Base"].trials()
    assert [t.state for t in trials] == ["complete"] * 6


def test_an_interrupt_keeps_what_is_at_work_and_starts_nothing_more(
    fakes: Any, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = fakes.plan_of("DeepFM", trials=0)

    class Interrupted(fakes.Fake):
        def __call__(self, run: Run, slot: int) -> Any:
            if len(self.runs) == 1:
                signal.raise_signal(signal.SIGINT)
            return super().__call__(run, slot)

    fake = Interrupted(out)
    with pytest.raises(KeyboardInterrupt):
        run_missing(plan, out, 3, fake, show_progress=False)
    assert len(fake.runs) == 2, "the third slot stays free"
    assert len(fakes.contents(out)) == 2
    assert "no run is started any more" in capfd.readouterr().err
    assert len(fakes.compare(plan, out).runs) == 4, "the next start goes on"


def test_a_killed_run_is_its_record_and_the_others_go_on(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("DeepFM", trials=0)

    class Killing(fakes.Fake):
        def __call__(self, run: Run, slot: int) -> Any:
            future = super().__call__(run, slot)
            if (run.cell, run.seed) != ("DeepFM", 12):
                return future
            (out / f"{run.key()}.json").unlink()
            weights = out / "runs" / f"{run.key()}-weights"
            weights.mkdir(parents=True)
            (weights / "m.pth").write_text("half")
            future = Future()
            future.set_exception(BrokenProcessPool("terminated abruptly"))
            return future

    state = run_missing(plan, out, 2, Killing(out), show_progress=False)
    found = [json.loads(text) for text in fakes.contents(out).values()]
    assert len(found) == 6
    (failed,) = [record for record in found if "error" in record]
    assert (failed["cell"], failed["seed"]) == ("DeepFM", 12)
    assert failed["error"].startswith("the process of this run was killed")
    assert sum(len(p.failed_seeds()) for p in state.values()) == 1
    assert list((out / "runs").iterdir()) == [], "its weights are gone"


def test_a_full_disk_lets_the_runs_at_work_end(
    fakes: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: the record of a failed run cannot be written."""
    plan = fakes.plan_of("DeepFM", trials=0)

    def full(run: Run, folder: Path, message: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(runner, "write_failure", full)
    fake = fakes.Fake(out, fails=lambda run: (run.cell, run.seed) == ("DeepFM", 11))
    with pytest.raises(OSError, match="No space left on device"):
        run_missing(plan, out, 2, fake, show_progress=False)
    assert len(fake.runs) == 2
    assert len(fakes.contents(out)) == 1, "the other one of the two is kept"
