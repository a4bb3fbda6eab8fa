"""ColdTransformer: labelled behaviour adapts every user's embedding, and no candidate does."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.context_aware_recommender.coldtransformer import ColdTransformer


def cold(helpers: Any, awake: bool = True, **settings: Any) -> ColdTransformer:
    """A model whose adaption has left its start at zero."""
    model = helpers.build(ColdTransformer, **{"ct_size": 8, "ct_dropout": 0.0, **settings})
    if awake:
        torch.manual_seed(1)
        parts = [model.adaption[-1]] if model.adaption is not None else []
        parts += [model.further] if not model.two_tower else []
        with torch.no_grad():
            for part in parts:
                for p in part.parameters():
                    p.normal_(std=0.3)
    return model


def changed(batch: Interaction, **columns: torch.Tensor) -> Interaction:
    return Interaction({**batch.interaction, **columns})


def context(model: ColdTransformer, batch: Interaction) -> torch.Tensor:
    return model.context(batch, model.item_tokens(batch))


def sampled(helpers: Any) -> Any:
    dataset = helpers.dataset()
    dataset.model_inputs.sampled_negatives = True
    return dataset


# --- embedding adaption -------------------------------------------------------------------------


def test_it_starts_as_base_bit_for_bit(helpers) -> None:
    base, batch = helpers.build(Base), helpers.batch()
    model = cold(helpers, awake=False)
    for name, value in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(model(batch), base(batch))
    assert not torch.equal(cold(helpers)(batch), base(batch))


def test_every_field_is_adapted_by_the_same_network(helpers) -> None:
    """V' = V + EA([V; c]) for the id and each attribute; the statistics stay."""
    model, batch = cold(helpers), helpers.batch()
    user = model.encode(batch, model.item_tokens(batch)).user
    c = context(model, batch)
    adapted = model.adapt(user, c)
    assert user.shape[1] == 4 * 4 + 5
    for f in range(4):
        v = user[:, 4 * f : 4 * f + 4]
        hidden = torch.relu(model.adaption[0][0](torch.cat([v, c], dim=1)))
        expected = v + model.adaption[1](hidden)
        torch.testing.assert_close(adapted[:, 4 * f : 4 * f + 4], expected)
    assert torch.equal(adapted[:, 16:], user[:, 16:])


def test_adapted_fields_and_context_reach_the_tower(helpers) -> None:
    model, batch = cold(helpers), helpers.batch()
    features = model.encode(batch, model.item_tokens(batch))
    c = context(model, batch)
    h0 = torch.cat([model.adapt(features.user, c), *features[1:]], dim=1)
    first = model.individual.first[0](h0) + c @ model.further.weight.T
    expected = model.individual.logit(torch.relu(first))
    torch.testing.assert_close(model(batch), expected)


def test_the_control_has_the_sequence_but_no_adaption(helpers) -> None:
    model, batch = cold(helpers, ct_adaptation=False), helpers.batch()
    features = model.encode(batch, model.item_tokens(batch))
    c = context(model, batch)
    expected = model.individual(features.concat(), c @ model.further.weight.T)
    torch.testing.assert_close(model(batch), expected)


def test_all_users_are_adapted_in_training_as_in_evaluation(helpers) -> None:
    model, batch = cold(helpers), helpers.batch()
    trained = model.train()(batch)
    torch.testing.assert_close(model.eval()(batch), trained)
    user = model.encode(batch, model.item_tokens(batch)).user
    moved = (model.adapt(user, context(model, batch)) - user).abs().sum(1)
    assert (moved > 0).all(), "users with many events as well as users with none"


# --- label encoding -----------------------------------------------------------------------------


def test_context_by_hand(helpers) -> None:
    model, batch = cold(helpers), helpers.batch()
    found = context(model, batch)
    for row in (1, 4, 8):
        valid = batch["labelled_items"][row] > 0
        items, labels = (batch[n][row][valid] for n in ("labelled_items", "hist_labels"))
        z = model.item_encoder(items) @ model.project.T + model.labels[labels.long()]
        states = model.encoder(z.unsqueeze(0), torch.ones(1, len(items), dtype=torch.bool))
        torch.testing.assert_close(found[row], states[0].mean(0))
    assert torch.equal(found[~(batch["labelled_items"] > 0).any(1)].abs().sum(), torch.tensor(0.0))


def test_one_flipped_label_changes_the_context(helpers) -> None:
    model, batch = cold(helpers), helpers.batch()
    labels = batch["hist_labels"].clone()
    labels[:, 0] = 1 - labels[:, 0]
    before, after = context(model, batch), context(model, changed(batch, hist_labels=labels))
    has = batch["labelled_items"][:, 0] > 0
    assert ((before - after).abs().sum(1) > 1e-4).equal(has)


def test_labels_join_the_sequence_and_never_the_target(helpers) -> None:
    model, batch = cold(helpers), helpers.batch()
    before = model.encode(batch, model.item_tokens(batch)).item_token
    with torch.no_grad():
        model.labels.add_(1.0)
    assert torch.equal(model.encode(batch, model.item_tokens(batch)).item_token, before)


def test_the_candidate_reaches_no_context(helpers) -> None:
    for head in ("base", "two_tower"):
        model, batch = cold(helpers, ct_head=head), helpers.batch()
        other = changed(batch, item_id=batch["item_id"].flip(0), label=1 - batch["label"])
        assert torch.equal(context(model, other), context(model, batch))


def test_sampled_negatives_leave_positives_with_a_constant_label(helpers, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        model = cold(helpers, dataset=sampled(helpers), labelled_history=False)
    assert "negatives are sampled" in caplog.text
    assert model.notes == (
        "ColdTransformer: the dataset's negatives are sampled, none was "
        "observed: its fused sequence holds positives only, with one constant label encoding",
    )
    batch = helpers.batch()
    items, labels = model.fused(batch)
    assert torch.equal(items.sort(1).values, batch["hist_items"].sort(1).values)
    assert labels.unique().tolist() == [1]
    other = changed(
        batch, labelled_items=batch["labelled_items"] * 0, hist_labels=batch["hist_labels"] * 0
    )
    assert torch.equal(model(other), model(batch)), "what was drawn is not read"
    assert cold(helpers).notes == ()


def test_observed_negatives_need_the_labelled_history(helpers) -> None:
    with pytest.raises(ConfigError, match="expected labelled_history: True"):
        cold(helpers, labelled_history=False)


# --- two towers ---------------------------------------------------------------------------------


def test_two_towers_meet_in_a_product(helpers) -> None:
    model, batch = cold(helpers, ct_head="two_tower"), helpers.batch()
    items = model.item_tokens(batch)
    user, item = model.user_vector(batch, items), model.item_vector(batch, items)
    with torch.no_grad():
        model.bias.fill_(-0.7)
    torch.testing.assert_close(model(batch), (user * item).sum(1) - 0.7)
    assert user.shape == item.shape == (64, 8)


def test_the_user_vector_is_the_same_for_all_targets(helpers) -> None:
    model, batch = cold(helpers, ct_head="two_tower"), helpers.batch()
    other = changed(batch, item_id=batch["item_id"].flip(0), item_stats=batch["item_stats"] + 1)
    user = model.user_vector(batch, model.item_tokens(batch))
    assert torch.equal(model.user_vector(other, model.item_tokens(other)), user)
    assert not torch.equal(model(other), model(batch))
    stats = changed(batch, user_stats=batch["user_stats"] + 1, hour=(batch["hour"] + 1) % 4)
    items = model.item_tokens(stats)
    assert torch.equal(model.item_vector(stats, items), model.item_vector(batch, items))


def test_settings_are_checked(helpers) -> None:
    with pytest.raises(ConfigError, match="ct_size: expected a multiple of ct_heads"):
        cold(helpers, ct_size=9)
    with pytest.raises(ConfigError, match="use_group_stats: expected False with ct_head"):
        cold(helpers, ct_head="two_tower", use_group_stats=True)
