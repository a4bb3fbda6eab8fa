"""AKTRec and BaseMM from files to a record, on a slice of ml-100k, with everything real."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_choir.quick_start import run

CODES = {"quantizer": "rqkmeans", "n_levels": 2, "n_clusters": 4}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "val_interval": {"timestamp": "(-inf,876000000)"},
        "epochs": 2,
        "seed": 7,
        "show_progress": False,
        "quiet": True,
        "checkpoint_dir": str(folder / "saved"),
        "record_dir": str(folder / "records"),
        "semantic_dir": str(folder / "semantic"),
        "semantic": {
            "input": "behaviour",
            "n_snapshots": 2,
            **CODES,
            "items": {"input": "behaviour", **CODES},
        },
        **more,
    }


def a_record(model: str, folder: Path, **more: Any) -> dict[str, Any]:
    result = run(model, "ml-100k", config_dict=settings(folder, **more))
    return json.loads(Path(result["record_path"]).read_text())


def test_a_record_has_segments_and_diagnostics(tmp_path: Path) -> None:
    record = a_record("AKTRec", tmp_path, epochs=1)
    for segment in ("all", "head_items", "tail_items", "tail_sample"):
        assert 0.3 < record["segments"][segment]["auc"] < 1
    figures = record["history"][-1]["diagnostics"]
    assert 0 < figures["frac_paired_users"] <= 1
    assert 0 < figures["frac_paired_items"] <= 1
    assert {"r_user_level_1", "r_item_spearman", "mean_alpha_fusion_level_5"} <= set(figures)
    assert {"norm_cluster_user_head", "norm_individual_item_tail", "loss_ortho"} <= set(figures)
    assert all(math.isfinite(v) for v in figures.values())
    for view in ("history", "cluster"):  # both views attend on real rows
        assert figures[f"attention_entropy_{view}"] < 0.98
        assert figures[f"attention_logit_sd_{view}"] > 0.1


@pytest.mark.slow
def test_base_mm_and_plus_read_the_same_table(tmp_path: Path) -> None:
    record = a_record("AKTRec", tmp_path)
    features = a_record("BaseMM", tmp_path)
    plus = a_record("AKTRec", tmp_path, variant="plus")
    assert len(list((tmp_path / "semantic").glob("*/manifest.json"))) == 1
    for other in (features, plus):
        assert other["table"]["fingerprint"] == record["table"]["fingerprint"]
        assert other["rows"] == record["rows"]
        assert 0.3 < other["test"]["auc"] < 1
        assert other["parameters"] != record["parameters"]


def test_without_tables_none_is_built(tmp_path: Path) -> None:
    off = {"use_cluster_emb": False, "use_cluster_view": False}
    record = a_record("AKTRec", tmp_path, **off)
    assert not (tmp_path / "semantic").exists()
    assert 0.3 < record["test"]["auc"] < 1


@pytest.mark.slow
def test_a_resumed_run_has_the_same_scores(tmp_path: Path) -> None:
    whole = a_record("AKTRec", tmp_path / "whole", clust_refresh=3)
    part = tmp_path / "part"
    a_record("AKTRec", part, clust_refresh=3, epochs=1, lr_schedule="constant", lr_final=None)
    straight = a_record(
        "AKTRec", tmp_path / "flat", clust_refresh=3, lr_schedule="constant", lr_final=None
    )
    (last,) = (part / "saved").glob("*-last.pth")
    resumed = a_record(
        "AKTRec",
        part,
        clust_refresh=3,
        lr_schedule="constant",
        lr_final=None,
        resume=str(last),
    )
    assert resumed["test"] == straight["test"]
    assert resumed["test"] != whole["test"]  # the schedule matters, so the equality means something
