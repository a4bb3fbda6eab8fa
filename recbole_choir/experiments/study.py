"""Many runs from one YAML file: models x datasets x seeds, with the controls, resumable.

A study file::

    name: foundation
    datasets: [ml-100k, ml-1m]
    seeds: [2020, 2021, 2022]
    tune:                      # the same grid for every cell, chosen on validation GAUC alone
      seed: 1
      grid: {learning_rate: [0.001, 0.002], epochs: [2, 4]}
    common: {history_length: 50}
    cells:
      - {name: Base, model: Base}          # every other cell is compared with the first
      - {name: random, model: ChoirRec, config: {semantic: {input: random}}}
      - {name: ChoirRec, model: ChoirRec, control: random}
    averages:
      - {name: two Base seeds averaged, of: Base}
    segments: [all, low, new_users]        # columns of the tables; default: users by activity

Settings are laid over each other as a run's own layers: of ``semantic`` and ``eval_args`` a cell
may give single entries. Every finished run is a record on disk, named by the hash of what was
asked; a second start runs what is missing. A failed run is written as a record with its error and
shown in the tables.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from recbole_choir import record as records
from recbole_choir.errors import ConfigError, nearest
from recbole_choir.evaluator import SEGMENT_NAMES
from recbole_choir.experiments.differences import write_differences
from recbole_choir.experiments.ensemble import average_pair, seed_pairs
from recbole_choir.experiments.overrides import laid
from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.runs import (
    Run,
    end_with_parent,
    execute,
    finished,
    record_path,
    write_failure,
)
from recbole_choir.experiments.tables import SEGMENTS, markdown_tables

STUDY_KEYS = {"name", "datasets", "seeds", "tune", "common", "cells", "averages", "segments"}


CELL_KEYS = {"name", "model", "config", "control"}


@dataclass(frozen=True)
class Study:
    """A parsed study file."""

    name: str
    datasets: list[str]
    seeds: list[int]
    cells: list[dict[str, Any]]
    common: dict[str, Any]
    tune: dict[str, Any]
    averages: list[dict[str, Any]]
    segments: list[str] = field(default_factory=lambda: list(SEGMENTS))

    @classmethod
    def load(cls, path: Path) -> Study:
        """Read and check a study file.

        Raises:
            ConfigError: An unknown or missing key, in one line.
        """
        content = yaml.safe_load(path.read_text()) or {}
        for key in content:
            if key not in STUDY_KEYS:
                raise ConfigError(f"{path}: unknown key '{key}'{nearest(key, STUDY_KEYS)}")
        for key in ("datasets", "seeds", "cells"):
            if not content.get(key):
                raise ConfigError(f"{path}: key '{key}' is missing or empty")
        for segment in content.get("segments") or ():
            if segment not in SEGMENT_NAMES:
                raise ConfigError(
                    f"{path}: segments: expected any of {', '.join(SEGMENT_NAMES)}, got "
                    f"'{segment}'{nearest(str(segment), SEGMENT_NAMES)}"
                )
        names = [cell.get("name", cell["model"]) for cell in content["cells"]]
        for cell in content["cells"]:
            for key in cell:
                if key not in CELL_KEYS:
                    raise ConfigError(f"{path}: unknown key '{key}'{nearest(key, CELL_KEYS)}")
            if cell.get("control", names[0]) not in names:
                raise ConfigError(
                    f"{path}: control '{cell['control']}': no such cell"
                    f"{nearest(cell['control'], names)}"
                )
        for average in content.get("averages", []):
            if average["of"] not in names:
                raise ConfigError(
                    f"{path}: average of '{average['of']}': no such cell"
                    f"{nearest(average['of'], names)}"
                )
        return cls(
            name=str(content.get("name", path.stem)),
            datasets=list(content["datasets"]),
            seeds=[int(s) for s in content["seeds"]],
            cells=[{**c, "name": n} for c, n in zip(content["cells"], names)],
            common=dict(content.get("common") or {}),
            tune=dict(content.get("tune") or {}),
            averages=list(content.get("averages") or []),
            segments=list(content.get("segments") or SEGMENTS),
        )

    @property
    def compared(self) -> list[str]:
        """Segments in which differences are bootstrapped: the first three columns."""
        return self.segments[:3]

    def grid(self) -> list[dict[str, Any]]:
        """Points of the tuning grid; one empty point without one."""
        grid = self.tune.get("grid") or {}
        return [dict(zip(grid, point)) for point in itertools.product(*grid.values())]

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of cells to compare: with the first cell, and with the cell's own control."""
        names = [*(c["name"] for c in self.cells), *(a["name"] for a in self.averages)]
        pairs = [(name, names[0]) for name in names[1:]]
        return pairs + [(c["name"], c["control"]) for c in self.cells if "control" in c]

    def _config(self, cell: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
        """Settings of a run: a cell's lie over the common ones, a point of the grid over both."""
        return laid(laid(self.common, cell.get("config", {})), point)

    def tuning_runs(self) -> Iterator[Run]:
        """Runs that choose a point of the grid for each cell, on validation."""
        points = self.grid()
        if len(points) < 2:
            return
        for dataset, cell, point in itertools.product(self.datasets, self.cells, points):
            config = self._config(cell, point)
            yield Run(cell["name"], cell["model"], dataset, int(self.tune["seed"]), config, "tune")

    def seed_runs(self, chosen: dict[tuple[str, str], dict[str, Any]]) -> Iterator[Run]:
        """Runs for the table, each cell at its chosen point."""
        for dataset, cell, seed in itertools.product(self.datasets, self.cells, self.seeds):
            point = chosen.get((dataset, cell["name"]), {})
            config = self._config(cell, point)
            yield Run(cell["name"], cell["model"], dataset, seed, config)


def _run_all(runs: Sequence[Run], out: Path, workers: int, threads: int) -> None:
    missing = [r for r in runs if not finished(r, out)]
    if not missing:
        return
    context = get_context("spawn")
    # One task a process: a crash or a leak of one run cannot touch another.
    with (
        ProcessPoolExecutor(
            workers, mp_context=context, initializer=end_with_parent, max_tasks_per_child=1
        ) as pool,
        tqdm(total=len(missing), desc="runs") as bar,
    ):
        futures = {pool.submit(execute, run, str(out), threads): run for run in missing}
        for future in as_completed(futures):
            run, error = futures[future], future.exception()
            bar.set_postfix_str(run.cell)
            bar.update()
            if error is not None:  # a failed cell is shown in the tables, never skipped
                message = f"{type(error).__name__}: {error}"
                write_failure(run, out, message)
                tqdm.write(f"failed: {run.key()}: {message}")


def choose(study: Study, out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """For each dataset and cell, the grid point with the best validation GAUC."""
    best: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}
    for run in study.tuning_runs():
        record = read_record(record_path(run, out))
        score = float(record.get("best_valid", {}).get("gauc", float("-inf")))
        point = {k: run.config[k] for k in study.tune["grid"]}
        if score > best.get((run.dataset, run.cell), (float("-inf"), {}))[0]:
            best[(run.dataset, run.cell)] = (score, point)
    return {key: point for key, (_, point) in best.items()}


def average_records(study: Study, runs: Sequence[Run], out: Path) -> None:
    """Write the control records: the mean score of pairs of seeds of one cell.

    Averaging two seeds of the same model is the cheapest way to be larger; a gain that does not
    beat it is a gain in size (specs of the study, control "two seeds averaged").
    """
    for average in study.averages:
        for dataset in study.datasets:
            members = [r for r in runs if r.cell == average["of"] and r.dataset == dataset]
            paths = [out / f"{r.key()}.json" for r in members]
            paths = [p for p in paths if p.with_suffix(".npz").exists()]
            for first, second in seed_pairs(paths):
                name = f"{dataset}-{records.file_name(average['name'])}-{first.stem[-8:]}.json"
                average_pair(first, second, average["name"], out / name)


def run_study(path: Path, out: Path, workers: int = 1, threads: int = 1) -> Path:
    """Run what is missing of a study.

    Args:
        path: The study file.
        out: Folder of the records; made if needed.
        workers: Runs at a time.
        threads: Threads a run. One by default: two threads on small layers were many times slower
            than one on a busy machine.

    Returns:
        The folder of the records.
    """
    study = Study.load(path)
    out.mkdir(parents=True, exist_ok=True)
    tuning = list(study.tuning_runs())
    _run_all(tuning, out, workers, threads)
    chosen = choose(study, out)
    runs = list(study.seed_runs(chosen))
    _run_all(runs, out, workers, threads)
    average_records(study, runs, out)
    if all(finished(r, out) for r in runs):
        write_differences(out, study.pairs(), study.compared)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """``recbole-choir study FILE --out FOLDER [--workers N]``."""
    parser = argparse.ArgumentParser(prog="recbole-choir study", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads a run")
    parser.add_argument("--table", type=Path, help="also write the tables to this Markdown file")
    options = parser.parse_args(argv)
    out = run_study(options.file, options.out, options.workers, options.threads)
    text = markdown_tables(out, segments=Study.load(options.file).segments)
    print(text)
    if options.table:
        options.table.write_text(text)
    return 0
