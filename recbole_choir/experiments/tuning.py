"""The search of one cell: Optuna proposes points, validation alone chooses.

The trials of a cell do not depend on how many run at once or on when the comparison was stopped:
the sampler of trial t is seeded by the tuning seed and t, the first ten are drawn without looking
at results, and each later one waits for all before it. Cells with the same space therefore try the
same first points. All trials are in an Optuna storage, which Optuna's own tools can read. Weak ones
may be stopped before their end: :mod:`~recbole_choir.experiments.pruning`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from recbole_choir import record as records
from recbole_choir.errors import ConfigError
from recbole_choir.experiments.plan import Cell
from recbole_choir.experiments.pruning import (
    KEPT,
    PARTS,
    WARM_UP,
    Rule,
    is_pruned,
    planned_validations,
    scores_of,
)
from recbole_choir.experiments.search_spaces import Dimension
from recbole_choir.files import whole_file

#: Trials drawn without looking at results: Optuna's own number for its TPE sampler.
RANDOM_TRIALS = 10
STORAGE = "tuning.db"


def load_optuna() -> Any:
    """Import Optuna.

    Raises:
        ConfigError: It is not installed; the line says how to get it.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ConfigError(
            f"compare: --tune needs the package optuna, got none ({error}): "
            "pip install 'recbole-choir[tuning]', or --tune=0 for the defaults"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(out: Path) -> Any:
    """The durable storage of a comparison: SQLite, whose transactions survive a kill."""
    optuna = load_optuna()
    # RDBStorage writes its tables in steps: made under another name and moved when whole
    path = out / STORAGE
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.unlink(missing_ok=True)
            storage = optuna.storages.RDBStorage(f"sqlite:///{temporary}")
            storage.engine.dispose()
    return optuna.storages.RDBStorage(f"sqlite:///{path}")


@dataclass(frozen=True)
class Trial:
    """A proposed point.

    Attributes:
        number: From 0.
        point: Key -> value as it is used.
        value: Validation metric; null: not finished, failed or pruned.
        state: open | complete | failed | pruned.
    """

    number: int
    point: dict[str, Any]
    value: float | None
    state: str


class Search(Protocol):
    """What proposes the trials of a cell and chooses among them.

    Attributes:
        trials: How many trials it has in all.
    """

    trials: int

    def all(self) -> list[Trial]:
        """The trials so far, in order."""

    def propose(self) -> Trial | None:
        """The next trial; none when all are proposed or the next waits for open ones."""

    def rule(self, number: int) -> Rule:
        """When a trial is stopped before its end."""

    def tell(self, number: int, record: Mapping[str, Any]) -> None:
        """Tell the result of a trial from the record of its run."""

    def best(self) -> Trial | None:
        """The trial that is chosen; none if all failed."""


class Tuning:
    """The trials of one cell.

    Args:
        cell: What is searched, and from which first point.
        trials: How many trials.
        seed: Of the sampler.
        storage: From :func:`open_storage`.
        retry: Propose failed trials again; False: leave everything as it is, to look at.
        prune: Stop weak trials before their end. It makes another search than without, since the
            sampler sees other results; what both run whole is run once.
    """

    def __init__(
        self,
        cell: Cell,
        trials: int,
        seed: int,
        storage: Any,
        retry: bool = True,
        prune: bool = False,
    ) -> None:
        self._optuna = load_optuna()
        self.cell = cell
        self.trials = trials
        self.seed = seed
        self.prune = prune
        self._rules: dict[int, Rule] = {}  # number of the first trial that does not decide -> rule
        self._space = {key: self._distribution(d) for key, d in cell.space.items()}
        asked = [cell.config, cell.first, repr(cell.space), seed, cell.metric]
        zeros = {key: d.zero for key, d in cell.space.items() if d.zero}
        asked += [{"zero": zeros}] if zeros else []  # not in the text, so that older names stay
        asked += [{"prune": [WARM_UP, KEPT, PARTS]}] if prune else []
        digest = records.config_hash({"asked": asked})
        self.name = f"{cell.dataset} | {cell.name} | {digest}"
        self._storage = storage
        self._study = self._open()
        seen = self._study.get_trials(deepcopy=False)
        if retry and not all(self._whole(trial) for trial in seen):
            # A trial that failed, or that was cut off between two of its values: the same points
            # are proposed again, and those with a record are not run again.
            self._optuna.delete_study(study_name=self.name, storage=storage)
            self._study = self._open()

    def _open(self) -> Any:
        study = self._optuna.create_study(
            study_name=self.name,
            storage=self._storage,
            direction="maximize" if self.cell.larger else "minimize",
            load_if_exists=True,
        )
        study.set_user_attr("chosen_by", f"validation {self.cell.metric}")
        return study

    def _whole(self, trial: Any) -> bool:
        if trial.state.name in ("FAIL", "WAITING"):
            return False
        return trial.distributions.keys() == self._space.keys()

    def _distribution(self, dimension: Dimension) -> Any:
        distributions = self._optuna.distributions
        if dimension.choices:
            return distributions.CategoricalDistribution(dimension.choices)
        low, high, log, step = dimension.lowest, dimension.high, dimension.log, dimension.step
        if dimension.whole:
            return distributions.IntDistribution(low, high, log=log, step=int(step or 1))
        return distributions.FloatDistribution(low, high, log=log, step=step)

    def all(self) -> list[Trial]:
        """The trials so far, in order; more than asked for where an earlier start had more."""
        out = []
        names = {"COMPLETE": "complete", "FAIL": "failed", "PRUNED": "pruned"}
        for trial in self._study.get_trials(deepcopy=False)[: self.trials]:
            state = names.get(trial.state.name, "open")
            # Optuna gives a pruned trial its last score for a value: it must never be chosen
            value = trial.value if state == "complete" else None
            out.append(Trial(trial.number, self._point(trial.params), value, state))
        return out

    def propose(self) -> Trial | None:
        """The next trial; none when all are proposed or the next waits for open ones."""
        seen = self.all()
        number = len(seen)
        if number >= self.trials:
            return None
        if any(trial.state == "open" for trial in seen[: self._judges(number)]):
            return None
        if number >= RANDOM_TRIALS and any(trial.state == "open" for trial in seen):
            return None
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=_seed(self.seed, number),
            n_startup_trials=RANDOM_TRIALS,
            multivariate=False,
            constant_liar=False,
        )
        if number == 0:  # the defaults: a search never ends below them on validation
            self._study.enqueue_trial(self._stored(self.cell.first))
        trial = self._study.ask(self._space)
        return Trial(trial.number, self._point(trial.params), None, "open")

    def _judges(self, number: int) -> int:
        """How many of the first trials decide about this one; 0: it is never stopped."""
        if not self.prune or number < WARM_UP:
            return 0
        return WARM_UP if number < RANDOM_TRIALS else number

    def rule(self, number: int) -> Rule:
        """When a trial is stopped, from the complete ones that decide about it."""
        judges = self._judges(number)
        seen = self._study.get_trials(deepcopy=False)
        if judges not in self._rules:
            curves = [
                ([v for _, v in sorted(t.intermediate_values.items())], self._planned(t))
                for t in seen[:judges]
                if t.state.name == "COMPLETE"
            ]
            self._rules[judges] = Rule.of(curves, self.cell.larger, self.cell.metric)
        return replace(self._rules[judges], planned=self._planned(seen[number]))

    def _planned(self, trial: Any) -> int:
        """Validations of a trial's whole budget."""
        epochs = self._point(trial.params).get("epochs", self.cell.epochs)
        return planned_validations(epochs, self.cell.eval_step)

    def tell(self, number: int, record: Mapping[str, Any]) -> None:
        """Tell the result of a trial from its record; only its validation is read.

        Whether it is pruned follows from its scores and its rule, also where its run went further:
        the same point may have been run whole before.

        Args:
            number: Of the trial.
            record: Of its run: a finished or a pruned one, or one with an ``error``.
        """
        states = self._optuna.trial.TrialState
        value = validation(record, self.cell.metric)
        scores = scores_of(record, self.cell.metric) if "error" not in record else []
        stop = self.rule(number).stop(scores)
        trial_id = self._study.get_trials(deepcopy=False)[number]._trial_id
        for k, score in enumerate(scores[:stop], start=1):
            self._storage.set_trial_intermediate_value(trial_id, k, score)
        if stop is not None or (is_pruned(record) and scores):
            self._study.tell(number, state=states.PRUNED)
        elif value is None:
            self._study.tell(number, state=states.FAIL)
        else:
            self._study.tell(number, value)

    def best(self) -> Trial | None:
        """The trial with the best validation metric, the earliest of equals; none if all failed."""
        return best_of(self.all(), self.cell.larger)

    def _point(self, params: Mapping[str, Any]) -> dict[str, Any]:
        space = self.cell.space
        return {key: space[key].rounded(params[key]) for key in space if key in params}

    def _stored(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Values of ranges in the type that their distribution stores."""
        space = self.cell.space
        return {
            key: value if space[key].choices or space[key].whole else space[key].stored(value)
            for key, value in point.items()
        }


def best_of(trials: Iterable[Trial], larger: bool) -> Trial | None:
    """The trial with the best validation metric, the earliest of equals; none if all failed."""
    sign = 1.0 if larger else -1.0
    scored = [(sign * t.value, -t.number, t) for t in trials if t.value is not None]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def validation(record: Mapping[str, Any], metric: str) -> float | None:
    """The validation metric of a record; none of a failed run, or where it is not a number."""
    value = (record.get("best_valid") or {}).get(metric)
    if "error" in record or is_pruned(record) or value is None or not math.isfinite(value):
        return None
    return float(value)


def _seed(seed: int, number: int) -> int:
    return int(records.config_hash({"seed": seed, "trial": number}), 16)
