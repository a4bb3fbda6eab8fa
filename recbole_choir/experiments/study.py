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

Settings come in layers, as those of a run: the common ones, those of the cell, a point of the grid.
Of ``semantic`` and ``eval_args`` a cell may give single entries. A study is a plan like that of
``recbole-choir compare``, with a grid in place of the search, and is run in the same way: every
finished run is a record on disk, named by the hash of what was asked; a second start runs what is
missing; a failed run is a record with its error and is shown in the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.evaluator import SEGMENT_NAMES
from recbole_choir.experiments.grid import points
from recbole_choir.experiments.plan import TUNE_SEED, Average, Cell, Plan
from recbole_choir.experiments.runner import Processes, run_missing, stop_at_once
from recbole_choir.experiments.search_spaces import Dimension, Space
from recbole_choir.experiments.summary import collect, write_chosen, write_significance
from recbole_choir.experiments.tables import SEGMENTS, markdown_tables
from recbole_choir.settings.layers import merged

STUDY_KEYS = {"name", "datasets", "seeds", "tune", "common", "cells", "averages", "segments"}
CELL_KEYS = {"name", "model", "config", "control"}

#: In how many of its segments, from the first on, the rows of a study are tested.
TESTED = 3


@dataclass(frozen=True)
class Study:
    """A study file, read and checked.

    Attributes:
        plan: What is run, and which rows are tested against each other.
        segments: Columns of the tables.
    """

    plan: Plan
    segments: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> Study:
        """Read and check a study file.

        Raises:
            ConfigError: An unknown or missing key, in one line.
        """
        content = yaml.safe_load(path.read_text()) or {}
        _check(path, content)
        names = [str(cell.get("name", cell["model"])) for cell in content["cells"]]
        tune = content.get("tune") or {}
        grid = {k: Dimension(choices=tuple(v)) for k, v in (tune.get("grid") or {}).items()}
        trials = len(points(grid))
        if trials < 2:  # nothing to choose
            grid, trials = {}, 0
        segments = tuple(content.get("segments") or SEGMENTS)
        plan = Plan(
            cells=tuple(
                _cell(dataset, name, cell, content.get("common") or {}, grid, names[0])
                for dataset in content["datasets"]
                for name, cell in zip(names, content["cells"])
            ),
            averages=tuple(
                Average(dataset, str(average["name"]), str(average["of"]), by_first=True)
                for dataset in content["datasets"]
                for average in content.get("averages") or ()
            ),
            seeds=tuple(int(seed) for seed in content["seeds"]),
            trials=trials,
            base=names[0],
            tune_seed=int(tune.get("seed", TUNE_SEED)),
            grid=True,
            segments=segments[:TESTED],
        )
        return cls(plan, segments)


def _check(path: Path, content: Mapping[str, Any]) -> None:
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
    for cell in content["cells"]:
        for key in cell:
            if key not in CELL_KEYS:
                raise ConfigError(f"{path}: unknown key '{key}'{nearest(key, CELL_KEYS)}")
        if "model" not in cell:
            raise ConfigError(f"{path}: cells: expected a model, got {sorted(cell)}")
    names = [str(cell.get("name", cell["model"])) for cell in content["cells"]]
    averages = content.get("averages") or ()
    rows = [*names, *(average["name"] for average in averages)]
    for row in rows:
        if rows.count(row) > 1:
            raise ConfigError(f"{path}: cells: expected names, all different, got '{row}' twice")
    for cell in content["cells"]:
        if cell.get("control", names[0]) not in names:
            raise ConfigError(
                f"{path}: control '{cell['control']}': no such cell"
                f"{nearest(cell['control'], names)}"
            )
    for average in averages:
        if average["of"] not in names:
            raise ConfigError(
                f"{path}: average of '{average['of']}': no such cell{nearest(average['of'], names)}"
            )


def _cell(
    dataset: str,
    name: str,
    content: Mapping[str, Any],
    common: Mapping[str, Any],
    grid: Space,
    first: str,
) -> Cell:
    """A cell, compared with the first one and with its own control."""
    against = [first] if name != first else []
    if "control" in content:
        against.append(str(content["control"]))
    return Cell(
        dataset,
        name,
        content["model"],
        merged(common, content.get("config") or {}),
        space=grid,
        against=tuple(dict.fromkeys(against)),
    )


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
    plan = Study.load(path).plan
    out.mkdir(parents=True, exist_ok=True)
    state = run_missing(plan, out, workers, Processes(out, threads))
    found = collect(plan, state, out)
    write_significance(plan, found, out)
    write_chosen(plan, state, out)
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
    try:
        out = run_study(options.file, options.out, options.workers, options.threads)
    except KeyboardInterrupt:
        stop_at_once()
    text = markdown_tables(out, segments=Study.load(options.file).segments)
    print(text)
    if options.table:
        options.table.write_text(text)
    return 0
