"""Several processes: gathering, gradients, metrics, and a process that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes

import recbole_choir
from recbole_choir.errors import ConfigError
from recbole_choir.integration import distributed

PROGRAM = Path(__file__).parent / "two_processes.py"


def launch(cases, nproc, folder):
    root = str(Path(recbole_choir.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), ",".join(cases), str(nproc), str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "outcome.json").read_text())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The cases in two processes: one outcome a rank. Starting them is what takes time."""
    cases = (
        "evaluate",
        "rounded",
        "fit",
        "batch_norm",
        "mid_epoch",
        "bad_shares",
        "unequal_steps",
        "nan_on_one_rank",
    )
    return launch(cases, 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return launch(("evaluate", "gather", "few_rows"), 3, tmp_path_factory.mktemp("three"))


@pytest.mark.slow
def test_metrics_of_one_two_and_three_processes_are_identical(two, three, tmp_path):
    one = two_processes.evaluate(tmp_path)
    assert len(one["scores"]) == 61
    # every rank has the whole set, in its order
    assert [rank["evaluate"] for rank in two] == [one] * 2
    assert [rank["evaluate"] for rank in three] == [one] * 3


@pytest.mark.slow
def test_scores_of_two_processes_differ_by_rounding_only(two, tmp_path):
    one = two_processes.rounded(tmp_path)
    first, second = (rank["rounded"] for rank in two)
    assert first == second
    assert first["users"] == one["users"]
    np.testing.assert_allclose(first["scores"], one["scores"], rtol=5e-7)
    assert first["metrics"]["logloss"] == pytest.approx(one["metrics"]["logloss"], rel=1e-6)


@pytest.mark.slow
def test_a_process_without_rows_takes_part(three, tmp_path):
    assert [rank["few_rows"] for rank in three] == [two_processes.few_rows(tmp_path)] * 3


@pytest.mark.slow
def test_two_processes_train_as_one(two, tmp_path):
    one = two_processes.fit(tmp_path)
    first, second = (rank["fit"] for rank in two)
    for name, expected in one["weights"].items():
        np.testing.assert_allclose(first["weights"][name], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(first["loss"], one["loss"], rtol=1e-5)
    assert first == second  # weights, file, metrics and threads, bit for bit
    assert one["loss"][-1] < one["loss"][0]


@pytest.mark.slow
def test_ranks_share_running_statistics(two):
    first, second = (rank["batch_norm"] for rank in two)
    assert first == second
    assert first["live"] == first["saved"]


@pytest.mark.slow
def test_validations_in_mid_epoch_of_two_processes_change_no_weight(two):
    first, second = (rank["mid_epoch"] for rank in two)
    assert first == second, "the ranks share statistics meanwhile, and weights at the end"
    whole, parts = first
    assert whole["state"] == parts["state"]
    assert parts["validations"][1::2] == whole["validations"]


@pytest.mark.slow
def test_gathering(three):
    for number, rank in enumerate(three):
        result = rank["gather"]
        assert result["rows"] == [[0, 0], [1, 1], [1, 1], [2, 2], [2, 2], [2, 2]]
        assert result["none"] == []
        assert result["in_order"] == [[n, 10 * n] for n in range(10, 17)]
        assert result["sum"] == [4.5, 3.0]
        assert result["rank"] == number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("bad_shares", "sharded rows: expected 4 of 7 rows on rank 0, got 2"),
        ("unequal_steps", "expected the same number of steps in every process, got [2, 1]"),
        ("nan_on_one_rank", "in epoch 0, step 3 of 6"),
    ],
)
def test_all_ranks_refuse_alike(two, case, message):
    first, second = (rank[case]["refused"] for rank in two)
    assert message in first
    assert first == second


@pytest.mark.slow
def test_a_failing_process_is_one_line_in_the_parent(tmp_path):
    error = launch(["failing"], 2, tmp_path)["error"]
    assert error == (
        "process 1 of 2 failed: recbole_choir.errors.DataError: "
        "column 'age': expected a number, got 'old'"
    )


def test_one_process_gathers_nothing():
    rows = torch.arange(3)
    assert distributed.all_gather_rows(rows) is rows
    assert distributed.all_gather_in_order(rows) is rows
    assert distributed.all_gather_objects("x") == ["x"]
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


@pytest.mark.parametrize("nproc", [0, -1, 1.5, True])
def test_impossible_numbers_of_processes(nproc):
    with pytest.raises(ConfigError, match="nproc: expected a whole number from 1"):
        distributed.spawn(print, nproc)


def test_a_missing_environment_is_named(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="environment variable RANK"):
        distributed.init()
    with pytest.raises(ConfigError, match="expected a rank from 0 to 1, got 2"):
        distributed.init(2, 2)


@pytest.mark.slow
def test_an_abort_after_all_work_loses_nothing(tmp_path):
    outcome = launch(["aborted_late"], 2, tmp_path)
    assert [rank["aborted_late"] for rank in outcome] == [{"rank": 0}, {"rank": 1}]
