"""Settings of AKTRec: variants, implications, contradictions, the YAML file and what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.aktrec import AKTRec
from recbole_choir.model.settings.aktrec import AKTRecSettings

PROPERTIES = Path(__file__).parents[3] / "properties" / "model"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text())


def settings(**config: Any) -> AKTRecSettings:
    return AKTRecSettings.from_config(config)


def test_the_paper_is_the_default() -> None:
    s = settings()
    assert s.variant == "paper"
    assert (s.lambda1, s.lambda2, s.lambda_ortho, s.trans_temperature) == (0.01, 0.1, 0.01, 0.1)
    assert (s.cluster_emb, s.cluster_init, s.r_dim) == ("per_id", "levels", 1)
    assert (s.cgae_gate, s.hfa_gate, s.hfa_fusion) == ("learned", "learned", "gated_sum")
    assert s.unseen_gate == "gate"
    assert (s.clust_mode, s.clust_weight, s.clust_refresh) == ("snapshot", "uniform", 200)
    assert s.detach_negatives
    assert s.use_cluster_seq
    assert not any((s.use_content, s.use_codes, s.use_cluster_stats))


def test_plus_differs_exactly_here() -> None:
    paper, plus = settings().plain(), settings(variant="plus").plain()
    assert {k: v for k, v in plus.items() if paper[k] != v} == {
        "variant": "plus",
        "cluster_init": "centroid",
        "hfa_fusion": "concat",
        "use_content": True,
        "use_cluster_stats": True,
    }


def test_null_means_the_variant_and_any_other_value_wins() -> None:
    s = settings(variant="plus", use_content=None, use_cluster_stats=False, lambda1=0)
    assert s.use_content
    assert not s.use_cluster_stats
    assert s.lambda1 == 0


def test_what_settings_imply() -> None:
    s = settings(use_cluster_emb=False)
    assert (s.use_trans, s.use_ortho) == (False, False)
    s = settings(use_individual_emb=False)
    assert (s.use_ortho, s.cluster_emb, s.use_trans) == (False, "shared", True)
    assert settings(use_individual_emb=False, cluster_emb="per_id").cluster_emb == "per_id"
    assert settings(use_instance_view=False).clust_mode == "grad"
    assert settings(use_instance_view=False, clust_mode="ema").clust_mode == "ema"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"use_cluster_emb": False, "use_trans": True},
            "use_trans: use_cluster_emb: False expects",
        ),
        ({"use_individual_emb": False, "use_ortho": True}, "use_ortho: use_individual_emb: False"),
        (
            {"use_individual_emb": False, "use_cluster_emb": False},
            "use_cluster_emb: use_individual_emb: False expects True or null, got False",
        ),
        (
            {"use_instance_view": False, "use_cluster_view": False},
            "use_cluster_view: use_instance_view: False expects True or null, got False",
        ),
        ({"variant": "papr"}, r"variant: expected one of paper, plus, got 'papr' \(did you mean"),
        ({"cgae_gate": "half"}, "cgae_gate: expected learned or a number in .*, got 'half'"),
        ({"hfa_gate": 1.5}, r"hfa_gate: expected learned or a number in \[0, 1\], got 1.5"),
        ({"r_dim": 2}, "r_dim: expected one of 1, m, got 2"),
        ({"r_dim": True}, "r_dim: expected one of 1, m, got True"),
        ({"unseen_gate": "ones"}, r"unseen_gate: expected one of gate, one.*did you mean 'one'"),
        ({"lambda1": -1}, "lambda1: expected a number"),
        ({"cluster_emb": "per-id"}, r"cluster_emb: .*did you mean 'per_id'"),
        ({"cluster_init": "zeros"}, "cluster_init: expected one of levels, centroid, random"),
        ({"clust_mode": "exact"}, "clust_mode: expected one of snapshot, grad, ema"),
        ({"clust_weight": "freq"}, "clust_weight: expected one of uniform, logfreq"),
        ({"hfa_fusion": "sum"}, "hfa_fusion: expected one of gated_sum, concat"),
        ({"ranker": "moe"}, r"ranker: .*did you mean 'mmoe'"),
        ({"trans_max_anchors": 0}, "trans_max_anchors: expected a whole number of at least 1"),
        ({"clust_keep": 1.2}, r"clust_keep: expected a number in \[0, 1\]"),
        ({"trans_temperature": 0}, "trans_temperature: expected a number"),
        ({"use_ortho": "True"}, "use_ortho: expected True or False"),
    ],
)
def test_wrong_values_are_one_clear_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        AKTRecSettings.from_config(config)
    assert "\n" not in str(error.value)


def test_needs_follow_the_settings() -> None:
    everything = {"groups", "items", "clusters"}
    assert AKTRec.needs({}) == everything
    assert AKTRec.needs({"use_cluster_emb": False}) == everything
    assert AKTRec.needs({"use_cluster_view": False}) == everything
    off = {"use_cluster_emb": False, "use_cluster_view": False}
    assert AKTRec.needs(off) == frozenset()
    assert AKTRec.needs({**off, "use_codes": True}) == {"groups", "items"}
    assert AKTRec.needs({**off, "use_content": True}) == {"groups", "items"}
    assert AKTRec.needs({**off, "use_cluster_stats": True}) == everything


def test_a_model_without_any_setting_has_the_yamls_shapes(helpers: Any) -> None:
    code_only = {k: v for k, v in helpers.config().items() if k.isupper() or k == "device"}
    dataset = helpers.akt_dataset()
    bare = AKTRec(code_only, dataset)
    full = AKTRec({**helpers.config(), **load("AKTRec")}, dataset)
    assert {k: v.shape for k, v in bare.state_dict().items()} == {
        k: v.shape for k, v in full.state_dict().items()
    }
    assert full.widths == (256, 128, 64)
    assert full.transfer.max_anchors == 256
