"""Which trials of a search are stopped before their end: Optuna's quantiles as plain numbers.

A trial is stopped at its k-th validation if the best of its first k scores is not among the best
quarter: worse than the quartile, over the complete trials that decide about it, of their best score
within k validations (of all of theirs, where they ended earlier). On the running best, this is
Optuna's ``PercentilePruner(25.0)``; the median (``MedianPruner``) saves two thirds of that.
The process of a trial is given numbers, so it needs neither Optuna nor the storage.

Which trials decide about trial t depends on t alone, so the number of workers and a stop change
nothing: the first :data:`WARM_UP` run whole; those up to
:data:`~recbole_choir.analysis.comparison.tuning.RANDOM_TRIALS` are judged by these; each later one
by all before it. The price: trial 5 waits for the first five, so more than five workers of one row
rest for a while; later trials waited for all before them already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_choir.integration.validation_points import Pruned

#: Trials that are never stopped, and that judge the next ones: Optuna's own number for its pruner.
WARM_UP = 5
#: Percent of the trials at hand that one must keep up with; the worse ones are stopped.
KEPT = 25.0
#: A trial is not stopped before so many epochs: the first steps say little.
FIRST_EPOCHS = 0.5
#: Fewest trials of a row for which pruning is on by itself.
FROM_TRIALS = 8


@dataclass(frozen=True)
class Rule:
    """When a trial is too weak to go on.

    Attributes:
        thresholds: The k-th entry holds after k + 1 validations, the last one for all later ones.
            Empty: nothing is stopped.
        larger: Whether more of the metric is better.
        metric: Its name in lower case, to read a record by.
        first: Number of the validation from which on a trial may be stopped.
    """

    thresholds: tuple[float, ...] = ()
    larger: bool = True
    metric: str = "gauc"
    first: int = 1

    @classmethod
    def of(
        cls, curves: Iterable[Sequence[float]], larger: bool, metric: str, first: int = 1
    ) -> Rule:
        """The rule that complete trials make.

        Args:
            curves: Scores of each, in the order of the validations; one without scores is left out.
            larger: Whether more is better.
            metric: Name of the metric.
            first: See the attribute.
        """
        whole = [running_best(curve, larger) for curve in curves if len(curve)]
        if not whole:
            return cls((), larger, metric, first)
        length = max(map(len, whole))
        padded = [np.pad(curve, (0, length - len(curve)), mode="edge") for curve in whole]
        percent = 100 - KEPT if larger else KEPT
        thresholds = np.percentile(padded, percent, axis=0)
        return cls(tuple(thresholds.tolist()), larger, metric, first)

    def stop(self, scores: Sequence[float]) -> int | None:
        """Number of the first validation at which a trial with these scores is stopped; or None."""
        if not self.thresholds:
            return None
        best = running_best(scores, self.larger)
        for k in range(self.first - 1, len(best)):
            threshold = self.thresholds[min(k, len(self.thresholds) - 1)]
            if best[k] < threshold if self.larger else best[k] > threshold:
                return k + 1
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
            threshold = self.rule.thresholds[min(k, len(self.rule.thresholds)) - 1]
            raise Pruned(
                f"pruned at validation {k}: {self.rule.metric} {best:.6g} is worse than "
                f"{threshold:.6g}, the best quarter of earlier trials"
            )


def first_validation(eval_step: float) -> int:
    """Number of the first validation after :data:`FIRST_EPOCHS` epochs: 2 for quarters."""
    return max(1, math.ceil(FIRST_EPOCHS / eval_step - 1e-6))


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
