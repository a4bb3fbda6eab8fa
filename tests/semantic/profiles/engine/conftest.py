"""The fault server and small parts of a profile run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault_server import FaultServer

from recbole_choir.semantic.profiles.store import ProfileStore


@pytest.fixture
def server():
    with FaultServer() as running:
        yield running


@pytest.fixture
def store(tmp_path):
    with ProfileStore(tmp_path / "profiles.sqlite") as opened:
        yield opened
