"""A run that starts from trained weights: of a checkpoint, of a model, of a changed model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_choir.errors import CheckpointError, ConfigError
from recbole_choir.integration import checkpoint
from recbole_choir.integration.warm_start import WarmStart
from recbole_choir.quick_start import run

SLICE = {"val_interval": {"timestamp": "(-inf,875500000)"}}


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        **SLICE,
        "epochs": 1,
        "seed": 7,
        "show_progress": False,
        "quiet": True,
        "checkpoint_dir": str(folder / "saved"),
        "record_dir": str(folder / "records"),
        **more,
    }


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def still(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of a run whose training changes next to nothing."""
    return settings(folder, learning_rate=1e-30, lr_final=1e-30, **more)


def test_a_model_by_name_is_trained_first(tmp_path: Path) -> None:
    training = {"learning_rate": 0.002, "lr_final": 0.0001, "epochs": 2}
    base = run("Base", "ml-100k", config_dict=settings(tmp_path / "base", **training))
    warm = {"model": "Base", **training}
    poso = run("POSO", "ml-100k", config_dict=still(tmp_path / "poso", warm_start=warm))
    # POSO's gates stand at 1: what it took from Base it predicts with, bit for bit.
    assert poso["test_result"] == base["test_result"]
    entry = poso["record"]["warm_start"]
    assert entry["source"] == "Base"
    assert entry["epochs"] == 2
    assert 0 < entry["tensors"] < entry["of"]
    assert base["record"]["warm_start"] is None


def test_a_checkpoint_and_its_weights(tmp_path: Path) -> None:
    base = run("Base", "ml-100k", config_dict=settings(tmp_path))
    (last,) = (tmp_path / "saved").glob("*-last.pth")
    again = run("POSO", "ml-100k", config_dict=still(tmp_path / "again", warm_start=str(last)))
    assert again["test_result"] == base["test_result"]
    assert again["record"]["warm_start"]["source"] == last.name
    cold = run("POSO", "ml-100k", config_dict=still(tmp_path / "cold"))
    assert cold["test_result"] != base["test_result"]


def test_a_resumed_run_does_not_start_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, epochs=2, warm_start="Base")
    run("POSO", "ml-100k", config_dict=config)
    (last,) = (tmp_path / "saved").glob("POSO*-last.pth")
    with caplog.at_level(logging.INFO, logger="recbole_choir"):
        resumed = run("POSO", "ml-100k", config_dict={**config, "resume": str(last)})
    assert "warm_start: not done again" in caplog.text
    assert resumed["record"]["warm_start"] is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Bse", r"warm_start: expected a model.*got 'Bse'.*Base"),
        ({"epochs": 3}, r"warm_start: expected a model, a mapping with model"),
        ({"model": "Base", "epoch": 3}, r"epoch: no such configuration key.*epochs"),
        (3, r"warm_start: expected a text or a mapping or null"),
        ("DeepFM", r"expected a model with the batches of POSO, got DeepFM"),
        ("BaseMM", r"BaseMM: expects a semantic table with items"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("POSO", "ml-100k", config_dict=settings(tmp_path, warm_start=value))


def test_weights_that_do_not_fit_are_refused() -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ConfigError, match="expected weights of Linear, got none that fit from X"):
        WarmStart("X", {"weight": torch.zeros(2, 4), "other": torch.zeros(2)}).load_into(model)
    taken = WarmStart("X", {"weight": torch.ones(2, 3)}).load_into(model)
    assert torch.equal(model.weight, torch.ones(2, 3))
    assert taken == {"source": "X", "epochs": 0, "tensors": 1, "of": 2}
    with pytest.raises(CheckpointError, match="was trained with semantic table abc"):
        WarmStart("X", {"weight": torch.ones(2, 3)}, table="abc").load_into(model)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        run("POSO", "ml-100k", config_dict=settings(tmp_path, warm_start=str(path)))
