"""The door as a user meets it: the command line in this process, on small files of bad input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_dataset import COLUMNS, Answer, Door, ask


@pytest.fixture
def door(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Door]:
    """``door(*argv)``: the command line in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    logger = logging.getLogger()
    before = logger.handlers[:]
    yield lambda *argv: ask(argv, capsys)
    logger.handlers[:] = before


@pytest.fixture
def run_small(door: Door, tmp_path: Path) -> Door:
    """``run_small(key=value, ..)``: Base on the dataset ``small``; None takes a key away."""

    def run(**keys: object) -> Answer:
        values = {**COLUMNS, "model": "Base", "dataset": "small", "data_path": tmp_path / "data"}
        values |= {key.replace("__", "."): value for key, value in keys.items()}
        values |= {"record_dir": tmp_path / "records", "checkpoint_dir": tmp_path / "saved"}
        values |= {key: keys[key] for key in ("record_dir", "checkpoint_dir") if key in keys}
        return door(*(f"--{k}={v}" for k, v in values.items() if v is not None))

    return run
