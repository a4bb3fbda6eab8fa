"""UIE: memories that follow a balanced stream, read by similarity, trained by no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.context_aware_recommender.uie import (
    UIE,
    BalancedSample,
    CentroidMemory,
    CrossAttention,
    activity_types,
)

MEMORIES = ("profiles", "behaviours", "items")


def uie(helpers: Any, **settings: Any) -> UIE:
    return helpers.build(UIE, **{"uie_size": 4, "uie_hidden": [6], "uie_top_k": 3, **settings})


def changed(batch: Interaction, **columns: torch.Tensor) -> Interaction:
    return Interaction({**batch.interaction, **columns})


def memory(centroids: list[list[float]], rate: float = 0.1, top_k: int = 2) -> CentroidMemory:
    layer = CentroidMemory(len(centroids), len(centroids[0]), rate, top_k)
    layer.centroids.copy_(torch.tensor(centroids))
    return layer


# --- the memory --------------------------------------------------------------------------------


def test_only_assigned_centroids_move_by_exactly_rho_of_the_gap() -> None:
    layer = memory([[0.0, 0.0], [4.0, 4.0], [-9.0, 0.0]], rate=0.25)
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [5.0, 5.0], [-9.0, 9.0]])
    layer.follow(vectors, torch.tensor([True, True, True, True, False]))
    # mean of (1, 0) and (0, 2) for the first, of (3, 4) and (5, 5) for the second
    expected = [[0.125, 0.25], [4.0, 4.125], [-9.0, 0.0]]
    torch.testing.assert_close(layer.centroids, torch.tensor(expected))
    assert layer.hits.tolist() == [2.0, 2.0, 0.0]


def test_reading_by_hand() -> None:
    layer = memory([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.5, 0.0]], top_k=3)
    found = layer.read(torch.tensor([[1.0, 0.5]]))  # similarities 1, 1, -3, .5
    a = torch.softmax(torch.tensor([1.0, 1.0, 0.5]), dim=0)
    expected = a[0] * torch.tensor([1.0, 0]) + a[1] * torch.tensor([0, 2.0])
    torch.testing.assert_close(found.vector[0], expected + a[2] * torch.tensor([0.5, 0]))
    assert found.centroids.shape == (1, 3, 2)


def test_a_negative_similarity_contributes_nothing() -> None:
    layer = memory([[1.0, 0.0], [-1.0, 0.0]], top_k=2)
    found = layer.read(torch.tensor([[2.0, 0.0]]))
    assert torch.equal(found.vector, torch.tensor([[1.0, 0.0]])), "though it is among the top 2"
    assert found.mask.tolist() == [[True, False]]


def test_no_positive_similarity_reads_zero_and_has_a_finite_gradient() -> None:
    layer = memory([[1.0, 0.0], [1.0, 1.0]])
    vector = torch.tensor([[-1.0, 0.0], [0.0, -5.0]], requires_grad=True)
    found = layer.read(vector)
    assert torch.equal(found.vector, torch.zeros(2, 2))
    found.vector.sum().backward()
    assert torch.equal(vector.grad, torch.zeros(2, 2))


def test_dead_centroids_are_put_onto_vectors_of_the_next_epoch() -> None:
    layer = memory([[0.0, 0.0], [50.0, 0.0], [60.0, 0.0]], rate=0.5)
    layer.start_epoch()
    assert not layer.dead.any(), "before the first epoch nobody is dead"
    near = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    layer.follow(near, torch.tensor([True, True]))
    layer.start_epoch()
    assert layer.dead.tolist() == [False, True, True]
    assert layer.hits.tolist() == [0.0, 0.0, 0.0]
    layer.follow(near, torch.tensor([False, False]))
    assert layer.dead.tolist() == [False, True, True], "no vector, no place to go"
    layer.follow(
        torch.tensor([[9.0, 9.0], [8.0, 0.0], [0.0, 8.0]]), torch.tensor([False, True, True])
    )
    assert layer.centroids[1:].tolist() == [[8.0, 0.0], [0.0, 8.0]]
    assert not layer.dead.any()


def test_centroids_are_state_and_no_parameters(helpers) -> None:
    model = uie(helpers)
    for name in MEMORIES:
        assert f"{name}.centroids" in model.state_dict()
        assert f"{name}.hits" in model.state_dict()
    assert not [n for n, _ in model.named_parameters() if "centroids" in n]


def test_an_empty_sequence_pools_to_zero() -> None:
    attention = CrossAttention(3)
    mask = torch.tensor([[False, False], [True, False]])
    keys, values = torch.randn(2, 2, 3), torch.randn(2, 2, 5)
    attended = attention(torch.randn(2, 3), keys, values, mask)
    assert torch.equal(attended.pooled[0], torch.zeros(5))
    torch.testing.assert_close(attended.pooled[1], values[1, 0])
    assert attended.weights.tolist() == [[0.0, 0.0], [1.0, 0.0]]


# --- who moves them -----------------------------------------------------------------------------


def test_types_are_of_equal_size_with_new_users_among_the_least_active() -> None:
    rows = torch.tensor([0, 5, 1, 9, 0, 7, 7, 2])  # six users with rows
    assert activity_types(rows, 3).tolist() == [0, 1, 0, 2, 0, 1, 2, 0]


def test_sample_is_even_over_types() -> None:
    sample = BalancedSample(3, 4, seed=0)
    types = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    row, drawn = sample(types)
    assert row.shape == (12,)
    chosen = row[drawn]
    assert torch.bincount(types[chosen]).tolist() == [4, 4, 2]
    assert chosen.unique().numel() == 10
    again, _ = sample(types)
    assert not torch.equal(again, row), "other rows at another step"
    other = BalancedSample(3, 4, seed=0)
    assert torch.equal(other(types)[0], row)


def test_a_crowd_of_active_users_owns_no_more_centroids(helpers) -> None:
    """Copies of an active user's row leave the share of each type as it was."""
    model, batch = uie(helpers, uie_rows_per_type=2), helpers.batch()
    seen: list[torch.Tensor] = []
    model.profiles.follow = lambda vectors, valid: seen.append(valid)  # type: ignore[method-assign]
    crowd = torch.nonzero(model.user_type == 4)[0].expand(64).clone()
    crowd[:10] = batch["user_id"][:10]
    model.calculate_loss(changed(batch, user_id=crowd))
    kinds = model.user_type[crowd[:10]]
    present = set(kinds.tolist()) | {4}
    expected = sum(min(2, int((model.user_type[crowd] == k).sum())) for k in present)
    assert seen[0].sum() == expected <= 10


def test_memories_follow_users_with_and_items_from_histories(helpers) -> None:
    model, batch = uie(helpers, uie_rows_per_type=64), helpers.batch()
    model.calculate_loss(batch)
    has_history = (batch["hist_items"] > 0).any(1).sum()
    assert model.profiles.hits.sum() == 64
    assert model.behaviours.hits.sum() == has_history < 64
    assert model.items.hits.sum() == (batch["hist_items"] > 0).sum()
    before = [getattr(model, name).centroids.clone() for name in MEMORIES]
    model.eval()
    model.calculate_loss(batch)
    model.predict(batch)
    for name, centroids in zip(MEMORIES, before):
        assert torch.equal(getattr(model, name).centroids, centroids), "frozen in evaluation"


# --- the model ----------------------------------------------------------------------------------


def test_with_empty_memories_it_is_base_bit_for_bit(helpers) -> None:
    model, base, batch = uie(helpers), helpers.build(Base), helpers.batch()
    for name, value in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not torch.equal(model(batch), base(batch))
    for name in MEMORIES:
        getattr(model, name).centroids.zero_()
    assert torch.equal(model(batch), base(batch))


def test_enhancement_by_hand(helpers) -> None:
    model, batch = uie(helpers), helpers.batch()
    features = model.encode(batch, model.item_tokens(batch))
    vectors = model.vectors(features)
    has_history = (batch["hist_items"] > 0).any(1)
    found = model.enhancement(vectors, has_history)
    profile, behaviour, sequence = found.split(4, dim=1)
    torch.testing.assert_close(profile, model.profiles.read(vectors.profile).vector)
    own = model.behaviours.read(vectors.behaviour).vector
    torch.testing.assert_close(behaviour, own * has_history.unsqueeze(1))
    near = (vectors.profile @ model.items.centroids.T).topk(3, dim=1)
    keys, mask = model.items.centroids[near.indices], near.values > 0
    scores = (keys * vectors.item.unsqueeze(1)).sum(-1) / 2  # W is the identity, sqrt(4)
    weights = torch.softmax(scores.masked_fill(~mask, -1e30), dim=1) * mask
    torch.testing.assert_close(sequence, (weights.unsqueeze(-1) * keys).sum(1))
    assert mask.any()
    assert not mask.all()


def test_the_pseudo_sequence_is_weighed_for_the_candidate(helpers) -> None:
    model, batch = uie(helpers), helpers.batch()

    def parts(b: Interaction) -> tuple[torch.Tensor, ...]:
        vectors = model.vectors(model.encode(b, model.item_tokens(b)))
        return model.enhancement(vectors, (b["hist_items"] > 0).any(1)).split(4, dim=1)

    mine = parts(batch)
    other = parts(changed(batch, item_id=batch["item_id"].flip(0)))
    assert torch.equal(mine[0], other[0])
    assert torch.equal(mine[1], other[1])
    assert not torch.allclose(mine[2], other[2])


def test_auxiliary_towers_send_no_gradient_into_embeddings(helpers) -> None:
    model, batch = uie(helpers), helpers.batch()
    vectors = model.outputs(batch)[1]
    model.auxiliary_loss(vectors, batch).backward()
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {"profile_tower", "behaviour_tower", "item_tower"}
    further = model.enhancement(model.outputs(batch)[1], torch.ones(64, dtype=torch.bool))
    model.zero_grad(set_to_none=True)
    further.sum().backward()
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert not reached & {"user_table", "item_encoder", "user_bank"}


def test_loss_is_the_main_one_and_a_tenth_of_the_auxiliary(helpers) -> None:
    model, batch = uie(helpers).eval(), helpers.batch()
    logit, vectors, _ = model.outputs(batch)
    y = batch["label"]

    def bce(z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(z, y)

    auxiliary = sum(bce((v * vectors.item).sum(1)) for v in (vectors.profile, vectors.behaviour))
    torch.testing.assert_close(model.calculate_loss(batch), bce(logit) + 0.1 * auxiliary)


def test_every_user_is_enhanced_whatever_the_activity(helpers) -> None:
    """The same vectors, other activity types: the same enhancement."""
    model, batch = uie(helpers), helpers.batch()
    before = model(batch)
    model.user_type.fill_(4)
    assert torch.equal(model(batch), before)


def test_memories_are_no_larger_than_a_fiftieth_of_the_ids(helpers) -> None:
    model = uie(helpers, uie_top_k=3)
    assert len(model.profiles.centroids) == 3  # 30 users: the smallest that top_k can read
    assert len(model.items.centroids) == 3


def test_diagnostics_count_live_centroids(helpers) -> None:
    model = uie(helpers)
    model.on_epoch_start(0)
    assert set(model.epoch_diagnostics().values()) == {0.0}
    model.calculate_loss(helpers.batch())
    figures = {k: v for k, v in model.epoch_diagnostics().items() if "attention" not in k}
    assert set(figures) == {f"live_{n}_centroids" for n in ("profile", "behaviour", "item")}
    assert all(0 < v <= 1 for v in figures.values())


def test_a_dataset_without_activity_is_refused(helpers) -> None:
    assert UIE.needs({}) == {"activity"}
    dataset = helpers.dataset()
    dataset.model_inputs.activity = None
    with pytest.raises(ConfigError, match="UIE: expected a dataset with activity"):
        uie(helpers, dataset=dataset)
