"""Base: the encoding of the features. What every model must do: test_every_model.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import ContextRecommender
from recbole.utils import InputType, ModelType

from recbole_choir.errors import ConfigError
from recbole_choir.model.base_recommender import ChoirRecommender
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.context_aware_recommender.choirrec import ChoirRec


def test_class_attributes_that_recbole_reads() -> None:
    assert issubclass(ChoirRecommender, ContextRecommender)
    for cls in (ChoirRecommender, Base, ChoirRec):
        assert cls.type == ModelType.CONTEXT
        assert cls.input_type == InputType.POINTWISE
        assert cls.reads_model_inputs is True
    assert Base.__module__.endswith("context_aware_recommender.base")
    assert ChoirRec.__module__.endswith("context_aware_recommender.choirrec")


def test_recboles_own_tables_are_not_built(helpers) -> None:
    model = helpers.base()
    assert not hasattr(model, "token_embedding_table")
    assert not hasattr(model, "first_order_linear")


def test_input_is_the_concatenation_of_the_spec(helpers) -> None:
    """h0 = [e_u; user attributes; a_u; x_t; a_i; context; s; m], rebuilt from the tables."""
    model, batch = helpers.base(), helpers.batch()
    inputs = helpers.dataset().model_inputs
    user, item, history = batch["user_id"], batch["item_id"], batch["hist_items"]
    hobbies = inputs.user_features["hobbies"][user]
    hobby = model.user_bank.tables[2].weight[hobbies] * (hobbies > 0).unsqueeze(-1)
    e_user = torch.cat(
        [
            model.user_table.weight[user],
            model.user_bank.tables[0].weight[inputs.user_features["gender"][user]],
            inputs.user_features["age"][user].unsqueeze(1) * model.user_bank.tables[1].weight[0],
            hobby.sum(1) / (hobbies > 0).sum(1, keepdim=True).clamp_min(1),
            batch["user_stats"],
        ],
        dim=1,
    )
    x_t, x_h = model.item_encoder(item), model.item_encoder(history)  # [B, D], [B, L, D]
    valid = history > 0
    weights = helpers.default_weights(x_h, x_t, valid)
    mean = (x_h * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
    context = torch.cat(
        [
            model.context_bank.tables[0].weight[batch["hour"]],
            batch["discount"].unsqueeze(1) * model.context_bank.tables[1].weight[0],
        ],
        dim=1,
    )
    expected = torch.cat(
        [
            e_user, x_t, batch["item_stats"], context,
            (weights.unsqueeze(-1) * x_h).sum(1), mean,
        ],
        dim=1,
    )  # fmt: skip
    h0 = model.encode(batch, model.item_tokens(batch)).concat()
    assert h0.shape[1] == model.h0_width
    torch.testing.assert_close(h0, expected)


def test_logit_is_the_mlp_of_the_input(helpers) -> None:
    model, batch = helpers.base(), helpers.batch()
    x = model.encode(batch, model.item_tokens(batch)).concat()
    for layer in (
        model.individual.first[0],
        model.individual.hidden[0],
        model.individual.rest[0][0],
    ):
        x = torch.relu(layer(x))
    logit = model.individual.head(x).squeeze(1)
    torch.testing.assert_close(model(batch), logit)
    p = torch.sigmoid(logit)
    torch.testing.assert_close(model.predict(batch), p)
    y = batch["label"]
    bce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()  # Eq. 12
    torch.testing.assert_close(model.calculate_loss(batch), bce)


def test_group_statistics_reach_the_logit_only_when_asked(helpers) -> None:
    batch, other = helpers.batch(), helpers.batch()
    other.interaction["group_stats"] = other["group_stats"] + 1
    plain, with_stats = helpers.base(), helpers.base(use_group_stats=True)
    assert torch.equal(plain(batch), plain(other))
    assert (with_stats(batch) - with_stats(other)).abs().min() > 0
    assert with_stats.individual.first[0].in_features == plain.individual.first[0].in_features + 6


def test_width_multiplier_scales_the_tower(helpers) -> None:
    model = helpers.base(tower_width_multiplier=1.5)
    assert model.widths == (24, 18, 12)
    assert model.individual.first[0].out_features == 24


def test_an_unknown_user_or_item_is_the_zero_vector_and_stays_it(helpers) -> None:
    model, batch = helpers.base(), helpers.batch()
    features = model.encode(batch, model.item_tokens(batch))
    assert torch.equal(features.user[0, :16], torch.zeros(16))  # id and three attributes
    assert torch.equal(features.item_token[1], torch.zeros(model.item_encoder.width))
    optimiser = torch.optim.Adagrad(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model.calculate_loss(batch).backward()
        optimiser.step()
    for table in (model.user_table, model.item_encoder.id_table):
        assert torch.equal(table.weight[0], torch.zeros(4))
        assert table.weight[1:].abs().sum() > 0


def test_a_dataset_without_features_or_statistics_is_enough(helpers) -> None:
    from recbole_choir.data.schema import FeatureSchema, ModelInputs

    dataset = SimpleNamespace(model_inputs=ModelInputs(FeatureSchema(30, 40)))
    model = Base(helpers.config(), dataset)
    batch = helpers.batch()
    small = Interaction({k: batch[k] for k in ("user_id", "item_id", "label", "hist_items")})
    assert torch.isfinite(model.calculate_loss(small))
    assert model.h0_width == 4 + 4 + 8


def test_a_foreign_dataset_is_refused(helpers) -> None:
    with pytest.raises(
        ConfigError, match=r"Base: expected a dataset with model_inputs.*got Simple"
    ):
        Base(helpers.config(), SimpleNamespace())


def test_group_statistics_that_are_not_there_are_an_error(helpers) -> None:
    from recbole_choir.data.schema import FeatureSchema, ModelInputs

    dataset = SimpleNamespace(model_inputs=ModelInputs(FeatureSchema(30, 40)))
    with pytest.raises(ConfigError, match=r"use_group_stats expects.*group_stats: True"):
        Base(helpers.config(use_group_stats=True), dataset)


def test_what_base_needs(helpers) -> None:
    assert Base.needs({}) == frozenset()
    assert Base.needs({"use_group_stats": True}) == {"groups", "group_stats"}
    both = {"use_lifts": True, "use_own_scores": True}
    assert Base.needs(both) == {"groups", "lifts", "own_scores"}


def test_one_tower_with_lifts_is_base_with_more_columns(helpers) -> None:
    batch, base = helpers.batch(), helpers.base()
    model = helpers.base(seed=3, use_lifts=True, use_own_scores=True)
    state = base.state_dict()
    first = model.individual.first[0].weight
    wide = torch.zeros_like(first)
    wide[:, : state["individual.first.0.weight"].shape[1]] = state["individual.first.0.weight"]
    model.load_state_dict({**state, "individual.first.0.weight": wide})
    assert first.shape[1] == base.individual.first[0].in_features + 3 + 2
    torch.testing.assert_close(model(batch), base(batch))  # weights of zero: nothing is added
    with torch.no_grad():
        first[:, -5:] = 1.0
    for name in ("lifts", "own_scores"):
        other = helpers.batch()
        other.interaction[name] = helpers.batch(seed=9)[name]
        assert not torch.equal(model(other), model(batch)), name
