"""One training run of a study or a comparison: what was asked, its process, its record."""

from __future__ import annotations

import logging
import os
import shutil
import traceback
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from recbole_choir import record as records
from recbole_choir.experiments.pruning import Rule, Watch, is_pruned, scores_of
from recbole_choir.experiments.record_store import read_record

logger = logging.getLogger("recbole_choir")


@dataclass(frozen=True)
class Run:
    """One run: a cell on a dataset with a seed and a point of the hyper-parameters.

    Attributes:
        cell: Name of the row in tables.
        model, dataset, seed: Of the run.
        config: What was asked beyond them; any key of a run.
        role: "tune" while choosing on validation, "seed" for the tables.
        extra: Further fields of the record, which change nothing in the run.
        rule: When a trial is stopped before its end; no part of what was asked.
    """

    cell: str
    model: str
    dataset: str
    seed: int
    config: dict[str, Any] = field(hash=False)
    role: str = "seed"
    extra: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    rule: Rule = field(default_factory=Rule, hash=False, compare=False)

    def key(self) -> str:
        """Name of the run's record, from everything that was asked."""
        asked = [self.model, self.dataset, self.seed, self.config]
        digest = records.config_hash({"asked": asked})
        return f"{self.dataset}-{records.file_name(self.cell)}-{self.seed}-{digest}"

    def asked(self) -> dict[str, Any]:
        """The fields of its record that were known before it ran."""
        return {
            "cell": self.cell,
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.seed,
            "role": self.role,
            "asked": records.without_machine(self.config),
            **self.extra,
        }


def record_path(run: Run, out: Path) -> Path:
    """Where a run's record lies in the folder of a study."""
    return out / f"{run.key()}.json"


def finished(run: Run, out: Path) -> bool:
    """Whether a run has left a record without an error, and its predictions where tests need them.

    The record of a pruned trial is enough where the run's own rule would have stopped it as well.
    Predictions are too large for a repository: of records that came from one, the runs are due.
    """
    path = record_path(run, out)
    record = read_record(path)
    if record is None or "error" in record:
        return False
    if is_pruned(record):
        return run.rule.stop(scores_of(record, run.rule.metric)) is not None
    if run.role == "seed" and not path.with_suffix(".npz").exists():
        _say_once(path)
        return False
    return True


@cache
def _say_once(path: Path) -> None:
    logger.warning("%s: no predictions (.npz) next to it, which tests need: run again", path)


def execute(run: Run, out: str, threads: int, gpu: int | None = None, log: bool = False) -> None:
    """Run in a fresh process and leave a record in ``out``; weights are not kept.

    Args:
        run: What to run.
        out: Folder of the records.
        threads: Threads of torch.
        gpu: The GPU to take, where there are several; null leaves it to the configuration.
        log: Write what the run says to :func:`log_path` instead of the terminal; kept if it fails.
    """
    if not log:
        _run(run, out, threads, gpu)
        return
    path = log_path(run, Path(out))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for stream in (1, 2):  # also what libraries write past Python
            os.dup2(file.fileno(), stream)
        try:
            _run(run, out, threads, gpu)
        except BaseException:
            traceback.print_exc(file=file)
            raise
    path.unlink()


def log_path(run: Run, out: Path) -> Path:
    """Where the messages of a run are that failed."""
    return out / "logs" / f"{run.key()}.log"


def _run(run: Run, out: str, threads: int, gpu: int | None) -> None:
    # Only a process that trains loads torch and RecBole; planning and checking do not.
    import torch

    from recbole_choir import quick_start

    torch.set_num_threads(threads)
    path = record_path(run, Path(out))
    weights = weights_path(run, Path(out))
    config = {
        "checkpoint_dir": str(weights),
        **run.config,
        "seed": run.seed,
        "run_name": run.cell,
        "show_progress": False,
        "state": "WARNING",
        "quiet": True,
        "record_dir": str(Path(out) / "runs"),
        "save_predictions": run.role == "seed",
        **({} if gpu is None else {"gpu_id": gpu}),
    }
    try:
        watch = Watch(run.rule) if run.rule.thresholds else None
        result = quick_start.run(run.model, run.dataset, config_dict=config, callback_fn=watch)
    finally:
        shutil.rmtree(weights, ignore_errors=True)
    source = Path(result["record_path"])
    if source.with_suffix(".npz").exists():
        # before the record, so that a record never lacks its predictions
        os.replace(source.with_suffix(".npz"), path.with_suffix(".npz"))
    records.keep_record(path, {**result["record"], **run.asked()})
    source.unlink()  # after it, so that a kill in between loses nothing


def weights_path(run: Run, out: Path) -> Path:
    """Where the checkpoints of a run are while it is at work."""
    return out / "runs" / f"{run.key()}-weights"


def write_failure(run: Run, out: Path, message: str) -> None:
    """Leave a record with an error: a failed run is shown in the tables, never skipped."""
    shutil.rmtree(weights_path(run, out), ignore_errors=True)  # a killed run could not
    records.write_json(record_path(run, out), {**run.asked(), "error": message})
