"""ChoirRec: routing of gradients, gates as ablations, and each switch."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import torch

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.choirrec import ChoirRec

# Parameters by the part of the model that owns them. The tables of items, contexts and user
# attributes belong to both channels.
INDIVIDUAL = ("individual.", "user_table.", "history_attention.", "injection.")
GROUP = ("group.", "group_attention.", "prefix_fusion.")
SHARED = ("item_encoder.", "context_bank.", "user_bank.")


def grads(model: ChoirRec, loss: torch.Tensor, owners: tuple[str, ...]) -> dict[str, float]:
    """Size of each parameter's gradient; 0 where there is none."""
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {
        n: 0.0 if p.grad is None else float(p.grad.abs().sum())
        for n, p in model.named_parameters()
        if n.startswith(owners)
    }


def live_kd(helpers: Any, **settings: Any) -> ChoirRec:
    """A model whose distillation has something to do: every row qualifies, no margin."""
    return helpers.choir(**{"use_qual_gate": False, "kd_margin": 0.0, **settings})


def distilled_loss(model: ChoirRec, batch: Any) -> torch.Tensor:
    """``L_KD`` alone: what the weight lambda adds to the loss, per unit of lambda."""
    return model.distil(model.channels(batch), batch["n_buy"]).loss


def test_owners_cover_every_parameter(helpers) -> None:
    known = (*INDIVIDUAL, *GROUP, *SHARED, "reliability.")
    assert all(n.startswith(known) for n, _ in helpers.choir().named_parameters())


def test_individual_logit_leaves_the_group_channel_alone(helpers) -> None:
    model, batch = helpers.choir(), helpers.batch()
    sizes = grads(model, model.channels(batch).individual.sum(), GROUP)
    assert len(sizes) > 10
    assert set(sizes.values()) == {0.0}


def test_without_stop_gradient_the_group_channel_is_reached(helpers) -> None:
    model, batch = helpers.choir(inject_stopgrad=False), helpers.batch()
    sizes = grads(model, model.channels(batch).individual.sum(), GROUP)
    assert sizes["group.first.0.weight"] > 0
    assert sizes["prefix_fusion.levels.0.weight"] > 0
    assert sizes["group.hidden.0.weight"] == 0  # the group's tower is no part of its mid state


def test_distillation_leaves_the_teacher_alone(helpers) -> None:
    model, batch = live_kd(helpers), helpers.batch()
    loss = distilled_loss(model, batch)
    assert loss.item() > 0
    assert set(grads(model, loss, INDIVIDUAL).values()) == {0.0}
    student = grads(model, loss, GROUP)
    assert min(student.values()) > 0


def test_live_teacher_and_released_direction(helpers) -> None:
    batch = helpers.batch()
    live = live_kd(helpers, kd_detach_teacher=False)
    assert grads(live, distilled_loss(live, batch), INDIVIDUAL)["individual.head.weight"] > 0
    released = live_kd(helpers, variant="released")
    loss = distilled_loss(released, batch)
    assert set(grads(released, loss, GROUP).values()) == {0.0}
    assert grads(released, loss, INDIVIDUAL)["individual.head.weight"] > 0


def test_fused_bce_trains_both_channels_and_the_gate(helpers) -> None:
    model, batch = helpers.choir(use_kd=False), helpers.batch()
    sizes = grads(model, model.calculate_loss(batch), (*INDIVIDUAL, *GROUP, *SHARED, "reliability"))
    assert min(sizes.values()) > 0


def test_group_logit_does_not_see_the_individual_side(helpers) -> None:
    model, batch = helpers.choir(), helpers.batch()
    sizes = grads(model, model.channels(batch).group.sum(), (*INDIVIDUAL, "reliability"))
    assert set(sizes.values()) == {0.0}


def test_equations_10_to_12(helpers) -> None:
    losses = {"kd_lambda": 0.7, "aux_bce": 0.3, "aux_bce_individual": 0.2}
    model, batch = live_kd(helpers, **losses), helpers.batch()
    out = model.channels(batch)
    fused = (1 - out.alpha_fusion) * out.individual + out.alpha_fusion * out.group
    torch.testing.assert_close(out.fused, fused)
    y = batch["label"]

    def bce(z: torch.Tensor) -> torch.Tensor:
        p = torch.sigmoid(z)
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    gap = (torch.sigmoid(out.individual / 2) - torch.sigmoid(out.group / 2)).abs()
    kd = (out.alpha_distill * gap**2).mean()
    expected = bce(fused) + 0.7 * kd + 0.3 * bce(out.group) + 0.2 * bce(out.individual)
    torch.testing.assert_close(model.calculate_loss(batch), expected)


def test_group_channel_input_is_the_concatenation(helpers) -> None:
    model, batch = helpers.choir(use_group_stats=True), helpers.batch()
    groups = helpers.groups()
    items = model.item_tokens(batch)
    features = model.encode(batch, items)
    group = groups.user_group[batch["snapshot"], batch["user_id"]].long()
    bank = model.user_bank.tables
    keys = model.item_encoder(groups.group_seq[group].long())
    valid = groups.group_seq[group] > 0
    weights = helpers.default_weights(keys, features.item_token, valid)
    mean = (keys * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
    expected = [
        model.prefix_fusion(groups.user_codes[batch["snapshot"], batch["user_id"]].long()),
        bank[0].weight[groups.group_attr["gender"][group]],  # the users' own tables
        groups.group_attr["age"][group].unsqueeze(1) * bank[1].weight[0],
        bank[2].weight[groups.group_attr["hobbies"][group]],
        torch.cat([(weights.unsqueeze(-1) * keys).sum(1), mean], dim=1),
        batch["group_stats"],
    ]
    parts = model.group_inputs(batch, features, items)
    torch.testing.assert_close(torch.cat(parts, 1), torch.cat(expected, 1))


def test_constant_zero_gate_without_injection_is_base_bit_for_bit(helpers) -> None:
    batch = helpers.batch()
    base = helpers.base()
    choir = helpers.choir(seed=3, fusion_gate=0.0, use_injection=False, use_kd=False)
    report = choir.load_state_dict(base.state_dict(), strict=False)
    assert report.unexpected_keys == []
    assert all(k.startswith(GROUP) for k in report.missing_keys)
    assert torch.equal(choir(batch), base(batch))
    # and it stays Base through training: the group channel gets a gradient of exactly zero
    for model in (base, choir):
        optimiser = torch.optim.Adagrad(model.parameters(), lr=0.05)
        for seed in range(3):
            optimiser.zero_grad()
            model.calculate_loss(helpers.batch(seed=seed)).backward()
            optimiser.step()
    weights = dict(choir.named_parameters())
    for name, p in base.named_parameters():
        assert torch.equal(p, weights[name]), name


def test_constant_one_gate_is_the_group_channel(helpers) -> None:
    model, batch = helpers.choir(fusion_gate=1.0), helpers.batch()
    out = model.channels(batch)
    assert torch.equal(out.fused, out.group)


def test_lambda_zero_is_no_distillation_bit_for_bit(helpers) -> None:
    def train(**settings: Any) -> dict[str, torch.Tensor]:
        model = helpers.choir(**settings)
        if settings.get("use_kd") is False:
            donor = helpers.choir().state_dict()
            model.load_state_dict({k: v for k, v in donor.items() if "distill" not in k})
        optimiser = torch.optim.Adagrad(model.parameters(), lr=0.05)
        for seed in range(3):
            optimiser.zero_grad()
            model.calculate_loss(helpers.batch(seed=seed)).backward()
            optimiser.step()
        return dict(model.named_parameters())

    off, zero = train(use_kd=False), train(kd_lambda=0.0)
    assert set(zero) - set(off) == {"reliability.distill.weight", "reliability.distill.bias"}
    for name, p in off.items():
        assert torch.equal(p, zero[name]), name


def test_no_injection_is_a_zero_injection(helpers) -> None:
    batch = helpers.batch()
    model = helpers.choir()
    with torch.no_grad():
        model.injection.second.weight.zero_()
        model.injection.second.bias.zero_()
    plain = helpers.choir(seed=1, use_injection=False)
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(plain(batch), model(batch))


def test_alpha_distill_off_is_a_gate_of_one(helpers) -> None:
    batch = helpers.batch()
    model = live_kd(helpers, use_alpha_distill=False, kd_lambda=1.0)
    out = model.channels(batch)
    assert out.alpha_distill is None
    gap = (torch.sigmoid(out.individual / 2) - torch.sigmoid(out.group / 2)).abs()
    torch.testing.assert_close(distilled_loss(model, batch), (gap**2).mean())


@pytest.mark.parametrize(
    ("switch", "gone"),
    [
        ("use_group_id", "prefix_fusion"),
        ("use_group_seq", "group_attention"),
        ("use_injection", "injection"),
        ("use_dual_channel", "group"),
    ],
)
def test_a_switch_removes_its_part(helpers, switch: str, gone: str) -> None:
    assert hasattr(helpers.choir(), gone)
    model = helpers.choir(**{switch: False})
    assert not any(n.startswith(f"{gone}.") for n, _ in model.named_parameters())
    model.calculate_loss(helpers.batch()).backward()


def test_without_group_attributes_they_reach_nothing(helpers) -> None:
    def score(seed: int, **settings: Any) -> torch.Tensor:
        dataset = helpers.dataset()
        attrs = dataset.model_inputs.groups.group_attr
        attrs["gender"] = (attrs["gender"] + seed) % 3
        return helpers.choir(dataset=dataset, **settings)(helpers.batch())

    assert not torch.equal(score(0), score(1))
    off = {"use_group_attr": False}
    assert torch.equal(score(0, **off), score(1, **off))


def test_one_tower_takes_all_inputs(helpers) -> None:
    model, batch = helpers.choir(use_dual_channel=False), helpers.batch()
    out = model.channels(batch)
    assert out.group is None
    assert torch.equal(out.fused, out.individual)
    base = helpers.base().individual.first[0].in_features
    group_width = 32 + 3 * 4 + 2 * model.item_encoder.width
    assert model.individual.first[0].in_features == base + group_width
    assert not hasattr(model, "injection")
    assert model.reliability is None


def test_stats_channel_sees_statistics_item_and_context_only(helpers) -> None:
    model, batch = helpers.choir(variant="stats"), helpers.batch()
    before = model.channels(batch).group
    for name in ("user_id", "snapshot", "hist_items", "user_stats", "n_buy"):
        changed = helpers.batch(seed=9)[name]
        other = helpers.batch()
        other.interaction[name] = changed
        assert torch.equal(model.channels(other).group, before), name
    for name in ("group_stats", "item_id", "item_stats", "hour", "discount"):
        other = helpers.batch()
        other.interaction[name] = helpers.batch(seed=9)[name]
        assert not torch.equal(model.channels(other).group, before), name


def test_soft_channel_sees_lifts_item_and_context_only(helpers) -> None:
    model, batch = helpers.choir(variant="soft"), helpers.batch()
    before = model.channels(batch).group
    blind = ("user_id", "snapshot", "hist_items", "user_stats", "n_buy", "group_stats")
    for name in (*blind, "own_scores"):
        other = helpers.batch()
        other.interaction[name] = helpers.batch(seed=9)[name]
        assert torch.equal(model.channels(other).group, before), name
    for name in ("lifts", "item_id", "item_stats", "hour", "discount"):
        other = helpers.batch()
        other.interaction[name] = helpers.batch(seed=9)[name]
        assert not torch.equal(model.channels(other).group, before), name
    # and the individual channel sees no lift
    other = helpers.batch()
    other.interaction["lifts"] = helpers.batch(seed=9)["lifts"]
    out, changed = model.channels(batch), model.channels(other)
    assert torch.equal(changed.individual, out.individual)
    assert torch.equal(changed.alpha_fusion, out.alpha_fusion)


def test_own_scores_join_the_group_channel_and_no_other(helpers) -> None:
    model, batch = helpers.choir(variant="soft", use_own_scores=True), helpers.batch()
    other = helpers.batch()
    other.interaction["own_scores"] = helpers.batch(seed=9)["own_scores"]
    out, changed = model.channels(batch), model.channels(other)
    assert not torch.equal(changed.group, out.group)
    assert torch.equal(changed.individual, out.individual)
    assert torch.equal(changed.alpha_fusion, out.alpha_fusion)
    # columns without weight say nothing: the model of lifts alone
    alone = helpers.choir(variant="soft")
    weights = {n: p.clone() for n, p in model.state_dict().items()}
    first = weights["group.first.0.weight"]
    n_lifts = 3
    weights["group.first.0.weight"] = torch.cat([first[:, :n_lifts], first[:, n_lifts + 2 :]], 1)
    alone.load_state_dict(weights)
    with torch.no_grad():
        first[:, n_lifts : n_lifts + 2] = 0.0
        model.load_state_dict({**weights, "group.first.0.weight": first})
    torch.testing.assert_close(model(batch), alone(batch))
    assert ChoirRec.needs({"variant": "soft", "use_own_scores": True}) == {
        "groups",
        "lifts",
        "own_scores",
    }


def test_own_scores_want_a_dataset_that_has_them(helpers) -> None:
    dataset = helpers.dataset()
    schema = dataset.model_inputs.schema
    dataset.model_inputs.schema = dataclasses.replace(schema, own_score_names=())
    with pytest.raises(ConfigError, match="use_own_scores expects a dataset with own_scores"):
        helpers.choir(dataset=dataset, variant="soft", use_own_scores=True)


def test_soft_loss_is_that_of_the_fused_logit_and_of_both_channels(helpers) -> None:
    model, batch = helpers.choir(variant="soft"), helpers.batch()
    out = model.channels(batch)
    expected = model.bce(out.fused, batch) + 0.3 * model.bce(out.group, batch)
    expected = expected + 3.0 * model.bce(out.individual, batch)
    torch.testing.assert_close(model.calculate_loss(batch), expected)
    figures = model.epoch_diagnostics()
    assert [k for k in figures if "level" in k] == [
        f"mean_alpha_fusion_level_{i}" for i in range(1, 6)
    ]
    assert "frac_qualified" not in figures


def test_soft_and_stats_are_one_model_on_other_columns(helpers) -> None:
    soft, stats = helpers.choir(variant="soft"), helpers.choir(variant="stats")
    shapes = {n: p.shape for n, p in stats.named_parameters()}
    for name, p in soft.named_parameters():
        if name == "group.first.0.weight":
            assert p.shape[1] == shapes[name][1] - 3  # three lifts for six statistics
        else:
            assert p.shape == shapes[name], name


def test_soft_reads_no_table_itself(helpers) -> None:
    dataset = helpers.dataset(groups=None)
    assert helpers.choir(dataset=dataset, variant="soft").groups is None
    assert ChoirRec.needs({"variant": "soft"}) == {"groups", "lifts"}
    assert ChoirRec.needs({}) == {"groups"}
    schema = dataset.model_inputs.schema
    dataset.model_inputs.schema = dataclasses.replace(schema, lift_names=())
    with pytest.raises(ConfigError, match="use_lifts expects a dataset with lifts"):
        helpers.choir(dataset=dataset, variant="soft")


def test_fusion_gate_depends_on_activity_alone(helpers) -> None:
    model, batch = helpers.choir(), helpers.batch()
    before = model.channels(batch).alpha_fusion
    for name in ("user_id", "item_id", "hist_items", "item_stats", "snapshot", "hour"):
        other = helpers.batch()
        other.interaction[name] = helpers.batch(seed=9)[name]
        assert torch.equal(model.channels(other).alpha_fusion, before), name
    for name in ("user_stats", "n_buy"):
        other = helpers.batch()
        other.interaction[name] = helpers.batch(seed=9)[name]
        assert not torch.equal(model.channels(other).alpha_fusion, before), name


def test_fusion_gate_of_soft_groups_sees_what_lies_behind_the_lifts(helpers) -> None:
    def gates(names: tuple[str, ...], column: int) -> bool:
        """Whether the gate moves with a column of the lifts."""
        dataset = helpers.dataset()
        schema = dataset.model_inputs.schema
        dataset.model_inputs.schema = dataclasses.replace(schema, lift_names=names)
        model, batch, other = (
            helpers.choir(dataset=dataset, variant="soft"),
            helpers.batch(),
            helpers.batch(),
        )
        other.interaction["lifts"] = batch["lifts"].clone()
        other.interaction["lifts"][:, column] += 1.0
        before, after = (model.channels(b).alpha_fusion for b in (batch, other))
        return not torch.equal(before, after)

    with_mass = ("lift_item", "lift_type", "lift_mass")
    assert [gates(with_mass, c) for c in range(3)] == [False, False, True]
    assert not any(gates(("lift_item", "lift_type", "lift_category"), c) for c in range(3))


def test_imputation_fills_missing_attributes_only(helpers) -> None:
    dataset, batch = helpers.dataset(), helpers.batch()
    features = dataset.model_inputs.user_features
    features["gender"][:15] = 0
    features["hobbies"][:15] = 0
    model = helpers.choir(dataset=dataset, attr_impute=True)
    own = [features[n][batch["user_id"]] for n in ("gender", "age", "hobbies")]
    groups = dataset.model_inputs.groups
    group = groups.user_group[batch["snapshot"], batch["user_id"]].long()
    gender, age, hobbies = model.user_values(batch)
    expected = torch.where(own[0] == 0, groups.group_attr["gender"][group], own[0])
    assert torch.equal(gender, expected)
    assert (own[0] == 0).any()
    assert torch.equal(age, own[1])
    missing = (own[2] == 0).all(1)
    assert missing.any()
    assert torch.equal(hobbies[~missing], own[2][~missing])
    assert torch.equal(hobbies[missing, 0], groups.group_attr["hobbies"][group][missing])
    assert torch.equal(hobbies[missing, 1:], torch.zeros_like(hobbies[missing, 1:]))
    assert torch.equal(features["gender"][:15], torch.zeros(15, dtype=torch.long))  # not in place


@pytest.mark.parametrize("mode", ["literal", "selfnorm", "detach"])
def test_gradient_of_distillation_on_the_reliability_head(helpers, mode: str) -> None:
    model, batch = live_kd(helpers, kd_alpha_mode=mode), helpers.batch()
    head = grads(model, distilled_loss(model, batch), ("reliability.distill",))
    assert (max(head.values()) > 0) == (mode != "detach")


def test_nothing_qualified_trains_as_if_without_distillation(helpers) -> None:
    batch = helpers.batch()
    model = helpers.choir(theta_act=1e9, kd_lambda=10.0)
    loss = model.calculate_loss(batch)
    torch.testing.assert_close(loss, model.bce(model(batch), batch))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_theta_act_comes_from_the_data_unless_set(helpers) -> None:
    assert helpers.choir().distillation.theta_act == 4.0
    assert helpers.choir(theta_act=7).distillation.theta_act == 7.0


def test_diagnostics_of_an_epoch(helpers) -> None:
    model, batch = helpers.choir(theta_conf=0.02), helpers.batch()
    model.on_epoch_start(0)
    model.calculate_loss(batch)
    figures = model.epoch_diagnostics()
    out = model.channels(batch)
    confident = (torch.sigmoid(out.individual) - 0.5).abs() > 0.02
    qualified = (batch["n_buy"] >= 4) & confident
    assert qualified.any()
    assert not qualified.all()
    gap = (torch.sigmoid(out.individual / 2) - torch.sigmoid(out.group / 2)).abs()
    assert figures["frac_qualified"] == pytest.approx(qualified.float().mean().item())
    assert figures["frac_margin_active"] == pytest.approx(
        (gap[qualified] > 0.05).float().mean().item()
    )
    assert figures["mean_alpha_distill"] == pytest.approx(out.alpha_distill.mean().item())
    assert figures["mean_alpha_fusion"] == pytest.approx(out.alpha_fusion.mean().item())
    assert [k for k in figures if "level" in k] == [
        f"mean_alpha_fusion_level_{i}" for i in range(1, 6)
    ]
    model.calculate_loss(batch)
    assert model.epoch_diagnostics() == pytest.approx(figures)  # the same rows twice
    model.on_epoch_start(1)
    assert model.epoch_diagnostics() == {}


def measured_ratios(model: ChoirRec, batches: list[Any]) -> dict[str, float]:
    """The ratios of the epoch's diagnostics by autograd, from the losses and the gates' logits."""
    student = "individual" if model.settings.kd_direction == "group_to_individual" else "group"
    logits: dict[str, torch.Tensor] = {}
    hooks = [
        head.register_forward_hook(lambda *call, name=name: logits.__setitem__(name, call[2]))
        for name in ("distill", "fusion")
        if model.reliability is not None and (head := getattr(model.reliability, name)) is not None
    ]
    squares: dict[tuple[str, str], float] = {}

    def count(loss: torch.Tensor, name: str, at: torch.Tensor) -> None:
        found = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)[0]
        size = 0.0 if found is None else found.double().square().sum().item()
        squares[name] = squares.get(name, 0.0) + size

    for batch in batches:
        out = model.channels(batch)
        kd = model.settings.kd_lambda * model.distil(out, batch["n_buy"]).loss
        bce = model.bce(out.fused, batch)
        count(kd, "kd", getattr(out, student))
        count(bce, "bce", getattr(out, student))
        if len(logits) == 2:
            if logits["distill"].requires_grad:
                count(kd, "kd alpha", logits["distill"])
            count(bce, "bce alpha", logits["fusion"])
    for hook in hooks:
        hook.remove()
    ratios = {f"kd_grad_ratio_{student}": (squares["kd"] / squares["bce"]) ** 0.5}
    if "bce alpha" in squares:
        ratio = squares.get("kd alpha", 0.0) / squares["bce alpha"]
        ratios["kd_grad_ratio_alpha"] = ratio**0.5
    return ratios


def reported_ratios(model: ChoirRec, batches: list[Any]) -> dict[str, float]:
    model.on_epoch_start(0)
    for batch in batches:
        model.calculate_loss(batch)
    return {k: v for k, v in model.epoch_diagnostics().items() if "ratio" in k}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mode", ["literal", "selfnorm", "detach"])
@pytest.mark.parametrize("loss", ["margin", "kl"])
@pytest.mark.parametrize("direction", ["individual_to_group", "group_to_individual"])
def test_gradient_ratios_are_those_of_autograd(
    helpers, direction: str, loss: str, mode: str, reduction: str
) -> None:
    model = helpers.choir(
        theta_conf=0.02,
        kd_margin=0.01,
        kd_lambda=0.7,
        kd_direction=direction,
        kd_loss=loss,
        kd_alpha_mode=mode,
        kd_reduction=reduction,
        aux_bce=0.3,  # a loss of the channel's own is no part of the ratio
    )
    batches = [helpers.batch(seed=seed) for seed in (0, 1)]
    expected = measured_ratios(model, batches)
    assert reported_ratios(model, batches) == pytest.approx(expected, rel=1e-5, abs=0)
    student = "group" if direction == "individual_to_group" else "individual"
    assert expected[f"kd_grad_ratio_{student}"] > 0
    assert (expected["kd_grad_ratio_alpha"] > 0) == (mode != "detach")


@pytest.mark.parametrize(
    "settings",
    [{"fusion_gate": 0.3}, {"use_alpha_distill": False}, {"kd_detach_teacher": False}],
    ids=lambda s: next(iter(s)),
)
def test_gradient_ratios_where_a_gate_is_fixed_or_the_teacher_live(helpers, settings: Any) -> None:
    model, batch = live_kd(helpers, **settings), helpers.batch()
    expected = measured_ratios(model, [batch])
    assert ("kd_grad_ratio_alpha" in expected) == ("kd_detach_teacher" in settings)
    assert reported_ratios(model, [batch]) == pytest.approx(expected, rel=1e-5, abs=0)


def test_gradient_ratios_follow_lambda_and_reduction(helpers) -> None:
    batch = helpers.batch()
    n = len(batch)
    once = reported_ratios(live_kd(helpers), [batch])
    assert set(once) == {"kd_grad_ratio_group", "kd_grad_ratio_alpha"}
    for settings, factor in (({"kd_reduction": "sum"}, n), ({"kd_lambda": 0.05}, 10)):
        more = reported_ratios(live_kd(helpers, **settings), [batch])
        assert more == pytest.approx({k: factor * v for k, v in once.items()}, rel=1e-6)
    assert set(reported_ratios(live_kd(helpers, kd_lambda=0.0), [batch]).values()) == {0.0}
    assert set(reported_ratios(helpers.choir(theta_act=1e9), [batch]).values()) == {0.0}
    assert reported_ratios(live_kd(helpers, fusion_gate=0), [batch]) == {}
    assert reported_ratios(helpers.choir(use_kd=False), [batch]) == {}


def test_a_sum_adds_n_times_as_much_to_the_loss(helpers) -> None:
    batch = helpers.batch()
    plain = live_kd(helpers, kd_lambda=0.0).calculate_loss(batch)
    mean, total = (
        live_kd(helpers, kd_reduction=r, kd_lambda=0.5).calculate_loss(batch) - plain
        for r in ("mean", "sum")
    )
    assert mean > 0
    torch.testing.assert_close(total, len(batch) * mean, rtol=1e-3, atol=0)


def test_prediction_counts_nothing(helpers) -> None:
    model = helpers.choir().eval()
    model.predict(helpers.batch())
    assert model.epoch_diagnostics() == {}


def test_no_table_is_an_error_unless_nothing_reads_it(helpers) -> None:
    dataset = helpers.dataset(groups=None)
    with pytest.raises(ConfigError, match="ChoirRec: variant paper expects a semantic table"):
        helpers.choir(dataset=dataset)
    off = dict.fromkeys(("use_group_id", "use_group_attr", "use_group_seq"), False)
    assert torch.isfinite(helpers.choir(dataset=dataset, **off)(helpers.batch())).all()
    assert torch.isfinite(helpers.choir(dataset=dataset, variant="stats")(helpers.batch())).all()


def test_a_table_without_known_attributes_is_logged(helpers, caplog) -> None:
    dataset = helpers.dataset()
    dataset.model_inputs.groups.group_attr = {}
    with caplog.at_level(logging.WARNING):
        model = helpers.choir(dataset=dataset)
    assert "describes no loaded user field" in caplog.text
    assert torch.isfinite(model(helpers.batch())).all()


def test_mlp_attention_has_weights_of_its_own_per_channel(helpers) -> None:
    model = helpers.choir(att_type="mlp")
    own, group = model.history_attention.score, model.group_attention.score
    assert own is not group
    assert not torch.equal(own.first.weight, group.first.weight)
    assert helpers.choir().history_attention.query is not helpers.choir().group_attention.query


def test_padding_of_the_group_sequence_is_invisible(helpers) -> None:
    batch, dataset = helpers.batch(), helpers.dataset()
    groups = dataset.model_inputs.groups
    pad = torch.zeros(7, 3, dtype=torch.int32)
    groups.group_seq = torch.cat([pad, groups.group_seq], dim=1)
    padded, plain = helpers.choir(dataset=dataset).eval(), helpers.choir().eval()
    torch.testing.assert_close(padded(batch), plain(batch), rtol=0, atol=1e-6)
