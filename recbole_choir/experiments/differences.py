"""Differences between the cells of a study, with their bootstrap intervals, kept as a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_choir import record as records
from recbole_choir.errors import DataError
from recbole_choir.experiments.record_store import read_records
from recbole_choir.experiments.significance import paired_bootstrap

FILE = Path("summary") / "differences.json"
SEGMENTS = ("all", "low", "level_1")


def write_differences(
    folder: Path, pairs: Iterable[tuple[str, str]], segments: Sequence[str] = SEGMENTS
) -> Path:
    """Compare pairs of cells on every dataset and write the result beside the records.

    The predictions (``.npz`` beside each record) are needed here and are too large to keep; the
    differences are what is kept of them.

    Args:
        folder: Folder of a study's records.
        pairs: Names of cells: GAUC of the first minus that of the second.
        segments: Segments to compare in.

    Returns:
        The file: a list of dataset, cell, against, segment, mean, low, high, n_users.

    Raises:
        DataError: A cell of a pair has no predictions, or these lack a segment.
    """
    cells: dict[tuple[str, str], list[Path]] = {}
    for name, record in read_records(folder).items():
        path = folder / name
        if record.get("role") in ("seed", "average") and path.with_suffix(".npz").exists():
            cells.setdefault((record["dataset"], record["cell"]), []).append(path)
    rows: list[dict[str, Any]] = []
    for dataset in sorted({d for d, _ in cells}):
        for cell, against in pairs:
            for name in (cell, against):
                if (dataset, name) not in cells:
                    raise DataError(f"{folder}: no predictions of '{name}' on {dataset}")
            first, second = (load_predictions(cells[dataset, n]) for n in (cell, against))
            for segment in segments:
                rows.append(
                    {
                        "dataset": dataset,
                        "cell": cell,
                        "against": against,
                        "segment": segment,
                        **_compare(first, second, segment),
                    }
                )
    return records.write_json(folder / FILE, rows)


def load_predictions(paths: Sequence[Path]) -> list[dict[str, np.ndarray]]:
    """The predictions beside records: scores, labels, users, items, segments of the test rows."""
    loaded = []
    for path in paths:
        with np.load(path.with_suffix(".npz")) as file:
            loaded.append({name: file[name] for name in file.files})
    return loaded


def segment_rows(run: Mapping[str, np.ndarray], segment: str) -> np.ndarray:
    """Which rows of a run's predictions belong to a segment, bool ``[N]``.

    Raises:
        DataError: The predictions do not know the segment.
    """
    names = run["segment_names"].tolist()
    if segment not in names:
        raise DataError(
            f"predictions: expected the segment '{segment}', got {', '.join(names)}; runs of an "
            "earlier version have no as-of segments (run them again)"
        )
    return run["segments"][:, names.index(segment)]


def shared_segments(runs: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """Segments that the predictions of all runs know, in the order of the first.

    Runs of an earlier version know fewer.
    """
    known = [set(run["segment_names"].tolist()) for run in runs]
    return [n for n in runs[0]["segment_names"].tolist() if all(n in names for names in known)]


def same_rows(runs: Sequence[Mapping[str, np.ndarray]], keys: Iterable[str]) -> str | None:
    """What of the scored rows differs between runs: a key, ``segments``, or None if nothing does.

    Args:
        runs: Predictions as from :func:`load_predictions`.
        keys: Of ``users``, ``items``, ``labels``: what must be equal; shared segments must be, too.
    """
    first, *others = runs
    for key in keys:
        if not all(np.array_equal(run[key], first[key]) for run in others):
            return key
    for name in shared_segments(runs):
        rows = segment_rows(first, name)
        if not all(np.array_equal(segment_rows(run, name), rows) for run in others):
            return "segments"
    return None


def _compare(
    first: Sequence[dict[str, np.ndarray]], second: Sequence[dict[str, np.ndarray]], segment: str
) -> dict[str, Any]:
    for other in (*first, *second):
        if not np.array_equal(other["labels"], second[0]["labels"]):
            raise DataError("differences: the cells were not scored on the same rows")
    rows = segment_rows(second[0], segment)
    users, labels = second[0]["users"][rows], second[0]["labels"][rows]
    ours = [run["scores"][rows] for run in first]
    theirs = [run["scores"][rows] for run in second]
    return dataclasses.asdict(paired_bootstrap(users, labels, ours, theirs))
