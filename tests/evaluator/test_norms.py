"""Lengths of user vectors by activity in training."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_choir.errors import DataError
from recbole_choir.evaluator.norms import norms_by_activity


def test_fifths_of_the_users_seen_in_training() -> None:
    # ids 1 to 5 have 1 to 5 rows and vectors of their own length, id 6 was never trained
    vectors = np.array([[99, 0], [3, 4], [0, 2], [0, 3], [0, 4], [0, 6], [0, 0.5]])
    report = norms_by_activity(vectors, np.array([7, 1, 2, 3, 4, 5, 0]))
    assert {name: part["mean"] for name, part in report.items()} == {
        "new": 0.5,
        "level_1": 5.0,
        "level_2": 2.0,
        "level_3": 3.0,
        "level_4": 4.0,
        "level_5": 6.0,
    }, "the padding id belongs to nobody"
    assert report["level_5"]["rows_from"] == report["level_5"]["rows_to"] == 5


def test_quartiles_and_counts() -> None:
    norms = np.arange(26.0)  # id i has length i and i rows: fifths of five users
    report = norms_by_activity(norms[:, None], np.arange(26))
    assert report["level_1"] == {
        "users": 5,
        "rows_from": 1,
        "rows_to": 5,
        "mean": 3.0,
        "low": 2.0,
        "median": 3.0,
        "high": 4.0,
    }


def test_equal_counts_go_in_order_of_id_and_the_order_of_levels_does_not_matter() -> None:
    vectors = np.array([0.0, 1, 2, 3, 4, 5])[:, None]
    report = norms_by_activity(vectors, np.array([0, 2, 2, 2, 2, 2]))
    assert [report[f"level_{k}"]["mean"] for k in range(1, 6)] == [1, 2, 3, 4, 5]


def test_parts_without_users_are_left_out() -> None:
    assert list(norms_by_activity(np.ones((2, 3)), np.array([0, 1]))) == ["level_1"]


def test_bad_vectors_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected vectors \[n, d\] and rows \[n\]"):
        norms_by_activity(np.ones((3, 2)), np.ones(2))
    with pytest.raises(DataError, match="finite"):
        norms_by_activity(np.full((2, 1), np.nan), np.ones(2))
