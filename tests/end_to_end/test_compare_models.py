"""``recbole-choir compare --fast`` for real: processes, training, a kill, the tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_choir.experiments.runner import Processes
from recbole_choir.experiments.runs import Run

ROOT = Path(__file__).resolve().parents[2]
RECORDS = 12  # three cells, two trials and two seeds each

pytestmark = pytest.mark.slow


def start(folder: Path) -> subprocess.Popen[str]:
    code = "from recbole_choir.cli import main; raise SystemExit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "compare", "--fast", "--workers=2", "--out=out"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_comparison_goes_on_and_ends_in_tables(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "out"
    killed = start(tmp_path)
    while not list(out.glob("*.json")) and killed.poll() is None:
        time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert 0 < len(before) < RECORDS

    process = start(tmp_path)
    text, _ = process.communicate()
    assert process.returncode == 0
    records = {path.name: json.loads(path.read_text()) for path in out.glob("*.json")}
    roles = [record["role"] for record in records.values()]
    assert {role: roles.count(role) for role in set(roles)} == {"tune": 6, "seed": 6, "average": 1}
    assert all("error" not in record for record in records.values())
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert before.items() <= kept.items(), "what was finished is not run again"

    for name in ("Base", "two Base seeds averaged", "ChoirRec", "ChoirRec, random groups"):
        assert f"| {name} | " in text
    assert "failed" not in text.split("### Search")[0]
    assert (out / "comparison.md").read_text() in text
    tests = json.loads((out / "summary" / "significance.json").read_text())
    assert len(tests) == 13 * 4  # segments; three rows against Base, ChoirRec against its control
    assert all(0 <= row["p_holm"] <= 1 for row in tests if row.get("p") is not None)
    points = [r["asked"]["learning_rate"] for r in records.values() if r["role"] == "tune"]
    assert len(set(points)) == 2, "the same first points for all"
    assert all(len(r["history"]) == 1 for r in records.values() if r["role"] == "seed")
    assert not list(out.glob("runs/*")), "neither weights nor half records are left"


def test_a_crash_and_a_mistake_are_failures_of_their_runs_alone(tmp_path: Path) -> None:
    processes = Processes(tmp_path, 1)
    mistake = processes(Run("x", "Base", "ml-100k", 1, {"epochs": 0}), 0)
    with pytest.raises(Exception, match="epochs"):
        mistake.result(timeout=300)
