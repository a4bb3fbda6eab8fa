"""Run what is missing of a comparison, several processes at a time."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from recbole_choir.experiments.plan import Plan
from recbole_choir.experiments.progress import Progress
from recbole_choir.experiments.runs import Run, end_with_parent, execute
from recbole_choir.experiments.tuning import Tuning, open_storage

#: Starts a run in a slot and returns its future.
Start = Callable[[Run, int], "Future[None]"]


def default_workers(threads: int) -> int:
    """One run a GPU where there are GPUs, else as many as the cores allow."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        return gpus
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, cores // threads)


class Processes:
    """Runs in processes of their own: a crash of one touches no other, and ends as a failed run.

    Args:
        out: Folder of the records.
        threads: Threads of each.
    """

    def __init__(self, out: Path, threads: int) -> None:
        self.out = out
        self.threads = threads
        self._gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0

    def __call__(self, run: Run, slot: int) -> Future[None]:
        """Start a run; with several GPUs, slot s takes GPU s modulo their number."""
        gpu = slot % self._gpus if self._gpus > 1 else None
        pool = ProcessPoolExecutor(
            1,
            mp_context=get_context("spawn"),
            initializer=end_with_parent,
            max_tasks_per_child=1,
        )
        future = pool.submit(execute, run, str(self.out), self.threads, gpu, True)
        pool.shutdown(wait=False)
        return future


def open_progress(plan: Plan, out: Path, retry: bool = True) -> dict[tuple[str, str], Progress]:
    """The state of every cell as the folder has it.

    Args:
        plan: The comparison.
        out: Its folder.
        retry: Propose failed trials anew; False: leave everything as it is, to look at.
    """
    storage = open_storage(out) if any(plan.trials_of(cell) for cell in plan.cells) else None
    state: dict[tuple[str, str], Progress] = {}
    for cell in plan.cells:
        trials = plan.trials_of(cell)
        state[cell.id] = Progress(
            cell,
            plan,
            out,
            Tuning(cell, trials, plan.tune_seed, storage, retry, plan.prune) if trials else None,
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
    """
    state = open_progress(plan, out)
    queue = [(progress, run) for progress in state.values() for run in progress.ready()]
    running: dict[Future[None], tuple[Progress, Run, int]] = {}
    free = list(range(workers))[::-1]
    total = sum(progress.total for progress in state.values())
    there = sum(progress.over for progress in state.values())
    with tqdm(total=total, initial=there, desc="runs", disable=not show_progress) as bar:
        while True:
            while queue and free:
                progress, run = _next(queue, running)
                slot = free.pop()
                running[start(run, slot)] = (progress, run, slot)
            names = sorted({run.cell for _, run, _ in running.values()})
            bar.set_postfix_str("; ".join(names), refresh=False)
            bar.update(sum(progress.over for progress in state.values()) - bar.n)
            if not running:
                return state
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                progress, run, slot = running.pop(future)
                free.append(slot)
                error = future.exception()
                message = None if error is None else _line(error)
                progress.done(run, message)
                if message is not None:
                    what = f"{run.dataset}, {run.cell}, seed {run.seed}"
                    tqdm.write(f"failed: {what}: {message}", file=sys.stderr)
            for progress in state.values():
                queue.extend((progress, run) for run in progress.ready())


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
    return " ".join(f"{type(error).__name__}: {error}".split())
