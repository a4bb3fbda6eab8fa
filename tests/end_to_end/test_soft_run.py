"""Variant soft and its controls, from files to a record; a saved model scores the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.errors import ConfigError
from recbole_choir.integration import ChoirConfig, create_dataset, create_model, data_preparation
from recbole_choir.integration.warm_start import train_id_vectors
from recbole_choir.quick_start import run
from recbole_choir.table_source import ensure_semantic_table

SMALL: dict[str, Any] = {
    "semantic_recipe": "soft",
    "semantic": {"n_snapshots": 2, "soft": {"own_vectors": True, "min_purchases": 10}},
    "val_interval": {"timestamp": "(-inf,877500000)"},
    "epochs": 1,
    "show_progress": False,
    "state": "WARNING",
    "quiet": True,
    "gpu_id": "",
}


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    semantic = {**SMALL["semantic"], **more.pop("semantic", {})}
    semantic["soft"] = {**SMALL["semantic"]["soft"], **semantic["soft"]}
    return {
        **SMALL,
        "semantic": semantic,
        "semantic_dir": str(folder / "semantic"),
        "record_dir": str(folder / "records"),
        "checkpoint_dir": str(folder / "saved"),
        **more,
    }


def test_a_recipe_without_soft_groups_is_refused_before_it_is_built(tmp_path: Path) -> None:
    without = {"variant": "soft", "semantic_recipe": "embedded", "semantic": {}}
    config = ChoirConfig(
        model="ChoirRec", dataset="ml-100k", config_dict={**settings(tmp_path), **without}
    )
    data = create_dataset(config)
    data.build_splits()
    with pytest.raises(ConfigError, match=r"semantic_recipe: .*soft.*got 'embedded'"):
        ensure_semantic_table(config, data, train_id_vectors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("ChoirRec", {"variant": "soft"}),
        ("ChoirRec", {"variant": "soft", "semantic": {"soft": {"kind": "prototypes"}}}),
        ("ChoirRec", {"variant": "soft", "semantic": {"soft": {"control": "permuted"}}}),
        ("ChoirRec", {"variant": "soft", "semantic": {"soft": {"control": "random"}}}),
        ("ChoirRec", {"variant": "soft", "use_dual_channel": False}),
        ("ChoirRec", {"variant": "soft", "use_own_scores": True}),
        ("Base", {"use_lifts": True, "tower_width_multiplier": 2.0}),
        ("Base", {"use_own_scores": True}),
    ],
    ids=["neighbours", "prototypes", "permuted", "random", "one-tower", "joined", "wide", "own"],
)
def test_a_run_leaves_a_record(model: str, more: dict[str, Any], tmp_path: Path) -> None:
    result = run(model, "ml-100k", config_dict=settings(tmp_path, **more))
    record = result["record"]
    assert record["segments"]["all"]["gauc"] > 0.5
    assert record["table"]["fingerprint"]
    if model == "ChoirRec" and more.get("use_dual_channel", True):
        assert "mean_alpha_fusion_level_1" in str(record["history"][-1])


@pytest.mark.slow
def test_a_saved_model_scores_the_same(tmp_path: Path) -> None:
    config = ChoirConfig(
        model="ChoirRec", dataset="ml-100k", config_dict=settings(tmp_path, variant="soft")
    )
    scores = []
    state: dict[str, torch.Tensor] = {}
    for _ in range(2):
        data = create_dataset(config)
        data.build_splits()
        data.attach_semantic_table(ensure_semantic_table(config, data, train_id_vectors))
        _, _, test = data_preparation(config, data)
        torch.manual_seed(len(scores))
        model = create_model(config, data).eval()
        if state:
            model.load_state_dict(state)
        state = {n: v.clone() for n, v in model.state_dict().items()}
        scores.append(model.predict(next(iter(test))[0]).detach().numpy())
    np.testing.assert_array_equal(scores[0], scores[1])
