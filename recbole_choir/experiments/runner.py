"""Run what is missing of a comparison or study, several processes at a time.

How far a cell is, :class:`Progress` knows: its trials come first, then its seeds at the point that
they chose. What is finished is read from the records, so every start goes on where the last one
ended.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from recbole_choir.errors import ConfigError
from recbole_choir.experiments.grid import Grid
from recbole_choir.experiments.plan import Cell, Plan
from recbole_choir.experiments.pruning import is_pruned
from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.runs import (
    Run,
    execute,
    finished,
    log_path,
    record_path,
    write_failure,
)
from recbole_choir.experiments.tuning import Search, Trial, Tuning, open_storage
from recbole_choir.files import sweep
from recbole_choir.processes import Interrupts, interrupts_held, start_worker

#: Starts a run in a slot and returns its future.
Start = Callable[[Run, int], "Future[None]"]

#: What the first interrupt is answered with.
LAST_RUNS: Final = (
    "stopping: no run is started any more, those at work go on to their end and are kept; "
    "once more ends at once"
)


def gpu_count() -> int:
    """GPUs that runs may take."""
    import torch  # heavy: a plan that is refused or only shown does without

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def default_workers(threads: int) -> int:
    """One run a GPU where there are GPUs, else as many as the cores allow."""
    gpus = gpu_count()
    if gpus:
        return gpus
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, cores // threads)


def check_count(name: str, value: int | None) -> None:
    """Refuse fewer than one worker or thread; None is left to :func:`default_workers`.

    Raises:
        ConfigError: See above.
    """
    if value is not None and value < 1:
        raise ConfigError(f"--{name}: expected at least 1, got {value}")


class Processes:
    """Runs in processes of their own: a crash of one touches no other, and ends as a failed run.

    Args:
        out: Folder of the records.
        threads: Threads of each.
    """

    def __init__(self, out: Path, threads: int) -> None:
        self.out = out
        self.threads = threads
        self._gpus = gpu_count()
        self._context = _context()

    def __call__(self, run: Run, slot: int) -> Future[None]:
        """Start a run; with several GPUs, slot s takes GPU s modulo their number."""
        gpu = slot % self._gpus if self._gpus > 1 else None
        pool = ProcessPoolExecutor(
            1,
            mp_context=self._context,
            initializer=start_worker,
            max_tasks_per_child=1,
        )
        with interrupts_held():
            future = pool.submit(execute, run, str(self.out), self.threads, gpu, True)
        pool.shutdown(wait=False)
        return future


def _context() -> BaseContext:
    """How processes of runs begin: on Linux from one that has loaded the libraries already.

    Loading them takes about eight seconds of one core, more than a small run. Nothing else is
    shared: no run has begun in the process that the others are copies of, and no GPU is touched.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["recbole_choir.quick_start", "torch._dynamo"])
    return context


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
        tuning: Search | None = None,
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


def open_progress(plan: Plan, out: Path, retry: bool = True) -> dict[tuple[str, str], Progress]:
    """The state of every cell as the folder has it.

    Args:
        plan: The comparison.
        out: Its folder.
        retry: Propose failed trials again; False: leave everything as it is, to look at.
    """
    searched = not plan.grid and any(plan.trials_of(cell) for cell in plan.cells)
    storage = open_storage(out) if searched else None
    state: dict[tuple[str, str], Progress] = {}
    for cell in plan.cells:
        trials = plan.trials_of(cell)
        search: Search | None = None
        if trials and plan.grid:
            search = Grid(cell)
        elif trials:
            search = Tuning(cell, trials, plan.tune_seed, storage, retry, plan.prune)
        state[cell.id] = Progress(
            cell,
            plan,
            out,
            search,
            # where nothing is searched the other cell has no point either: its defaults are used
            state[cell.dataset, cell.point_of] if cell.point_of else None,
        )
    return state


def run_missing(
    plan: Plan,
    out: Path,
    workers: int,
    start: Start,
    show_progress: bool = True,
) -> dict[tuple[str, str], Progress]:
    """Run what is missing; a failed run leaves a record with its error and stops nothing.

    Args:
        plan: The comparison.
        out: Folder of records and trials.
        workers: Runs at a time.
        start: Starts one; :class:`Processes`.
        show_progress: Show a bar.

    Returns:
        The state of every cell afterwards.

    Raises:
        KeyboardInterrupt: Somebody interrupted; the runs at work then have ended. A second
            interrupt ends this process and them at once.
        OSError: The record of a failed run could not be written; the other runs have ended.
    """
    sweep(out)
    state = open_progress(plan, out)
    queue = [(progress, run) for progress in state.values() for run in progress.ready()]
    running: dict[Future[None], tuple[Progress, Run, int]] = {}
    free = list(range(workers))[::-1]
    total = sum(progress.total for progress in state.values())
    there = sum(progress.over for progress in state.values())
    unwritten: OSError | None = None
    with (
        Interrupts.counted(LAST_RUNS) as interrupts,
        tqdm(total=total, initial=there, desc="runs", disable=not show_progress) as bar,
    ):
        while True:
            ending = interrupts.seen or unwritten is not None
            while queue and free and not ending:
                progress, run = _next(queue, running)
                slot = free.pop()
                running[start(run, slot)] = (progress, run, slot)
                ending = interrupts.seen
            names = sorted({run.cell for _, run, _ in running.values()})
            bar.set_postfix_str("; ".join(names), refresh=False)
            bar.update(sum(progress.over for progress in state.values()) - bar.n)
            if not running:
                break
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                progress, run, slot = running.pop(future)
                free.append(slot)
                error = future.exception()
                message = None if error is None else _line(error)
                if message is not None:
                    what = f"{run.dataset}, {run.cell}, seed {run.seed}"
                    tqdm.write(f"failed: {what}: {message}", file=sys.stderr)
                try:
                    progress.done(run, message)
                except OSError as full:
                    unwritten = full
            if not interrupts.seen and unwritten is None:
                for progress in state.values():
                    queue.extend((progress, run) for run in progress.ready())
    if unwritten is not None:
        raise unwritten
    if interrupts.seen:
        raise KeyboardInterrupt
    return state


def _next(
    queue: list[tuple[Progress, Run]], running: Mapping[Future[None], tuple[Progress, Run, int]]
) -> tuple[Progress, Run]:
    """Take a run of the cell with the fewest running, the first of equals.

    Runs of one cell at once would build its semantic table at once; the second waits for nothing
    when it comes later.
    """
    busy = Counter(progress.cell.id for progress, _, _ in running.values())
    index = min(range(len(queue)), key=lambda i: (busy[queue[i][0].cell.id], i))
    return queue.pop(index)


def _line(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "the process of this run was killed, perhaps for want of memory"
    return " ".join(f"{type(error).__name__}: {error}".split())
