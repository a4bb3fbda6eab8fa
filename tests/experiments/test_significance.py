"""Paired bootstrap and the two-seed control, on cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_choir.errors import DataError
from recbole_choir.evaluator import gauc
from recbole_choir.experiments.ensemble import average_pair
from recbole_choir.experiments.plan import Cell, Plan
from recbole_choir.experiments.significance import Difference, UserAUC, bootstrap
from recbole_choir.experiments.summary import write_significance
from recbole_choir.experiments.tables import differences


def paired_bootstrap(users: Any, labels: Any, first: list[Any], second: list[Any]) -> Difference:
    """Two models on the same rows, each with the scores of its seeds."""
    known = UserAUC.of(users, labels)
    return bootstrap((known.mean(first) - known.mean(second))[:, None], known.weight)[0]


def test_difference_is_the_difference_of_gauc() -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 40, 2000)
    labels = rng.integers(0, 2, 2000)
    good, bad = labels + rng.normal(size=2000), rng.normal(size=2000)
    d = paired_bootstrap(users, labels, [good], [bad])
    assert d.mean == pytest.approx(gauc(labels, good, users) - gauc(labels, bad, users))
    assert d.low < d.mean < d.high
    assert d.low > 0, "a strong signal must be told from noise"


def test_a_model_against_itself_is_exactly_zero() -> None:
    users, labels = np.repeat(np.arange(6), 2), [0, 1] * 6
    scores = np.random.default_rng(0).random(12)
    d = paired_bootstrap(users, labels, [scores], [scores])
    assert (d.mean, d.low, d.high, d.n_users) == (0.0, 0.0, 0.0, 6)


def test_seeds_are_averaged_per_user() -> None:
    # User 0 is right in one seed and wrong in the other: AUC 1/2; the second model is always right.
    users, labels = [0, 0], [0, 1]
    d = paired_bootstrap(users, labels, [[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]])
    assert d.mean == -0.5


def test_only_one_class_users_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 2 users"):
        paired_bootstrap([0, 1], [1, 0], [[0.1, 0.2]], [[0.1, 0.2]])


def _record(folder: Path, name: str, seed: int, scores: list[float], users: list[int]) -> Path:
    path = folder / f"{name}.json"
    row = {"auc": 0.0, "gauc": 0.0, "rows": 4, "users": 2}
    path.write_text(
        json.dumps(
            {
                "model": "Base",
                "dataset": "d",
                "seed": seed,
                "config": {"gauc_weighting": "impressions"},
                # Not in the order of the columns: a record's keys are sorted when written.
                "segments": {
                    "new": {**row, "rows": 0},
                    "low": {**row, "rows": 2},
                    "all": row,
                },
            }
        )
    )
    segments = np.array([[True, True, False]] * 2 + [[True, False, False]] * 2)
    np.savez(
        path.with_suffix(".npz"),
        scores=np.float32(scores),
        labels=np.int8([0, 1, 1, 0]),
        users=np.array(users),
        items=np.arange(4),
        segments=segments,
        segment_names=np.array(["all", "low", "new"]),
    )
    return path


def _test_pair(folder: Path, pair: tuple[str, str], segments: tuple[str, ...]) -> list[dict]:
    """Test one row against another, of which ``_record`` has left what it has run."""
    cell, against = pair
    cells = (Cell("d", against, "M", {}), Cell("d", cell, "M", {}, against=(against,)))
    plan = Plan(cells, (), (1,), 0, against, segments=segments)
    paths = {name: folder / f"{name}.json" for name in pair}
    found = {("d", name): [path] if path.exists() else [] for name, path in paths.items()}
    return write_significance(plan, found, folder)


def test_average_of_two_seeds_by_hand(tmp_path: Path) -> None:
    # Means .3 .4 | .5 .6: user 0 is right (1), user 1 wrong (0); GAUC 1/2. Over all rows the
    # positives .4 and .5 beat .3 but not .6: AUC 2/4.
    a = _record(tmp_path, "a", 1, [0.2, 0.4, 0.4, 0.6], [0, 0, 1, 1])
    b = _record(tmp_path, "b", 2, [0.4, 0.4, 0.6, 0.6], [0, 0, 1, 1])
    content = json.loads(average_pair(a, b, "two seeds", tmp_path / "mean.json").read_text())
    scores = np.load(tmp_path / "mean.npz")["scores"]
    np.testing.assert_allclose(scores, [0.3, 0.4, 0.5, 0.6], rtol=1e-6)
    assert content["segments"]["all"]["gauc"] == 0.5
    assert content["segments"]["all"]["auc"] == 0.5
    assert content["segments"]["low"]["gauc"] == 1.0
    assert content["segments"]["new"]["rows"] == 0
    # Also what the tables do not show is that of the mean, not of one of its members.
    assert content["segments"]["all"]["gauc_uniform"] == 0.5
    assert content["segments"]["all"]["rows"] == 4
    assert content["seeds"] == [1, 2]


def test_average_refuses_other_rows(tmp_path: Path) -> None:
    a = _record(tmp_path, "a", 1, [0.2, 0.4, 0.4, 0.6], [0, 0, 1, 1])
    b = _record(tmp_path, "b", 2, [0.4, 0.4, 0.6, 0.6], [0, 0, 1, 2])
    with pytest.raises(DataError, match="different users"):
        average_pair(a, b, "two seeds", tmp_path / "mean.json")


def test_runs_of_an_earlier_version_know_fewer_segments(tmp_path: Path) -> None:
    a = _record(tmp_path, "a", 1, [0.2, 0.4, 0.4, 0.6], [0, 0, 1, 1])
    b = _record(tmp_path, "b", 2, [0.4, 0.4, 0.6, 0.6], [0, 0, 1, 1])
    with np.load(b.with_suffix(".npz")) as file:
        newer = {name: file[name] for name in file.files}
    newer["segments"] = np.insert(newer["segments"], 1, [True, False] * 2, axis=1)
    newer["segment_names"] = np.array(["all", "asof_1", "low", "new"])
    np.savez(b.with_suffix(".npz"), **newer)
    for first, second in ((a, b), (b, a)):
        path = average_pair(first, second, "two seeds", tmp_path / "mean.json")
        segments = json.loads(path.read_text())["segments"]
        assert set(segments) == {"all", "low", "new"}
        assert segments["low"]["gauc"] == 1.0
        assert np.load(tmp_path / "mean.npz")["segment_names"].tolist() == ["all", "low", "new"]
    newer["segments"][0, 2] = False  # low
    np.savez(b.with_suffix(".npz"), **newer)
    with pytest.raises(DataError, match="different segments"):
        average_pair(a, b, "two seeds", tmp_path / "mean.json")
    newer["segments"][0, 2] = True
    np.savez(b.with_suffix(".npz"), **newer)
    for path, cell in ((a, "A"), (b, "B")):
        content = {**json.loads(path.read_text()), "cell": cell, "role": "seed"}
        path.write_text(json.dumps(content))
    (tmp_path / "mean.json").unlink()
    with pytest.raises(DataError, match="expected the segment 'asof_1', got all, low, new"):
        _test_pair(tmp_path, ("b", "a"), ("asof_1",))


def test_differences_are_kept_for_the_tables(tmp_path: Path) -> None:
    for cell, scores in (("Base", [0.2, 0.4, 0.4, 0.6]), ("Other", [0.2, 0.4, 0.6, 0.4])):
        path = _record(tmp_path, cell, 1, scores, [0, 0, 1, 1])
        path.write_text(json.dumps({**json.loads(path.read_text()), "cell": cell, "role": "seed"}))
    _test_pair(tmp_path, ("Other", "Base"), ("all", "low"))
    table = differences(tmp_path, "d")
    # Base is wrong for user 1, the other is not: half of the rows gain a whole AUC.
    assert table.loc["Other − Base", "all"] == "+0.5000", "no interval over two users"
    assert table.loc["Other − Base", "low"] == "+0.0000"
    assert _test_pair(tmp_path, ("Third", "Base"), ("all",))[0]["error"] == (
        "no finished run of 'Third'"
    )
