"""Log, seed and model of a run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from recbole.data.dataset import Dataset

from recbole_choir import integration
from recbole_choir.integration import ChoirConfig, create_model, init_logging, init_seed


def test_same_seed_same_model(tiny_values: dict) -> None:
    config = ChoirConfig("FM", "tiny", config_dict={**tiny_values, "use_gpu": False})
    data = Dataset(config)
    data._change_feat_format()
    weights = []
    for seed in (1, 1, 2):
        init_seed(seed, True)
        model = create_model(config, data)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_logging_level_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init_logging({"state": "error"})
    assert logging.getLogger("recbole_choir").level == logging.ERROR
    init_logging({"state": "INFO"})
    assert logging.getLogger("recbole_choir").level == logging.INFO
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ChoirConfig", "parse_cli", "known_models", "get_trainer"])
def test_exports_resolve(name: str) -> None:
    assert callable(getattr(integration, name))


def test_an_unknown_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        integration.nothing  # noqa: B018
