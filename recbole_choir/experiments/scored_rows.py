"""What a run scored: the predictions of the test rows next to its record (``.npz``).

They are needed for tests and averages, and too large to keep with the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from recbole_choir.errors import DataError


def load_predictions(paths: Sequence[Path]) -> list[dict[str, np.ndarray]]:
    """The predictions of records: scores, labels, users, items, segments of the test rows."""
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
