"""POSO: gates of their own for every layer, from activity alone, after the activation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.data.schema import FeatureSchema, ModelInputs
from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.context_aware_recommender.poso import POSO


def poso(helpers: Any, awake: bool = True, **settings: Any) -> POSO:
    """A model whose gates no longer stand at their start."""
    model = helpers.build(POSO, **settings)
    if awake:
        torch.manual_seed(1)
        with torch.no_grad():
            for name, p in model.gates.named_parameters():
                if "others" not in name:
                    p.normal_(std=0.3)
    return model


def changed(batch: Interaction, **columns: torch.Tensor) -> Interaction:
    return Interaction({**batch.interaction, **columns})


def gates(model: POSO, batch: Interaction) -> list[torch.Tensor]:
    return [gate(model.personalization_code(batch)) for gate in model.gates.gates]


def test_it_starts_as_base_bit_for_bit(helpers) -> None:
    base, batch = helpers.build(Base), helpers.batch()
    model = poso(helpers, awake=False)
    for name, value in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(model(batch), base(batch))
    assert not torch.equal(poso(helpers)(batch), base(batch))


def test_logit_is_that_of_equation_11(helpers) -> None:
    """x <- C g_l(pc) * act(W_l x): the gate after the activation, none on the logit."""
    model, batch = poso(helpers), helpers.batch()
    x = model.h0(batch, model.encode(batch, model.item_tokens(batch)))
    code = torch.cat([batch["user_stats"], batch["item_stats"]], dim=1)
    tower = model.individual
    for linear, gate in zip(
        (tower.first[0], tower.hidden[0], tower.rest[0][0]), model.gates.gates, strict=True
    ):
        hidden = torch.relu(gate.net[0](code))
        x = 2 * torch.sigmoid(gate.net[1](hidden)) * torch.relu(linear(x))
    torch.testing.assert_close(model(batch), tower.head(x).squeeze(1))


def test_gates_lie_between_0_and_c_and_differ_by_unit_and_layer(helpers) -> None:
    model, batch = poso(helpers, poso_scale=1.5), helpers.batch()
    found = gates(model, batch)
    assert [g.shape[1] for g in found] == [16, 12, 8], "a factor a unit, not a scalar a layer"
    for g in found:
        assert (g > 0).all()
        assert (g < 1.5).all()
        assert (g.std(dim=1) > 0.05).all()
        assert (g.sum(1) - g.sum(1).mean()).abs().max() > 0.1, "no softmax"
    parameters = [{id(p) for p in gate.parameters()} for gate in model.gates.gates]
    assert not parameters[0] & parameters[1] | parameters[1] & parameters[2]


@pytest.mark.parametrize(
    ("code", "seen"),
    [("user", ["user_stats"]), ("item", ["item_stats"]), ("both", ["user_stats", "item_stats"])],
)
def test_gates_see_the_code_alone(helpers, code: str, seen: list[str]) -> None:
    model, batch = poso(helpers, poso_pc=code), helpers.batch()
    found = gates(model, batch)
    for column in batch.interaction:
        moved = batch[column] + 1 if batch[column].is_floating_point() else batch[column].flip(0)
        other = gates(model, changed(batch, **{column: moved}))
        assert all(torch.equal(a, b) for a, b in zip(found, other)) == (column not in seen), column
    sum(g.sum() for g in found).backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {n for n, _ in model.named_parameters() if n.startswith("gates.")}


def test_another_code_is_another_score(helpers) -> None:
    """The code reaches the logit through the gates, next to the main input."""
    model, batch = poso(helpers), helpers.batch()
    x = model.h0(batch, model.encode(batch, model.item_tokens(batch)))
    code = model.personalization_code(batch)
    logit = model.gates(model.individual, x, code)
    assert (model.gates(model.individual, x, code.flip(0)) - logit).abs().mean() > 0.01


def test_naive_mode_with_open_gates_is_the_sum_of_its_towers(helpers) -> None:
    model, batch = poso(helpers, awake=False, poso_mode="naive", poso_scale=0.7), helpers.batch()
    x = model.h0(batch, model.encode(batch, model.item_tokens(batch)))
    towers = [model.individual, *model.gates.others]
    assert len(towers) == 3
    total = sum(tower(x) for tower in towers)
    torch.testing.assert_close(model(batch), 0.7 * 0.5 * total)
    with torch.no_grad():
        model.gates.gate.net[-1].bias.fill_(30.0)  # a sigmoid of 1
    torch.testing.assert_close(model(batch), 0.7 * total)


def test_naive_mode_starts_at_the_mean_of_its_towers(helpers) -> None:
    model, batch = poso(helpers, awake=False, poso_mode="naive", poso_towers=4), helpers.batch()
    x = model.h0(batch, model.encode(batch, model.item_tokens(batch)))
    towers = torch.stack([tower(x) for tower in (model.individual, *model.gates.others)])
    torch.testing.assert_close(model(batch), 0.25 * towers.sum(0))


def test_group_statistics_join_the_input_as_in_base(helpers) -> None:
    batch = helpers.batch()
    model = poso(helpers, awake=False, use_group_stats=True)
    assert torch.equal(model(batch), helpers.build(Base, use_group_stats=True)(batch))


def test_a_dataset_without_statistics_is_refused(helpers) -> None:
    dataset = helpers.dataset()
    dataset.model_inputs = ModelInputs(FeatureSchema(30, 40))
    with pytest.raises(ConfigError, match="POSO: expected activity statistics"):
        helpers.build(POSO, dataset=dataset)


def test_settings_are_checked(helpers) -> None:
    with pytest.raises(ConfigError, match="poso_pc: expected one of both, user, item"):
        helpers.build(POSO, poso_pc="users")
