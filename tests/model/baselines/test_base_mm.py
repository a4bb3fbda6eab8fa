"""BaseMM: Base with content vectors and codes as ordinary features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM

OFF = {"use_content": False, "use_codes": False}
D = 4


def test_the_input_is_base_with_vectors_and_codes(helpers: Any) -> None:
    model, batch = helpers.base_mm(), helpers.batch()
    inputs = helpers.akt_dataset().model_inputs
    s, user, item, history = (batch[k] for k in ("snapshot", "user_id", "item_id", "hist_items"))

    def tokens(ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        encoder, items = model.item_encoder, inputs.items
        vectors = items.vectors[items.item_vector[snapshot, ids].long()]
        codes = items.item_codes[snapshot, ids].long()
        levels = encoder.parts[1].levels
        return torch.cat(
            [
                encoder.id_table.weight[ids] * (ids > 0).unsqueeze(-1),
                *encoder.attributes(encoder.features(ids)),
                vectors @ encoder.parts[0].weight.T,
                *(levels[i].weight[codes[..., i]] for i in range(3)),
            ],
            dim=-1,
        )

    target = tokens(item, s)
    keys = tokens(history, s.unsqueeze(1).expand_as(history))
    valid = history > 0
    weights = helpers.default_weights(keys, target, valid)
    mean = (keys * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
    codes = inputs.groups.user_codes[s, user].long()
    h0 = torch.cat(
        [
            model.user_table.weight[user],
            *(level.weight[codes[:, i]] for i, level in enumerate(model.user_codes.levels)),
            *model.user_bank(model.user_features(user)),
            batch["user_stats"],
            target,
            batch["item_stats"],
            model.encode_context(batch),
            (weights.unsqueeze(-1) * keys).sum(1),
            mean,
        ],
        dim=1,
    )
    assert h0.shape[1] == model.h0_width
    torch.testing.assert_close(model(batch), model.individual(h0))
    assert model.item_encoder.width == 4 * D + D + 3 * D


def test_without_both_it_is_base_bit_for_bit(helpers: Any) -> None:
    model, base, batch = helpers.base_mm(seed=3, **OFF), helpers.base(), helpers.batch()
    model.load_state_dict(base.state_dict())
    assert torch.equal(model(batch), base(batch))
    assert BaseMM.needs(OFF) == frozenset()
    without = {k: v for k, v in batch.interaction.items() if k != "snapshot"}
    assert torch.equal(model(type(batch)(without)), base(batch))


def test_each_part_has_a_switch(helpers: Any) -> None:
    vectors, codes = helpers.base_mm(use_codes=False), helpers.base_mm(use_content=False)
    assert [type(p).__name__ for p in vectors.item_encoder.parts] == ["ContentProjection"]
    assert vectors.user_codes is None
    assert [type(p).__name__ for p in codes.item_encoder.parts] == ["CodeEmbedding"]
    assert codes.user_codes is not None
    for settings in ({}, {"use_codes": False}, {"use_content": False}):
        assert BaseMM.needs(settings) == {"groups", "items"}


def test_it_knows_what_aktrec_knows(helpers: Any) -> None:
    """The same vectors and codes, by the same snapshots."""
    mine = helpers.base_mm().item_encoder.parts
    theirs = helpers.akt(use_content=True, use_codes=True).item_encoder.parts
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.row, b.row)


def test_content_vectors_are_frozen(helpers: Any) -> None:
    model, batch = helpers.base_mm(), helpers.batch()
    vectors = model.item_encoder.parts[0].keys
    before = vectors.clone()
    optimiser = torch.optim.Adagrad(model.parameters(), lr=0.1)
    model.calculate_loss(batch).backward()
    optimiser.step()
    assert torch.equal(vectors, before)
    assert not vectors.requires_grad
    assert not any("keys" in name for name in model.state_dict())


def test_a_newer_snapshot_is_not_read(helpers: Any) -> None:
    """Only the row's own snapshot reaches its score: the target, the history and the user."""
    dataset, batch = helpers.akt_dataset(), helpers.batch()
    model = helpers.base_mm(dataset=dataset)
    before = model(batch)
    changed = helpers.akt_dataset()
    changed.model_inputs.items.vectors[41:] += 1  # rows of snapshot 2
    changed.model_inputs.items.item_codes[2, 1:] = 1
    changed.model_inputs.groups.user_codes[2, 1:] = 1
    other = helpers.base_mm(dataset=changed)
    other.load_state_dict(model.state_dict())
    after = other(batch)
    newest = batch["snapshot"] == 2
    assert torch.equal(after[~newest], before[~newest])
    assert (after[newest] != before[newest]).float().mean() > 0.9


def test_no_item_table_is_one_clear_line(helpers: Any) -> None:
    for name in ("items", "groups"):
        dataset = helpers.akt_dataset()
        setattr(dataset.model_inputs, name, None)
        with pytest.raises(ConfigError, match="BaseMM: expects a semantic table with items"):
            helpers.base_mm(dataset=dataset)


def test_cross_statistics_join_the_context_where_they_are_asked_for(helpers: Any) -> None:
    batch, other = helpers.batch(), helpers.batch()
    other.interaction["cross_stats"] = other["cross_stats"] + 1
    plain, model = helpers.base_mm(), helpers.base_mm(use_cross_stats=True)
    n = batch["cross_stats"].shape[1]
    assert model.h0_width == plain.h0_width + n
    context = model.encode_context(batch)
    assert torch.equal(context[:, :-n], plain.encode_context(batch))
    assert torch.equal(context[:, -n:], batch["cross_stats"])
    assert torch.equal(plain(batch), plain(other))
    assert (model(batch) - model(other)).abs().min() > 0
    assert BaseMM.needs({"use_cross_stats": True}) == {"groups", "items", "cross_stats"}
