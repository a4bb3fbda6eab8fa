"""A training step reads nothing back from its device and leaves nothing on the host.

Torch's ``meta`` device has shapes and no data: whatever needs a value on the host (``item``, a
boolean of a tensor, an index of unknown length) or mixes two devices fails on it. It stands in for
a GPU where there is none; of speed and of numbers it says nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_choir.integration import ChoirConfig, create_dataset, create_model, data_preparation
from recbole_choir.integration.warm_start import train_id_vectors
from recbole_choir.table_source import ensure_semantic_table

EVERYTHING = {"use_group_stats": True, "group_stats": True}
WITH_ITEMS = {
    "input": "behaviour",
    "quantizer": "rqkmeans",
    "n_snapshots": 2,
    "items": {"input": "random", "quantizer": "rqkmeans"},
}
WITH_SOFT = {
    "input": "random",
    "n_snapshots": 2,
    "soft": {"min_purchases": 5, "own_vectors": True, "svd_dim": 8},
}


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("Base", EVERYTHING),
        ("ChoirRec", {"variant": "paper", "attr_impute": True, "aux_bce": 0.1, **EVERYTHING}),
        ("ChoirRec", {"variant": "released", "kd_loss": "kl", "kd_alpha_mode": "selfnorm"}),
        ("ChoirRec", {"variant": "stats", "group_stats": True}),
        ("ChoirRec", {"variant": "soft", "semantic": WITH_SOFT}),
        ("Base", {"use_lifts": True, "use_own_scores": True, "semantic": WITH_SOFT}),
        ("AKTRec", {"semantic": WITH_ITEMS}),
        ("AKTRec", {"variant": "plus", "semantic": WITH_ITEMS, "group_stats": True}),
        ("BaseMM", {"semantic": WITH_ITEMS}),
        ("DeepFM", {"inject": ["group_id", "group_attr", "group_seq", "group_stats", "activity"]}),
    ],
    ids=[
        "Base",
        "paper",
        "released",
        "stats",
        "soft",
        "base-lifts",
        "akt",
        "akt-plus",
        "base-mm",
        "DeepFM",
    ],
)
def test_a_step_needs_no_value_on_the_host(
    model: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ChoirConfig(
        model=model,
        dataset="ml-100k",
        config_dict={
            "semantic": {"input": "random", "n_snapshots": 2},
            **settings,
            "val_interval": {"timestamp": "(-inf,876000000)"},
            "semantic_dir": str(tmp_path),
            "show_progress": False,
        },
    )
    data = create_dataset(config)
    data.build_splits()
    table = ensure_semantic_table(config, data, train_id_vectors)
    if table is not None:
        data.attach_semantic_table(table)
    config["device"] = torch.device("meta")
    network = create_model(config, data)
    # The meta device knows no autocast; it is switched off where this is entered anyway.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    train, _, test = data_preparation(config, data)
    optimizer = torch.optim.Adagrad(network.parameters(), initial_accumulator_value=0.1)

    batch = next(iter(train))
    assert {v.device.type for v in batch.interaction.values()} == {"meta"}
    loss = network.train().calculate_loss(batch)
    loss.backward()
    optimizer.step()
    assert loss.device.type == "meta"
    assert loss.shape == ()
    rows = next(iter(test))[0]
    assert network.eval().predict(rows).shape == (len(rows),)
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()  # what a synchronisation in a step would have met
