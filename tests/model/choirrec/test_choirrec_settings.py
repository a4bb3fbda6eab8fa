"""Settings of the models: variants, contradictions and the YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.choirrec import ChoirRec
from recbole_choir.model.settings.choirrec import ChoirRecSettings

PROPERTIES = Path(__file__).parents[3] / "properties" / "model"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text())


def settings(**config: Any) -> ChoirRecSettings:
    return ChoirRecSettings.from_config(config)


def test_the_paper_is_the_default() -> None:
    s = settings()
    assert s.variant == "paper"
    assert (s.kd_lambda, s.kd_temperature, s.kd_margin, s.theta_conf) == (0.005, 2.0, 0.05, 0.1)
    assert (s.kd_loss, s.kd_direction, s.kd_alpha_mode, s.kd_reduction) == (
        "margin", "individual_to_group", "literal", "mean",
    )  # fmt: skip
    assert s.fusion_gate == "learned"
    assert s.theta_act is None
    assert s.aux_bce == 0
    on = (
        "use_llm_emb use_group_id use_group_attr use_group_seq use_dual_channel use_injection "
        "inject_stopgrad use_kd kd_detach_teacher use_qual_gate use_alpha_distill eg_normalize"
    )
    assert all(getattr(s, k) for k in on.split())
    assert not s.use_group_stats
    assert not s.attr_impute


def test_released_and_stats_differ_from_the_paper_exactly_here() -> None:
    def differing(variant: str) -> dict[str, Any]:
        paper, other = settings().plain(), settings(variant=variant).plain()
        return {k: v for k, v in other.items() if paper[k] != v and k != "variant"}

    assert differing("released") == {
        "kd_direction": "group_to_individual",
        "kd_temperature": 1.0,
        "kd_margin": 0.0,
        "eg_normalize": False,
    }
    assert differing("stats") == {
        "group_channel": "stats",
        "use_group_id": False,
        "use_group_attr": False,
        "use_group_seq": False,
        "use_group_stats": True,
        "use_injection": False,
        "use_kd": False,
        "aux_bce": 0.3,
    }
    lean = {k: v for k, v in differing("stats").items() if k != "use_group_stats"}
    soft = {"group_channel": "soft", "use_lifts": True, "aux_bce_individual": 3.0}
    assert differing("soft") == {**lean, **soft}


def test_a_channel_of_soft_groups_implies_the_lifts_alone() -> None:
    s = settings(group_channel="soft")
    assert (s.use_group_id, s.use_group_attr, s.use_group_seq) == (False, False, False)
    assert s.use_lifts
    assert not s.use_group_stats
    with pytest.raises(ConfigError, match="use_lifts: group_channel: soft expects True or null"):
        settings(variant="soft", use_lifts=False)


def test_null_means_the_variant_and_any_other_value_wins() -> None:
    s = settings(variant="released", kd_margin=None, kd_temperature=3, eg_normalize=True)
    assert (s.kd_margin, s.kd_temperature, s.eg_normalize) == (0.0, 3.0, True)
    assert s.kd_direction == "group_to_individual"
    zero = settings(kd_margin=0, use_kd=False)  # false and 0 are values, not "unset"
    assert (zero.kd_margin, zero.use_kd) == (0.0, False)


def test_implied_settings_and_contradictions() -> None:
    s = settings(use_dual_channel=False)
    assert (s.use_kd, s.use_injection, s.aux_bce) == (False, False, 0.0)
    assert settings(use_dual_channel=False, variant="soft").aux_bce_individual == 0
    s = settings(group_channel="stats")
    assert (s.use_group_id, s.use_group_attr, s.use_group_seq) == (False, False, False)
    assert s.use_group_stats
    assert s.use_kd  # the rest is still the paper's
    with pytest.raises(ConfigError, match="use_kd: use_dual_channel: False expects False or null"):
        settings(use_dual_channel=False, use_kd=True)
    with pytest.raises(ConfigError, match="use_group_seq: group_channel: stats expects False"):
        settings(variant="stats", use_group_seq=True)
    back = settings(variant="stats", group_channel="full", use_group_seq=True)
    assert back.use_group_seq


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variant": "papr"}, r"variant: expected one of .*got 'papr' \(did you mean 'paper'\?\)"),
        ({"kd_loss": "mse"}, "kd_loss: expected one of margin, kl, got 'mse'"),
        ({"use_kd": "False"}, "use_kd: expected True or False, got 'False'"),
        ({"kd_lambda": -1}, r"kd_lambda: expected a number in \[0, inf\), got -1"),
        ({"kd_temperature": 0}, "kd_temperature: expected a number"),
        ({"theta_conf": 0.6}, r"theta_conf: expected a number in \[0, 0.5\], got 0.6"),
        ({"theta_act": "many"}, "theta_act: expected a number"),
        ({"fusion_gate": "half"}, "fusion_gate: expected learned or a number"),
        ({"fusion_gate": 1.5}, r"fusion_gate: expected learned or a number in \[0, 1\]"),
        ({"kd_alpha_mode": "literally"}, "did you mean 'literal'"),
        ({"kd_reduction": "max"}, "kd_reduction: expected one of mean, sum, got 'max'"),
        ({"group_code_size": 0}, "group_code_size: expected a whole number of at least 1, got 0"),
        ({"reliability_hidden": []}, "reliability_hidden: expected a list of at least 1"),
    ],
)
def test_wrong_values_are_one_clear_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ChoirRecSettings.from_config(config)
    assert "\n" not in str(error.value)


def test_needs_follow_the_settings() -> None:
    off = dict.fromkeys(("use_group_id", "use_group_attr", "use_group_seq"), False)
    assert ChoirRec.needs({}) == {"groups"}
    assert ChoirRec.needs({"variant": "stats"}) == {"groups", "group_stats"}
    assert ChoirRec.needs(off) == frozenset()
    assert ChoirRec.needs({**off, "attr_impute": True}) == {"groups"}


def test_the_yaml_has_the_papers_training_as_a_preset(helpers) -> None:
    config = load("ChoirRec")
    paper = config["training_presets"]["paper"]
    assert (paper["learner"], paper["learning_rate"], paper["lr_final"]) == (
        "adagrad",
        0.01,
        0.001,
    )
    assert paper["train_batch_size"] == 1024
    model = ChoirRec({**helpers.config(), **config}, helpers.dataset())
    assert model.widths == (256, 128, 64)
    assert model.embedding_size == 16
    assert model.dropout_prob == 0.1
    code_only = {k: v for k, v in helpers.config().items() if k.isupper() or k == "device"}
    bare = ChoirRec(code_only, helpers.dataset())
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in bare.state_dict().items()}
