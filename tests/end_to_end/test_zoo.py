"""Every context-aware model of RecBole and both tree models: one epoch on ml-100k, same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_choir.quick_start import run

ZOO = [
    "LR",
    "FM",
    "FFM",
    "FNN",
    "NFM",
    "AFM",
    "FwFM",
    "PNN",
    "WideDeep",
    "DeepFM",
    "xDeepFM",
    "DCN",
    "DCNV2",
    "AutoInt",
    "DSSM",
    "FiGNN",
    "EulerNet",
    "KD_DAGFM",
    "LightGBM",
    "XGBoost",
]


@pytest.mark.slow
@pytest.mark.parametrize("model", ZOO)
def test_one_epoch(model: str, tmp_path: Path) -> None:
    result = run(
        model,
        "ml-100k",
        config_dict={
            "epochs": 1,
            "train_batch_size": 512,
            "show_progress": False,
            "quiet": True,
            "checkpoint_dir": str(tmp_path / "saved"),
            "record_dir": str(tmp_path / "records"),
        },
    )
    record = result["record"]
    assert sum(record["rows"].values()) == 100_000
    assert set(result["test_result"]) == {"auc", "gauc", "logloss"}
    # One epoch is enough to rank better than chance, and the probabilities are calibrated enough
    # not to be worse than always answering one half.
    assert 0.52 < result["test_result"]["auc"] < 0.85
    assert result["test_result"]["logloss"] < 0.75
