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
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recbole_choir.arguments import CommandParser
from recbole_choir.errors import ConfigError, nearest
from recbole_choir.evaluator import SEGMENT_NAMES
from recbole_choir.experiments.grid import points
from recbole_choir.experiments.overrides import nested
from recbole_choir.experiments.plan import TUNE_SEED, Average, Cell, Plan
from recbole_choir.experiments.record_store import read_records
from recbole_choir.experiments.runner import Processes, check_count, run_missing
from recbole_choir.experiments.search_spaces import Dimension, Space
from recbole_choir.experiments.summary import collect, write_chosen, write_significance
from recbole_choir.experiments.tables import SEGMENTS, markdown_tables
from recbole_choir.files import the_only_one
from recbole_choir.processes import stop_at_once
from recbole_choir.settings.complete import check
from recbole_choir.settings.layers import merged, read_yaml

#: Points of a grid for each cell; more are no study.
MOST_TRIALS = 10_000
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
        content = _read(path)
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


class _CellFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    name: str | None = None
    config: dict[str, Any] | None = None
    control: str | None = None


class _AverageFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    of: str


class _TuneFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seed: int = TUNE_SEED
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = None


class _StudyFile(BaseModel):
    """A study file, key by key."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    datasets: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32, strict=True)]], Field(min_length=1)]
    cells: Annotated[list[_CellFile], Field(min_length=1)]
    tune: _TuneFile | None = None
    common: dict[str, Any] | None = None
    averages: list[_AverageFile] | None = None
    segments: list[str] | None = None


_PARTS: dict[str, type[BaseModel]] = {
    "cells": _CellFile,
    "averages": _AverageFile,
    "tune": _TuneFile,
}


def _read(path: Path) -> dict[str, Any]:
    """The content of a study file, checked: all that is wrong, in one line.

    Raises:
        ConfigError: See above.
    """
    content = read_yaml(path)
    try:
        _StudyFile.model_validate(content)
    except ValidationError as error:
        lines = [_fault(found) for found in error.errors()]
        raise ConfigError.of(f"{path}: {line}" for line in lines) from None
    problems = list(_contradictions(content))
    if problems:
        raise ConfigError.of(f"{path}: {line}" for line in problems)
    return content


def _fault(found: Any) -> str:
    """One of pydantic's errors in words."""
    *where, key = found["loc"]
    place = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {
            "cells": _CellFile,
            "averages": _AverageFile,
            "tune": _TuneFile,
        }
        known = models.get(str(where[0]) if where else "", _StudyFile).model_fields
        return f"unknown key '{key}'{nearest(str(key), known)}"
    if found["type"] == "missing" or (len(found["loc"]) == 1 and found["type"] == "too_short"):
        if key == "model":
            return f"{'.'.join(map(str, where))}: expected a model, got {sorted(found['input'])}"
        return f"key '{key}' is missing or empty"
    return f"{place}: {found['msg'][:1].lower()}{found['msg'][1:]}, got {found['input']!r}"


def _contradictions(content: Mapping[str, Any]) -> Iterator[str]:
    for segment in content.get("segments") or ():
        if segment not in SEGMENT_NAMES:
            yield (
                f"segments: expected any of {', '.join(SEGMENT_NAMES)}, got '{segment}'"
                f"{nearest(str(segment), SEGMENT_NAMES)}"
            )
    for key in ("datasets", "seeds"):
        values = content[key]
        for value in dict.fromkeys(v for v in values if values.count(v) > 1):
            yield f"{key}: expected values, all different, got {value!r} twice"
    settings = {"common": content.get("common")}
    settings |= {f"cells.{i}": cell.get("config") for i, cell in enumerate(content["cells"])}
    for where, given in settings.items():
        for key in ("model", "dataset", "seed"):
            if key in (given or ()):
                yield f"{where}: '{key}' is not set by settings, the study says it for every run"
    grid = (content.get("tune") or {}).get("grid") or {}
    trials = math.prod(len(values) for values in grid.values())
    if trials > MOST_TRIALS:
        yield f"tune.grid: expected at most {MOST_TRIALS:,} points, got {trials:,}"
    names = [str(cell.get("name", cell["model"])) for cell in content["cells"]]
    averages = content.get("averages") or ()
    rows = [*names, *(average["name"] for average in averages)]
    for row in dict.fromkeys(row for row in rows if rows.count(row) > 1):
        yield f"cells: expected names, all different, got '{row}' twice"
    for cell in content["cells"]:
        control = cell.get("control", names[0])
        if control not in names:
            yield f"control '{control}': no such cell{nearest(control, names)}"
    for average in averages:
        if average["of"] not in names:
            yield f"average of '{average['of']}': no such cell{nearest(average['of'], names)}"


def check_cells(plan: Plan) -> None:
    """Check the configuration of every cell at every point of its grid, before anything is run.

    Raises:
        ConfigError: All that is wrong, in one line.
    """
    problems: list[str] = []
    for cell in plan.cells:
        for point in points(cell.space) or [{}]:
            try:
                check(cell.model, cell.dataset, config_dict=merged(cell.config, nested(point)))
            except ConfigError as error:
                problems += [f"cell '{cell.name}': {line}" for line in error.problems]
    if problems:
        raise ConfigError.of(problems)


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
    check_cells(plan)
    out.mkdir(parents=True, exist_ok=True)
    lock = the_only_one(out / ".lock", f"--out {out}: another study is at work there")
    state = run_missing(plan, out, workers, Processes(out, threads))
    found = collect(plan, state, out)
    write_significance(plan, found, out)
    write_chosen(plan, state, out)
    lock.release()
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """``recbole-choir study FILE --out FOLDER [--workers N]``.

    Returns:
        0 when every run is finished, 1 when some failed, 130 when stopped.
    """
    parser = CommandParser(prog="recbole-choir study", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads a run")
    parser.add_argument("--dry-run", action="store_true", help="check every cell, run nothing")
    parser.add_argument("--table", type=Path, help="also write the tables to this Markdown file")
    options = parser.parse_args(argv)
    for name in ("workers", "threads"):
        check_count(name, getattr(options, name))
    if options.dry_run:
        plan = Study.load(options.file).plan
        check_cells(plan)
        runs, done = sum(map(plan.runs_of, plan.cells)), len(read_records(options.out))
        print(f"{len(plan.cells)} cells, at most {runs} runs; {done} records in {options.out}")
        return 0
    try:
        out = run_study(options.file, options.out, options.workers, options.threads)
    except KeyboardInterrupt:
        stop_at_once()
    text = markdown_tables(out, segments=Study.load(options.file).segments)
    print(text)
    if options.table:
        options.table.write_text(text)
    failed = sum("error" in record for record in read_records(out))
    if failed:
        print(f"{failed} runs failed: the same command tries them again", file=sys.stderr)
    return int(failed > 0)
