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

import recbole_choir
from recbole_choir.errors import ConfigError
from recbole_choir.integration import distributed

PROGRAM = Path(__file__).parent / "two_processes.py"


@pytest.fixture
def launch(tmp_path):
    def run(case, nproc):
        root = str(Path(recbole_choir.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, str(PROGRAM), case, str(nproc), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / f"{case}-{nproc}.json").read_text())

    return run


@pytest.mark.slow
def test_metrics_of_one_two_and_three_processes_are_identical(launch):
    one, two, three = launch("evaluate", 1), launch("evaluate", 2), launch("evaluate", 3)
    assert len(one[0]["scores"]) == 61
    assert two == [one[0]] * 2  # every rank has the whole set, in its order
    assert three == [one[0]] * 3


@pytest.mark.slow
def test_two_processes_train_as_one(launch):
    one, two = launch("fit", 1)[0], launch("fit", 2)
    for rank in two:
        for name, expected in one["weights"].items():
            np.testing.assert_allclose(rank["weights"][name], expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(rank["loss"], one["loss"], rtol=1e-5)
    assert two[0] == two[1]  # weights, file, metrics and threads, bit for bit
    assert one["loss"][-1] < one["loss"][0]


@pytest.mark.slow
def test_ranks_share_running_statistics(launch):
    first, second = launch("batch_norm", 2)
    assert first == second
    assert first["live"] == first["saved"]


@pytest.mark.slow
def test_gathering(launch):
    for rank, result in enumerate(launch("gather", 3)):
        assert result["rows"] == [[0, 0], [1, 1], [1, 1], [2, 2], [2, 2], [2, 2]]
        assert result["none"] == []
        assert result["in_order"] == [[n, 10 * n] for n in range(10, 17)]
        assert result["sum"] == [4.5, 3.0]
        assert result["rank"] == rank


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "failing",
            "process 1 of 2 failed: recbole_choir.errors.DataError: column 'age': expected",
        ),
        ("bad_shares", "sharded rows: expected 4 of 7 rows on rank 0, got 2"),
        ("unequal_steps", "expected the same number of steps in every process, got [2, 1]"),
    ],
)
def test_a_failing_process_is_one_line_in_the_parent(launch, case, message):
    error = launch(case, 2)["error"]
    assert message in error
    assert "\n" not in error


@pytest.mark.slow
def test_a_nan_on_one_rank_stops_all(launch):
    for result in launch("nan_on_one_rank", 2):
        assert "in epoch 0, step 3 of 6" in result["message"]


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
