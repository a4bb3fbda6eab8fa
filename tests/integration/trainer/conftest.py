"""A configuration, a loader and a model that are small enough to compute by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import TinyConfig, TinyLoader, TinyModel, tiny_rows


@pytest.fixture
def make_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whatever is written to the working directory can be seen

    def make(**values):
        return TinyConfig(checkpoint_dir=str(tmp_path / "saved"), **values)

    return make


@pytest.fixture
def train():
    return TinyLoader(tiny_rows(90, seed=0), batch_size=16, shuffle=True)


@pytest.fixture
def valid():
    return TinyLoader(tiny_rows(60, seed=1), batch_size=16)


@pytest.fixture
def make_model():
    def make(seed=0, **kwargs):
        torch.manual_seed(seed)
        return TinyModel(**kwargs)

    return make
