"""Base: the encoding of the features and the properties every model must have."""

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

VARIANTS = [
    pytest.param(Base, {}, id="base"),
    pytest.param(Base, {"att_type": "mlp", "use_group_stats": True}, id="base-mlp-stats"),
    pytest.param(ChoirRec, {}, id="paper"),
    pytest.param(ChoirRec, {"att_type": "mlp"}, id="paper-mlp"),
    pytest.param(ChoirRec, {"variant": "released"}, id="released"),
    pytest.param(ChoirRec, {"variant": "stats"}, id="stats"),
    pytest.param(ChoirRec, {"use_dual_channel": False, "use_group_stats": True}, id="one-tower"),
    pytest.param(
        ChoirRec,
        {"attr_impute": True, "kd_loss": "kl", "kd_alpha_mode": "selfnorm", "aux_bce": 0.3},
        id="everything",
    ),
    pytest.param(ChoirRec, {"kd_alpha_mode": "detach", "fusion_gate": 0.5}, id="constant-gates"),
]


def make(helpers, cls: type, settings: dict, **more) -> torch.nn.Module:
    kind = helpers.base if cls is Base else helpers.choir
    return kind(**settings, **more)


def rows(batch: Interaction, index: torch.Tensor) -> Interaction:
    return Interaction({k: v[index] for k, v in batch.interaction.items()})


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
    scores = (x_h * x_t.unsqueeze(1)).sum(-1) / x_t.shape[1] ** 0.5  # W_q is the identity
    weights = torch.softmax(scores.masked_fill(~valid, -1e30), dim=1) * valid
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


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_a_row_alone_scores_as_in_a_batch(helpers, cls: type, settings: dict) -> None:
    # 1e-6: matrix products of another size may add in another order.
    model, batch = make(helpers, cls, settings).eval(), helpers.batch()
    together = model.predict(batch)
    alone = torch.cat([model.predict(rows(batch, torch.tensor([i]))) for i in range(len(batch))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_padding_is_invisible(helpers, cls: type, settings: dict) -> None:
    model, batch = make(helpers, cls, settings).eval(), helpers.batch()
    wider = helpers.batch()
    history = torch.cat([torch.zeros(64, 2, dtype=torch.long), batch["hist_items"]], dim=1)
    wider.interaction["hist_items"] = history
    torch.testing.assert_close(model(wider), model(batch), rtol=0, atol=1e-6)
    if model.settings.use_group_seq if cls is ChoirRec else False:
        dataset = helpers.dataset()
        groups = dataset.model_inputs.groups
        pad = torch.zeros(7, 3, dtype=torch.int32)
        groups.group_seq = torch.cat([pad, groups.group_seq], dim=1)
        padded = make(helpers, cls, settings, dataset=dataset).eval()
        torch.testing.assert_close(padded(batch), model(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_order_of_padding_and_hist_len_do_not_matter(helpers, cls: type, settings: dict) -> None:
    model, batch = make(helpers, cls, settings).eval(), helpers.batch()
    moved = helpers.batch()
    moved.interaction["hist_items"] = batch["hist_items"].flip(1)  # sum and mean know no order
    moved.interaction["hist_len"] = torch.zeros(64, dtype=torch.long)
    torch.testing.assert_close(model(moved), model(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_empty_histories_unknown_ids_and_no_group_are_finite(
    helpers, cls: type, settings: dict
) -> None:
    model, batch = make(helpers, cls, settings), helpers.batch()
    batch.interaction["hist_items"] = torch.zeros(64, 6, dtype=torch.long)
    batch.interaction["snapshot"] = torch.zeros(64, dtype=torch.long)
    batch.interaction["user_id"] = torch.zeros(64, dtype=torch.long)
    batch.interaction["item_id"] = torch.zeros(64, dtype=torch.long)
    loss = model.calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.isfinite(p.grad).all(), name


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


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_same_seed_same_bits(helpers, cls: type, settings: dict) -> None:
    def train() -> list[torch.Tensor]:
        model = make(helpers, cls, settings, dropout_prob=0.2)
        optimiser = torch.optim.Adagrad(model.parameters(), lr=0.01)
        for seed in range(3):
            optimiser.zero_grad()
            model.calculate_loss(helpers.batch(seed=seed)).backward()
            optimiser.step()
        return [p.detach() for p in model.parameters()]

    first, second = train(), train()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_state_dict_round_trip_gives_the_same_scores(
    helpers, cls: type, settings: dict, tmp_path
) -> None:
    model, batch = make(helpers, cls, settings).eval(), helpers.batch()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = make(helpers, cls, settings, seed=5).eval()
    assert not torch.equal(other.predict(batch), model.predict(batch))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(other.predict(batch), model.predict(batch))


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_steps_on_one_batch_lower_its_loss(helpers, cls: type, settings: dict) -> None:
    model, batch = make(helpers, cls, settings), helpers.batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model.calculate_loss(batch)
    before.backward()
    optimiser.step()
    assert model.calculate_loss(batch).item() < before.item()


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_every_trainable_parameter_is_used(helpers, cls: type, settings: dict) -> None:
    """A parameter without gradient would hang distributed training."""
    model = make(helpers, cls, settings)
    model.calculate_loss(helpers.batch()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


@pytest.mark.parametrize(("cls", "settings"), VARIANTS)
def test_the_label_reaches_no_score(helpers, cls: type, settings: dict) -> None:
    model, batch = make(helpers, cls, settings).eval(), helpers.batch()
    flipped = helpers.batch()
    flipped.interaction["label"] = 1 - batch["label"]
    assert torch.equal(model.predict(flipped), model.predict(batch))


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
