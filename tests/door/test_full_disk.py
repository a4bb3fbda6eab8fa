"""A disk that fills up while a run is at work: one line, and what was computed is kept.

The faults are put in: one writer in each test finds no room left.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import Door, write_dataset

from recbole_choir import record
from recbole_choir.files import write_whole
from recbole_choir.integration import checkpoint
from recbole_choir.semantic.table import writer

NO_ROOM = "No space left on device"


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_below(folder: Path) -> Callable[[Path, str], None]:
    def write(path: Path, text: str) -> None:
        if folder in Path(path).parents:
            full()
        write_whole(path, text)

    return write


@pytest.fixture(autouse=True)
def _dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path)


def test_a_record_is_kept_elsewhere_and_shown(
    run_small: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "write_whole", full_below(tmp_path / "records"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = run_small()
    line = answer.line
    assert f"cannot be written: {NO_ROOM}; it is kept in {tmp_path}" in line
    kept = json.loads(Path(line.rpartition("it is kept in ")[2]).read_text())
    assert 0 <= kept["test"]["auc"] <= 1
    assert "Base on small, test rows" in answer.out, "the table of results is shown"
    assert "record: " not in answer.out


def test_predictions_that_do_not_fit_leave_the_record(
    run_small: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "savez_compressed", full)
    line = run_small(save_predictions=True).line
    assert f"cannot be written: {NO_ROOM}; the record is whole: " in line
    (path,) = (tmp_path / "records").glob("*.json")
    assert line.endswith(path.name)
    assert list((tmp_path / "records").iterdir()) == [path]


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    run_small: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = checkpoint.save, []

    def third(path: Path, **values: Any) -> Path:
        written.append(path)
        if len(written) == 3:  # the first epoch has left two: its own and the best
            with monkeypatch.context() as patch:
                patch.setattr("recbole_choir.files.os.replace", full)
                return real(path, **values)
        return real(path, **values)

    monkeypatch.setattr(checkpoint, "save", third)
    line = run_small(epochs=3).line
    assert f"cannot be written ([Errno 28] {NO_ROOM})" in line
    assert "an older file of that name is unchanged" in line
    (last,) = (tmp_path / "saved").glob("[!.]*-last.pth")
    assert checkpoint.load(last).epoch == 0
    assert list((tmp_path / "saved").glob(".*")) == []
    monkeypatch.setattr(checkpoint, "save", real)
    assert run_small(epochs=3, resume=last).code == 0


def test_a_table_that_does_not_fit_is_one_line(
    run_small: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer.pq, "write_table", full)
    tables = tmp_path / "semantic"
    line = run_small(
        model="ChoirRec", semantic_dir=tables, semantic__input="random", semantic__n_snapshots=1
    ).line
    assert f"the semantic table could not be written: {NO_ROOM}" in line
    assert [p.name for p in tables.iterdir() if p.name.startswith("small")] == []
