"""A folder of records, read and checked for a report, and where each of its numbers comes from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_choir.errors import ConfigError, DataError, nearest
from recbole_choir.experiments.record_store import read_records
from recbole_choir.settings.layers import parse_value

#: Roles of records that are no result: trials of a search, and runs of a point no longer chosen.
_NO_RESULT = ("tune", "superseded")
#: Rows of the main tables; the others are ablations and sweeps, which have one of their own.
_MAIN = ("model", "variant", "control")

#: What a user may give that moves no figure.
_SILENT = {"checkpoint_dir", "quiet", "record_dir", "save_predictions", "show_progress", "state"}

#: Keys of a metric table's rows, as :func:`recbole_choir.experiments.tables.comparison` reads them.
_COMMON = ("dataset", "cell", "role", "seed", "error")


@dataclass(frozen=True)
class Run:
    """A record with its place.

    Args:
        file: Name of its file in the folder.
        cell: Name of its row in the tables.
        record: What it says.
    """

    file: str
    cell: str
    record: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        """Whether it says that the run came to no result."""
        return "error" in self.record

    @property
    def kind(self) -> str:
        """What it is in a comparison: model, variant, control, ablation or sweep."""
        if self.record.get("role") == "average":
            return "control"
        return str((self.record.get("row") or {}).get("kind") or "model")


@dataclass(frozen=True)
class RecordFolder:
    """The records that a report is made from.

    Args:
        path: The folder.
        runs: In order of their cells, the base first, then of the files; runs that only chose
            hyper-parameters, or whose choice was superseded, are left out.
        n_left_out: How many of those there are.
        base: Name of the cell that gains are measured from; None if there is none.
    """

    path: Path
    runs: tuple[Run, ...]
    n_left_out: int
    base: str | None

    @classmethod
    def load(cls, path: Path, base: str | None = None) -> RecordFolder:
        """Read a folder of records, of a study or of runs started by hand.

        Args:
            path: The folder; its subfolders are not searched.
            base: Cell that gains are measured from. Default: the one called Base, else the first
                whose model is Base.

        Returns:
            The records. Runs started by hand have no cell: those that bear one name and were asked
            for different things become cells of their own, told apart by what was asked.

        Raises:
            DataError: There is no such folder, it holds no records or something else, the runs
                of a dataset were not scored on the same rows, or there is no such base.
        """
        found = read_records(path)
        if not found and not path.exists():
            raise DataError(f"records: expected a folder, found none at {path}")
        if not found:
            raise DataError(
                f"{path}: expected records of runs (*.json), found none; "
                f"recbole-choir study FILE --out {path.name} makes them"
            )
        read = [(name, _checked(path / name, content)) for name, content in found.items()]
        finished = [(name, r) for name, r in read if r.get("role") not in _NO_RESULT]
        if not finished:
            raise DataError(
                f"{path}: expected finished runs, got {len(read)} that only chose hyper-parameters"
            )
        names = _cells([r for _, r in finished])
        runs = [Run(file, cell, r) for (file, r), cell in zip(finished, names)]
        _check_rows(path, runs)
        chosen = _base(path, runs, base)
        runs.sort(key=lambda run: run.cell != chosen)
        order = {cell: i for i, cell in enumerate(dict.fromkeys(run.cell for run in runs))}
        runs.sort(key=lambda run: order[run.cell])
        return cls(path, tuple(runs), len(read) - len(finished), chosen)

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, sorted."""
        return sorted({str(run.record["dataset"]) for run in self.runs})

    def of(self, dataset: str) -> list[Run]:
        """The runs on a dataset, failed ones among them."""
        return [run for run in self.runs if run.record["dataset"] == dataset]

    def main(self) -> RecordFolder:
        """The same without ablations and sweeps."""
        return replace(self, runs=tuple(run for run in self.runs if run.kind in _MAIN))

    def kinds(self, dataset: str) -> dict[str, str]:
        """Cell -> model, variant, control, ablation or sweep."""
        return {run.cell: run.kind for run in self.of(dataset)}

    def cells(self, dataset: str) -> list[str]:
        """Names of the cells on a dataset, the base first."""
        return list(dict.fromkeys(run.cell for run in self.of(dataset)))

    def frame(self) -> pd.DataFrame:
        """A row per run and segment, in the form of ``tables.load_records``."""
        rows: list[dict[str, Any]] = []
        for run in self.runs:
            common = {k: run.record.get(k) for k in _COMMON} | {"cell": run.cell}
            for segment, values in run.record.get("segments", {"all": {}}).items():
                rows.append({**common, "segment": segment, **values})
        columns = [*_COMMON, "segment", "gauc", "auc", "rows", "users"]
        frame = pd.DataFrame(rows)
        # there even where every run has failed
        return frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns])))


def _checked(file: Path, content: Any) -> dict[str, Any]:
    keys = list(content)[:6] if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or not {"dataset", "model"} <= content.keys():
        raise DataError(
            f"{file}: expected the record of a run (with model, dataset, segments), got {keys}"
        )
    segments = content.get("segments")
    whole = "error" not in content and content.get("state") != "pruned"
    if whole and not (isinstance(segments, dict) and "all" in segments):
        raise DataError(f"{file}: expected segments with 'all' in the record of a run, got {keys}")
    return content


def _cells(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name of each record's cell; what one name was asked in several ways is told apart."""
    listed = list(found)
    variants: dict[tuple[Any, str], list[dict[str, Any]]] = {}
    for r in listed:
        if "cell" not in r:
            seen = variants.setdefault((r["dataset"], _name(r)), [])
            if _settings(r) not in seen:
                seen.append(_settings(r))
    names = []
    for r in listed:
        own = variants.get((r["dataset"], _name(r)), [])
        if "cell" in r or len(own) < 2:
            names.append(_name(r))
            continue
        mine = _settings(r)
        differing = [
            f"{key}={mine.get(key)}"
            for key in sorted({key for settings in own for key in settings})
            if any(settings.get(key) != own[0].get(key) for settings in own)
        ]
        names.append(", ".join([_name(r), *differing]))
    return names


def _name(record: Mapping[str, Any]) -> str:
    return str(record.get("cell") or record.get("name") or record["model"])


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    own = ("seed", "record_dir", "checkpoint_dir", "log_root")
    return {k: v for k, v in (record.get("config") or {}).items() if k not in own}


def _check_rows(path: Path, runs: Iterable[Run]) -> None:
    first: dict[str, tuple[str, tuple[Any, Any]]] = {}
    for run in runs:
        if run.failed:
            continue
        whole = run.record["segments"]["all"]
        key = (whole.get("rows"), whole.get("positive_share"))
        file, expected = first.setdefault(str(run.record["dataset"]), (run.file, key))
        if key != expected:
            raise DataError(
                f"{path}: expected runs on {run.record['dataset']} scored on the same test rows, "
                f"got {expected[0]} rows in {file} and {key[0]} in {run.file} "
                f"(shares of positives {expected[1]}, {key[1]})"
            )


def _base(path: Path, runs: Iterable[Run], wanted: str | None) -> str | None:
    cells = dict.fromkeys(run.cell for run in runs)
    if wanted is not None:
        if wanted not in cells:
            raise DataError(
                f"{path}: --base '{wanted}': no such cell, there are {', '.join(cells)}"
                f"{nearest(wanted, cells)}"
            )
        return wanted
    if "Base" in cells:
        return "Base"
    return next((run.cell for run in runs if run.record["model"] == "Base"), None)


def command(record: Mapping[str, Any]) -> str:
    """The command line that makes a record again.

    Args:
        record: A run's record.

    Returns:
        One line for a shell. The average of two runs has none of its own: the line says of which.
    """
    if record.get("of"):
        return f"mean of the scores of {' and '.join(record['of'])} (recbole-choir study)"
    words = ["recbole-choir", f"--model={record['model']}", f"--dataset={record['dataset']}"]
    words.append(f"--seed={record.get('seed')}")
    asked = record.get("asked") or {}
    for key, value in _flat(asked):
        if key not in _SILENT:
            words.append(f"--{key}={_text(value)}")
    return " ".join(shlex.quote(word) for word in words)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys with dots between them, as the command line reads them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value and all(_is_name(k) for k in value):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.replace("-", "_").isidentifier()


def _text(value: Any) -> str:
    """A value as the command line reads it: a text as it is where that is read as this text."""
    if isinstance(value, str):
        try:
            if parse_value(value, "value") == value:
                return value
        except ConfigError:
            pass  # a text that is no YAML is quoted, as JSON, which is
    return json.dumps(value, ensure_ascii=False)


def version_sets(runs: Iterable[Run]) -> list[dict[str, str]]:
    """The different sets of versions that runs were made with, in order of their files."""
    found: list[dict[str, str]] = []
    for run in runs:
        versions = run.record.get("versions")
        if versions and versions not in found:
            found.append(dict(versions))
    return found
