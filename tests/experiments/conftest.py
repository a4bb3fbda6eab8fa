"""A comparison without training: runs leave records whose figures follow from what was asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recbole_choir import record as records
from recbole_choir.evaluator import segment_metrics
from recbole_choir.experiments.plan import SEGMENTS, Plan, make_plan
from recbole_choir.experiments.runner import run_missing
from recbole_choir.experiments.runs import Run, record_path
from recbole_choir.settings import complete

#: Rows of the test set; users 0 to 19 with eight rows each.
USERS = np.repeat(np.arange(20), 8)
LABELS = np.tile([0, 1], 80).astype(np.int8)
MASKS = np.stack(
    [np.ones(160, bool) if s == "all" else (USERS + k) % 2 == 0 for k, s in enumerate(SEGMENTS)],
    axis=1,
)


class Killed(BaseException):
    """Ends a comparison where a kill would: between two runs."""


@pytest.fixture(autouse=True)
def plain_training(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ml-100k with a round training of its own, so that no choice of a study moves these tests."""
    folder = tmp_path_factory.mktemp("properties") / "properties"
    shutil.copytree(complete.properties_dir(), folder)
    path = folder / "dataset" / "ml-100k.yaml"
    text = path.read_text()
    path.write_text(text[: text.index("\nlearner:")] + "\nlearning_rate: 0.002\nepochs: 4\n")
    monkeypatch.setattr(complete, "properties_dir", lambda: folder)


def validation(run: Run) -> float:
    """Best at a learning rate of 0.005: what a search can find."""
    rate = float(run.config.get("learning_rate", 0.002))
    return 0.8 - abs(np.log(rate / 0.005)) / 10


def curve(run: Run) -> list[float]:
    """Four validations: rising, the better the higher from the start; the best is the third."""
    best = validation(run)
    return [best - 0.02, best - 0.01, best, best - 0.005]


class Fake:
    """Starts runs that end at once, at the validation at which their rule says so.

    Args:
        out: Folder of the records.
        fails: Which runs fail.
        test: Makes the test metrics of a run out of nothing; default: from its scores.
        stop_after: Runs after which everything is killed.
    """

    def __init__(
        self,
        out: Path,
        fails: Callable[[Run], bool] = lambda run: False,
        test: Callable[[Run], float] | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.out, self.fails, self.test, self.stop_after = out, fails, test, stop_after
        self.runs: list[Run] = []

    def __call__(self, run: Run, slot: int) -> Future[None]:
        if self.stop_after is not None and len(self.runs) >= self.stop_after:
            raise Killed
        self.runs.append(run)
        future: Future[None] = Future()
        if self.fails(run):
            future.set_exception(ValueError("loss is not\n finite"))
        else:
            self._leave(run)
            future.set_result(None)
        return future

    def _leave(self, run: Run) -> None:
        path = record_path(run, self.out)
        found = [{"valid": {"gauc": score}} for score in curve(run)]
        stop = run.rule.stop(curve(run))
        if stop is not None:
            content: dict[str, Any] = {
                "state": "pruned",
                "validations": found[:stop],
                "history": [],
            }
            records.write_json(path, {**content, **run.asked()})
            return
        strength = 0.3 if "ChoirRec" in run.cell else 0.1
        noise = np.random.default_rng(int(run.key()[-8:], 16)).normal(size=160)
        scores = (strength * LABELS + noise).astype(np.float32)
        segments = {
            name: segment_metrics(USERS[m], LABELS[m].astype(bool), scores[m], "impressions")
            for name, m in zip(SEGMENTS, MASKS.T)
        }
        test = {"gauc": segments["all"]["gauc"]} if self.test is None else {"gauc": self.test(run)}
        if run.role == "seed":
            np.savez(
                path.with_suffix(".npz"),
                scores=scores,
                labels=LABELS,
                users=USERS,
                items=np.arange(160),
                segments=MASKS,
                segment_names=np.array(SEGMENTS),
            )
        content = {
            "config": {"gauc_weighting": "impressions"},
            "best_valid": {"gauc": validation(run)},
            "test": test,
            "segments": segments,
            "history": [{"epoch": 0, "valid": found[2]["valid"], "validations": found}],
        }
        records.write_json(path, {**content, **run.asked()})


def plan_of(*models: str, **options: Any) -> Plan:
    """A small plan on ml-100k."""
    seeds, trials = options.pop("seeds", (11, 12, 13)), options.pop("trials", 3)
    return make_plan(list(models), ["ml-100k"], seeds, trials, **options)


def compare(plan: Plan, out: Path, workers: int = 2, **options: Any) -> Fake:
    """Run what is missing of a comparison with fake runs."""
    fake = Fake(out, **options)
    run_missing(plan, out, workers, fake, show_progress=False)
    return fake


def contents(out: Path) -> dict[str, str]:
    """The records of a folder, by name."""
    return {path.name: path.read_text() for path in sorted(out.glob("*.json"))}


@pytest.fixture(scope="session")
def fakes() -> SimpleNamespace:
    """What the tests need of this file."""
    return SimpleNamespace(
        Fake=Fake,
        Killed=Killed,
        plan_of=plan_of,
        compare=compare,
        contents=contents,
        validation=validation,
        curve=curve,
        USERS=USERS,
        LABELS=LABELS,
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
