"""TailNet: one factor for head and tail, from the history alone, on the affinity alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.context_aware_recommender.tailnet import AdditiveAttention, TailNet


def tailnet(helpers: Any, **settings: Any) -> TailNet:
    """A model whose factors are far from .5."""
    model = helpers.build(TailNet, tailnet_hidden=6, **settings)
    torch.manual_seed(1)
    with torch.no_grad():
        model.factor.weight.normal_(std=3.0)
    return model


def changed(batch: Interaction, **columns: torch.Tensor) -> Interaction:
    return Interaction({**batch.interaction, **columns})


def session(model: TailNet, batch: Interaction) -> Any:
    return model.session(batch, model.item_tokens(batch))


def affinity(model: TailNet, batch: Interaction) -> torch.Tensor:
    token = model.item_encoder(batch["item_id"])
    return (session(model, batch).interest * (token @ model.candidate.T)).sum(1)


def base_logit(model: TailNet, batch: Interaction) -> torch.Tensor:
    features = model.encode(batch, model.item_tokens(batch))
    return model.individual(model.h0(batch, features))


def test_attention_by_hand_and_of_nothing() -> None:
    torch.manual_seed(0)
    layer = AdditiveAttention(3)
    states, mask = torch.randn(2, 4, 3), torch.tensor([[True, True, False, False], [False] * 4])
    pooled = layer(states[:, 1], states, mask)
    w1, b, w2 = layer.last.weight, layer.last.bias, layer.each
    scores = [
        layer.query @ torch.sigmoid(w1 @ states[0, 1] + w2 @ states[0, j] + b) for j in (0, 1)
    ]
    beta = torch.softmax(torch.stack(scores), dim=0)
    torch.testing.assert_close(pooled[0], beta @ states[0, :2])
    assert torch.equal(pooled[1], torch.zeros(3))


def test_logit_is_base_plus_the_rectified_affinity(helpers) -> None:
    model, batch = tailnet(helpers), helpers.batch()
    tail = helpers.dataset().model_inputs.activity.tail_item[batch["item_id"]]
    r_head = session(model, batch).r_head
    r = torch.where(tail, 1 - r_head, r_head)
    expected = base_logit(model, batch) + r * affinity(model, batch)
    torch.testing.assert_close(model(batch), expected)
    base = helpers.build(Base)
    assert torch.equal(base_logit(model, batch), base(batch)), "z_Base is Base's, bit for bit"
    assert 10 < tail.sum() < 54


def test_session_by_hand(helpers) -> None:
    """The GRU's states over the items in order, ones added to those of tail items."""
    model, batch = tailnet(helpers), helpers.batch()
    tail = helpers.dataset().model_inputs.activity.tail_item
    found = session(model, batch)
    for row in (0, 5, 9):
        items = [i for i in batch["hist_items"][row].tolist() if i]
        assert items
        states, _ = model.gru(model.item_encoder(torch.tensor([items])))
        typed = states + torch.tensor([[[float(tail[i])] for i in items]])
        every = torch.ones(1, len(items), dtype=torch.bool)
        c = model.preference(typed[:, -1], typed, every)
        r_head = torch.sigmoid(c @ model.factor.weight[0] + model.factor.bias)
        pooled = model.attention(states[:, -1], states, every)
        interest = model.interest @ torch.cat([pooled[0], states[0, -1]])
        torch.testing.assert_close(found.r_head[row], r_head[0])
        torch.testing.assert_close(found.interest[row], interest)


def test_factors_are_probabilities_that_add_up_to_one(helpers) -> None:
    model, batch = tailnet(helpers), helpers.batch()
    r_head = session(model, batch).r_head
    assert (r_head > 0).all()
    assert (r_head < 1).all()
    assert r_head.std() > 0.1
    head, tail = (torch.nonzero(model.tail == t)[1, 0].expand(64) for t in (False, True))
    r = [model.rectification(changed(batch, item_id=i), r_head) for i in (head, tail)]
    torch.testing.assert_close(r[0] + r[1], torch.ones(64))
    assert torch.equal(r[0], r_head)


def test_the_candidate_reaches_no_factor(helpers) -> None:
    model, batch = tailnet(helpers), helpers.batch()
    other = changed(batch, item_id=batch["item_id"].flip(0), item_stats=batch["item_stats"] + 1)
    assert torch.equal(session(model, other).r_head, session(model, batch).r_head)
    assert torch.equal(session(model, other).interest, session(model, batch).interest)


def test_the_type_of_the_candidate_changes_the_rectified_term_alone(helpers) -> None:
    model, batch = tailnet(helpers), helpers.batch()
    before, r_head = model(batch), session(model, batch).r_head
    own = model.tail[batch["item_id"]]
    target = torch.zeros_like(model.tail).scatter_(0, batch["item_id"], True)
    plain = affinity(model, batch)
    # Flip the type of candidates that stand in no history: the histories keep theirs.
    target &= ~torch.zeros_like(target).scatter_(0, batch["hist_items"].flatten(), True)
    model.tail ^= target
    flipped = target[batch["item_id"]]
    sign = torch.where(own, 1.0, -1.0)  # R_head - R_tail, or the other way round
    expected = before + flipped * sign * (2 * r_head - 1) * plain
    torch.testing.assert_close(model(batch), expected)


def test_factors_of_one_half_halve_every_affinity(helpers) -> None:
    model, batch = tailnet(helpers), helpers.batch()
    with torch.no_grad():
        model.factor.weight.zero_()
        model.factor.bias.zero_()
    expected = base_logit(model, batch) + 0.5 * affinity(model, batch)
    torch.testing.assert_close(model(batch), expected)


def test_an_empty_history_has_no_preference_and_is_base(helpers) -> None:
    model, base = tailnet(helpers), helpers.build(Base)
    with torch.no_grad():
        model.factor.bias.fill_(2.0)
    batch = helpers.batch()
    empty = changed(batch, hist_items=torch.zeros_like(batch["hist_items"]))
    assert torch.equal(session(model, empty).r_head, torch.full((64,), 0.5))
    assert torch.equal(model(empty), base(empty))
    assert not torch.equal(model(batch), base(batch))


def test_tail_flags_are_those_of_the_training_rows(helpers) -> None:
    dataset = helpers.dataset()
    model = tailnet(helpers, dataset=dataset)
    assert torch.equal(model.tail, dataset.model_inputs.activity.tail_item)
    assert "tail" not in model.state_dict(), "of the dataset, not of the weights"


def test_pure_is_the_affinity_and_a_bias(helpers) -> None:
    model, batch = tailnet(helpers, tailnet_pure=True), helpers.batch()
    with torch.no_grad():
        model.bias.fill_(-1.5)
    r = model.rectification(batch, session(model, batch).r_head)
    torch.testing.assert_close(model(batch), r * affinity(model, batch) - 1.5)
    other = changed(batch, user_id=batch["user_id"].flip(0), user_stats=batch["user_stats"] + 1)
    assert torch.equal(model(other), model(batch)), "a session-only model"


def test_a_dataset_without_tail_flags_is_refused(helpers) -> None:
    assert TailNet.needs({}) == {"activity"}
    dataset = helpers.dataset()
    dataset.model_inputs.activity = None
    with pytest.raises(ConfigError, match="TailNet: expected a dataset with activity"):
        helpers.build(TailNet, dataset=dataset)
