"""Which trials of a search are stopped before their end: Optuna's quantiles as plain numbers.

Trials are compared by the part of their own budget that lies behind them, not by epochs: a learning
rate that falls over eight epochs is still high where one that falls over one epoch has ended, and
what starts slowly may win. After a quarter, a half and three quarters of its own validations a
trial is stopped if its best score so far is not among the best third of what the complete trials
that decide about it had at the same part (all of theirs, where they ended earlier). On these parts
it is Optuna's ``PercentilePruner(100 / 3)``; a third is what successive halving keeps. The process
of a trial is given numbers, so it needs neither Optuna nor the storage.

Which trials decide about trial t depends on t alone, so the number of workers and a stop change
nothing: the first :data:`WARM_UP` run whole; those up to
:data:`~recbole_choir.experiments.tuning.RANDOM_TRIALS` are judged by these; each later one
by all before it. The price: trial 5 waits for the first five, so more than five workers of one row
rest for a while; later trials waited for all before them already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_choir.errors import Pruned

#: Trials that are never stopped, and that judge the next ones: Optuna's own number for its pruner.
WARM_UP = 5
#: Percent of the trials at hand that one must keep up with; the worse ones are stopped.
KEPT = 100 / 3
#: Equal parts of a trial's budget, after each of which but the last it may be stopped.
PARTS = 4
#: Fewest trials of a row for which pruning is on by itself.
FROM_TRIALS = 8


@dataclass(frozen=True)
class Rule:
    """When a trial is too weak to go on.

    Attributes:
        thresholds: The p-th entry is what the best score after (p + 1) / :data:`PARTS` of the
            budget must reach. Empty: nothing is stopped.
        larger: Whether more of the metric is better.
        metric: Its name in lower case, to read a record by.
        planned: Validations of the trial's whole budget.
    """

    thresholds: tuple[float, ...] = ()
    larger: bool = True
    metric: str = "gauc"
    planned: int = 1

    @classmethod
    def of(
        cls,
        trials: Iterable[tuple[Sequence[float], int]],
        larger: bool,
        metric: str,
        planned: int = 1,
    ) -> Rule:
        """The rule that complete trials make.

        Args:
            trials: Scores of each, in the order of the validations, and how many were planned; one
                without scores is left out.
            larger: Whether more is better.
            metric: Name of the metric.
            planned: Of the trial that the rule is for.
        """
        curves = [by_parts(scores, n, larger) for scores, n in trials if len(scores)]
        if not curves:
            return cls((), larger, metric, planned)
        percent = 100 - KEPT if larger else KEPT
        thresholds = np.percentile(curves, percent, axis=0)
        return cls(tuple(thresholds.tolist()), larger, metric, planned)

    def stop(self, scores: Sequence[float]) -> int | None:
        """Number of the first validation at which a trial with these scores is stopped; or None."""
        best = running_best(scores, self.larger)
        for threshold, k in zip(self.thresholds, checkpoints(self.planned)):
            if k >= self.planned or k > len(best):
                return None  # nothing to save at its end
            if best[k - 1] < threshold if self.larger else best[k - 1] > threshold:
                return k
        return None


@dataclass
class Watch:
    """``callback_fn`` of a run that obeys a rule.

    Raises:
        Pruned: At the validation at which the rule says so; one line.
    """

    rule: Rule
    scores: list[float] = field(default_factory=list)

    def __call__(self, epoch: int, score: float) -> None:
        """Take the score of the next validation."""
        self.scores.append(float(score))
        if self.rule.stop(self.scores) is not None:
            k = len(self.scores)
            best = running_best(self.scores, self.rule.larger)[-1]
            threshold = self.rule.thresholds[checkpoints(self.rule.planned).index(k)]
            raise Pruned(
                f"pruned at validation {k} of {self.rule.planned}: {self.rule.metric} {best:.6g} "
                f"is worse than {threshold:.6g}, the best third of earlier trials"
            )


def planned_validations(epochs: float, eval_step: float) -> int:
    """Validations of a whole run: 16 for eight epochs with ``eval_step: 0.5``."""
    return max(1, int(epochs / eval_step + 1e-6))


def checkpoints(planned: int) -> list[int]:
    """Validations after which each of the :data:`PARTS` of a budget has been trained."""
    return [max(1, math.ceil(planned * p / PARTS - 1e-6)) for p in range(1, PARTS + 1)]


def by_parts(scores: Sequence[float], planned: int, larger: bool) -> np.ndarray:
    """The best score so far after each part of the budget ``[PARTS]``, carried on to its end."""
    best = running_best(scores, larger)
    return np.array([best[min(k, len(best)) - 1] for k in checkpoints(planned)])


def running_best(scores: Sequence[float], larger: bool) -> np.ndarray:
    """The best score so far after each validation, ``[k]``."""
    values = np.asarray(scores, dtype=np.float64)
    return np.maximum.accumulate(values) if larger else np.minimum.accumulate(values)


def scores_of(record: Mapping[str, Any], metric: str) -> list[float]:
    """The validations of a record, whole or pruned, in order."""
    found = list(record.get("validations") or ())
    if not found:
        for entry in record.get("history") or ():
            whole = [{"valid": entry["valid"]}] if entry.get("valid") else []
            found += entry.get("validations") or whole
    values = [(one.get("valid") or {}).get(metric) for one in found]
    return [float(value) for value in values if value is not None]


def is_pruned(record: Mapping[str, Any]) -> bool:
    """Whether a record is that of a trial that was stopped."""
    return record.get("state") == "pruned"
