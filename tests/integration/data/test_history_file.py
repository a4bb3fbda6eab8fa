"""The key history_file: positives besides the rows, read from an atomic file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_choir.errors import DataError
from recbole_choir.integration.dataset import ChoirDataset, create_dataset

START = 1_600_000_000.0
HEAD = "user_id:token\titem_id:token\ttimestamp:float\n"


def built(config: Any) -> ChoirDataset:
    dataset = create_dataset(config)
    dataset.build()
    return dataset


def test_its_events_are_known_but_are_no_rows(toy: Path, make_config: Callable[..., Any]) -> None:
    plain = built(make_config())
    lines = [
        f"u1\ti3\t{START - 10}\n",
        f"u1\ti4\t{START - 20}\n",
        f"nobody\ti4\t{START}\n",
        f"u2\tnothing\t{START}\n",
        "u2\ti1\t\n",
        f"u2\ti5\t{START + 1e6}\n",
    ]
    (toy / "toy" / "toy.history").write_text(HEAD + "".join(lines))
    dataset = built(make_config(history_file="history"))
    assert dataset.split_sizes() == plain.split_sizes()
    user = dataset.field2token_id["user_id"]["u1"]
    rows = dataset.row_inputs
    first = int(np.flatnonzero(rows.events.user == user)[0])
    start, end = (int(rows.columns[n][first]) for n in ("hist_start", "hist_end"))
    ids = dataset.field2token_id["item_id"]
    assert rows.history.items[start:end].tolist() == [ids["i4"], ids["i3"]]
    known, before = dataset.semantic_frames()[0], plain.semantic_frames()[0]
    assert len(known) == len(before) + 2
    added = known[known["timestamp"] < START]
    assert added.to_numpy().tolist() == [["u1", "i4", START - 20, 1], ["u1", "i3", START - 10, 1]]


def test_a_missing_file_is_named(make_config: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"toy\.purchases: no such file"):
        built(make_config(history_file="purchases"))
