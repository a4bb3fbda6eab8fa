"""Decay of embeddings: which weights, and what skipped rows do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.errors import ConfigError
from recbole_choir.integration.optimizer import (
    LazyDecay,
    build_optimizer,
    embedding_parameters,
    parameter_groups,
    shrunk,
)
from recbole_choir.integration.trainer import ChoirTrainer
from recbole_choir.model.layers.field_embedding import FieldEmbedding


class Model(nn.Module):
    """A table of ours, one of PyTorch's, and a tower."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = FieldEmbedding(Field("item", "token", 5), 2)
        self.theirs = nn.Embedding(4, 2)
        self.tower = nn.Linear(4, 1)

    def forward(self, item: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self.tower(torch.cat([self.ours(item), self.theirs(other)], dim=-1)).squeeze(-1)


def test_tables_have_a_decay_of_their_own() -> None:
    model = Model()
    tables = embedding_parameters(model)
    assert [id(t) for t in tables] == [id(model.ours.weight), id(model.theirs.weight)]
    rest, own = parameter_groups(model, 0.1, 0.01)
    assert [id(p) for p in rest["params"]] == [id(p) for p in model.tower.parameters()]
    assert (rest["weight_decay"], own["weight_decay"]) == (0.1, 0.01)
    (one,) = parameter_groups(model, 0.1, None)
    assert len(one["params"]) == 4
    assert one["weight_decay"] == 0.1


def test_an_unknown_learner_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"learner: expected one of .* got 'adagrat' .did you mean"
    ):
        build_optimizer("adagrat", [nn.Parameter(torch.zeros(1))], 0.1, 0.0)


def test_adams_l2_moves_a_skipped_row_by_the_rate_whatever_the_decay() -> None:
    """What the closed form is made after: the step of an untouched row under Adam."""
    for decay in (1e-4, 1e-2):
        table = nn.Parameter(torch.tensor([[0.5, -0.5]]))
        optimiser = build_optimizer("adam", [table], 0.01, decay)
        for step in range(1, 6):
            table.grad = torch.zeros_like(table)
            optimiser.step()
            moved = 0.5 - 0.01 * step
            torch.testing.assert_close(
                table.detach(), torch.tensor([[moved, -moved]]), rtol=0, atol=2e-4
            )


def test_lazy_decay_by_hand() -> None:
    """SGD at .1, decay .5: a touched row gets g + .5 w, a skipped one moves by .1."""
    table = nn.Parameter(torch.tensor([[1.0, -2.0], [1.0, -0.05], [0.0, 0.3]]))
    decay = LazyDecay([table], 0.5)
    optimiser = build_optimizer("sgd", [table], 0.1, 0.0)
    table.grad = torch.tensor([[0.2, 0.0], [0.0, 0.0], [0.0, 0.0]])
    decay.before_step()
    torch.testing.assert_close(table.grad[0], torch.tensor([0.2 + 0.5, -1.0]))
    assert torch.equal(table.grad[1:], torch.zeros(2, 2))
    optimiser.step()
    decay.after_step(0.1)
    expected = torch.tensor([[1 - 0.07, -2 + 0.1], [0.9, 0.0], [0.0, 0.2]])
    torch.testing.assert_close(table.detach(), expected)


def test_no_decay_changes_nothing() -> None:
    table = nn.Parameter(torch.ones(2, 2))
    decay = LazyDecay([table], 0.0)
    table.grad = torch.zeros(2, 2)
    decay.before_step()
    decay.after_step(0.1)
    assert torch.equal(table.detach(), torch.ones(2, 2))


@given(
    weight=st.floats(-2, 2, width=32),
    rates=st.lists(st.floats(0, 0.5, width=32), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_many_skipped_steps_are_one_with_the_sum_of_their_rates(
    weight: float, rates: list[float]
) -> None:
    """The closed form: a counter of the last touch is enough."""
    one_by_one = torch.tensor([weight], dtype=torch.float64)
    for rate in rates:
        one_by_one = shrunk(one_by_one, rate)
    at_once = shrunk(torch.tensor([weight], dtype=torch.float64), math.fsum(rates))
    torch.testing.assert_close(one_by_one, at_once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["l2", "lazy"])
def test_rare_ids_are_switched_off_and_frequent_ones_live(form: str) -> None:
    """200 steps of Adam: id 1 in every batch, id 2 in the first alone."""
    torch.manual_seed(0)
    model = Model()
    with torch.no_grad():
        model.ours.weight.copy_(torch.full((5, 2), 0.3))
    lazy = form == "lazy"
    decay = LazyDecay(embedding_parameters(model), 1e-4 if lazy else 0.0)
    groups = parameter_groups(model, 0.0, 0.0 if lazy else 1e-4)
    optimiser = build_optimizer("adam", groups, 0.01, 0.0)
    for step in range(200):
        item = torch.tensor([1, 1, 2 if step == 0 else 1])
        optimiser.zero_grad()
        loss = (model(item, torch.zeros(3, dtype=torch.long)) - 2).square().mean()
        loss.backward()
        decay.before_step()
        optimiser.step()
        decay.after_step(0.01)
    length = model.ours.weight.detach().norm(dim=1)
    assert length[1] > 0.3, "frequent"
    assert length[3] < 0.02, "never seen"
    if lazy:  # under Adam its row waits until the size of its one gradient is forgotten
        assert length[2] < 0.02, "rare"


def test_the_trainer_decays_tables_alone(make_config: Any, make_model: Any) -> None:
    model = make_model()
    model.table = nn.Embedding(3, 2)
    trainer = ChoirTrainer(make_config(weight_decay=0.1, embedding_decay=0.02), model)
    decays = {id(p): g["weight_decay"] for g in trainer.optimizer.param_groups for p in g["params"]}
    tables = {id(t) for t in embedding_parameters(model)}
    assert id(model.table.weight) in tables
    assert {decays[t] for t in tables} == {0.02}
    assert {d for p, d in decays.items() if p not in tables} == {0.1}
    assert trainer.lazy_decay.tables == []
    lazy = make_config(weight_decay=0.1, embedding_decay=0.02, embedding_decay_form="lazy")
    trainer = ChoirTrainer(lazy, model)
    assert {id(t) for t in trainer.lazy_decay.tables} == tables
    assert {g["weight_decay"] for g in trainer.optimizer.param_groups} == {0.1, 0.0}
