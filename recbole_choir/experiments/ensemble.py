"""The control every gain must beat: two runs of one model with different seeds, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recbole_choir import record as records
from recbole_choir.errors import DataError
from recbole_choir.evaluator import segment_metrics
from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.scored_rows import (
    load_predictions,
    same_rows,
    segment_rows,
    shared_segments,
)


def average_pair(first: Path, second: Path, name: str, target: Path) -> Path:
    """Average the predicted probabilities of two runs on the same rows and score the mean.

    Args:
        first, second: Records with their predictions next to them (``.npz``).
        name: Name of the resulting cell.
        target: Where to write the record of the mean; its predictions go next to it.

    Returns:
        ``target``: a record with ``test`` and ``segments`` as a run's record has them.

    Raises:
        DataError: The two runs were not scored on the same rows in the same order.
    """
    a, b = load_predictions([first, second])
    if differing := same_rows([a, b], ("users", "items", "labels")):
        raise DataError(f"average of {first.name} and {second.name}: different {differing}")
    names = shared_segments([a, b])
    base, other = read_record(first), read_record(second)
    scores = (a["scores"].astype(np.float64) + b["scores"]) / 2
    labels, users = a["labels"].astype(bool), a["users"]
    segments = {}
    for segment in names:
        rows = segment_rows(a, segment)
        segments[segment] = segment_metrics(
            users[rows], labels[rows], scores[rows], base["config"]["gauc_weighting"]
        )
    np.savez_compressed(
        target.with_suffix(".npz"),
        scores=scores.astype(np.float32),
        users=a["users"],
        items=a["items"],
        labels=a["labels"],
        segments=np.stack([segment_rows(a, segment) for segment in names], axis=1),
        segment_names=np.array(names),
    )
    content: dict[str, Any] = {
        "cell": name,
        "model": base["model"],
        "dataset": base["dataset"],
        "seed": base["seed"],
        "role": "average",
        "of": [first.name, second.name],
        "seeds": [base["seed"], other["seed"]],
        "test": {"auc": segments["all"]["auc"], "gauc": segments["all"]["gauc"]},
        "segments": segments,
    }
    return records.write_json(target, content)


def seed_pairs(members: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Neighbours in the circle of seeds; two seeds are one pair, not two."""
    pairs = [*pairwise(members)]
    if len(members) > 2:
        pairs.append((members[-1], members[0]))
    return pairs
