"""How far one cell is: which of its runs may start, and what a finished one changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_choir.experiments.plan import Cell, Plan
from recbole_choir.experiments.pruning import is_pruned
from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.runs import Run, finished, log_path, record_path, write_failure
from recbole_choir.experiments.tuning import Trial, Tuning


class Progress:
    """The runs of one cell: its trials, then its seeds at the point that they chose.

    Args:
        cell: The cell.
        plan: Of which it is.
        out: Folder of the records.
        tuning: Its search; None where there is none.
        source: The cell whose point it takes, for a sweep.
    """

    def __init__(
        self,
        cell: Cell,
        plan: Plan,
        out: Path,
        tuning: Tuning | None = None,
        source: Progress | None = None,
    ) -> None:
        self.cell = cell
        self.total = plan.runs_of(cell)
        self.seeds: list[Run] = []
        self._plan = plan
        self.out = out
        self._tuning = tuning
        self._source = source
        self._open: dict[str, list[int]] = {}  # key of a run -> trials it answers
        self._started: set[str] = set()
        self._decided = False
        self._point: dict[str, Any] | None = None
        self.over = sum(t.state != "open" for t in self.trials())  # of earlier starts

    def ready(self) -> list[Run]:
        """Runs that may start now and were not given out before; none of them is finished."""
        out = [] if self._decided else self._trials()
        if not self.settle():
            return out
        for run in self.seeds:
            if run.key() in self._started or finished(run, self.out):
                continue
            self._started.add(run.key())
            if self._point is None:
                write_failure(run, self.out, self._reason())
                self.over += 1
            else:
                out.append(run)
        return out

    def settle(self) -> bool:
        """Take the point of the seeds, as soon as all trials are over; starts nothing.

        Returns:
            Whether the point is known, or known to be missing.
        """
        if self._decided:
            return True
        if not self._decide():
            return False
        self.seeds = [self.cell.run(s, self._point or {}, "seed") for s in self._plan.seeds]
        self.over += sum(finished(run, self.out) for run in self.seeds)
        return True

    def done(self, run: Run, error: str | None) -> None:
        """A run of :meth:`ready` has ended; its record is written if it failed."""
        if error is not None:
            log = log_path(run, self.out)
            where = f" (logs/{log.name})" if log.exists() else ""
            write_failure(run, self.out, f"{error}{where}")
        if run.role == "tune":
            self._tell(run)
        else:
            self.over += 1

    def trials(self) -> list[Trial]:
        """Its trials, in order."""
        return [] if self._tuning is None else self._tuning.all()

    def best(self) -> Trial | None:
        """The trial that was chosen, of those that are finished."""
        return None if self._tuning is None else self._tuning.best()

    def failed_trials(self) -> list[dict[str, Any]]:
        """Records of its trials that failed."""
        runs = {
            run.key(): run
            for run in (
                self.cell.run(self._plan.tune_seed, trial.point, "tune")
                for trial in self.trials()
                if trial.state == "failed"
            )
        }
        return [read_record(record_path(run, self.out)) for run in runs.values()]

    def failed_seeds(self) -> list[dict[str, Any]]:
        """Records of its seeds that failed."""
        seen = [read_record(record_path(run, self.out)) or {} for run in self.seeds]
        return [record for record in seen if "error" in record]

    def _trials(self) -> list[Run]:
        tuning = self._tuning
        out: list[Run] = []
        if tuning is None:
            return out
        while True:
            waiting = {number for numbers in self._open.values() for number in numbers}
            fresh = [t for t in tuning.all() if t.state == "open" and t.number not in waiting]
            trial = fresh[0] if fresh else tuning.propose()
            if trial is None:
                return out
            run = self.cell.run(self._plan.tune_seed, trial.point, "tune")
            run = replace(run, rule=tuning.rule(trial.number))
            key = run.key()
            self._open.setdefault(key, []).append(trial.number)
            if finished(run, self.out):
                self._started.add(key)
                self._tell(run)
            elif key not in self._started or (
                # stopped there by another rule than this trial's: it has to go further
                len(self._open[key]) == 1 and self._stopped(run)
            ):
                self._started.add(key)
                out.append(run)
            elif len(self._open[key]) == 1:  # the same point failed before: not tried again now
                self._tell(run)

    def _stopped(self, run: Run) -> bool:
        """Whether a run has left the record of a pruned trial."""
        return is_pruned(read_record(record_path(run, self.out)) or {})

    def _tell(self, run: Run) -> None:
        record = read_record(record_path(run, self.out))
        for number in self._open.pop(run.key(), []):
            if self._tuning is not None:
                self._tuning.tell(number, record)
            self.over += 1

    def _decide(self) -> bool:
        """Take the point of the seeds, as soon as it is known."""
        if self._tuning is not None:
            trials = self._tuning.all()
            if len(trials) < self._tuning.trials or any(t.state == "open" for t in trials):
                return False
            best = self._tuning.best()
            self._point = None if best is None else best.point
        elif self._source is not None:
            if not self._source._decided:
                return False
            self._point = self._source._point
        else:
            self._point = {}
        self._decided = True
        return True

    def _reason(self) -> str:
        tuned = self if self._source is None else self._source
        errors = [record["error"] for record in tuned.failed_trials() if "error" in record]
        first = errors[0] if errors else f"no finite validation {self.cell.metric}"
        return f"every trial of '{tuned.cell.name}' failed, the first with: {first}"
