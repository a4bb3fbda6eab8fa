"""SimTier: a histogram of cosines that sees no padding, no order and no length of vectors."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM
from recbole_choir.model.context_aware_recommender.simtier import (
    SimilarityTiers,
    SimTier,
    uniform_edges,
)


def tables(vectors: list[list[float]], item_vector: list[int]) -> ItemTables:
    """One snapshot (0) with the given vectors by item."""
    n = len(item_vector)
    return ItemTables(
        item_cluster=torch.zeros(1, n, dtype=torch.int32),
        item_codes=torch.zeros(1, n, 1, dtype=torch.int32),
        n_codes=[1],
        n_clusters=1,
        item_vector=torch.tensor([item_vector], dtype=torch.int32),
        vectors=torch.tensor([[0.0] * len(vectors[0]), *vectors]),
    )


def changed(batch: Interaction, **columns: torch.Tensor) -> Interaction:
    return Interaction({**batch.interaction, **columns})


def counts(model: SimTier, batch: Interaction) -> torch.Tensor:
    return model.tiers.counts(batch["snapshot"], batch["item_id"], batch["hist_items"])


def test_slots_are_those_of_the_public_code() -> None:
    """bin = ceil(cos / eps) + 10: 22 slots, the first is exactly -1, the last above 1."""
    edges = uniform_edges(0.1)
    cosine = torch.tensor([-1.0, -0.95, -0.85, -0.05, 0.0, 0.05, 0.15, 0.55, 0.95, 1.0, 1.01])
    expected = torch.ceil(cosine / 0.1).long() + 10
    assert torch.bucketize(cosine, edges).tolist() == expected.tolist()
    assert torch.bucketize(torch.tensor([-1.0, 1.0, 1.1]), edges).tolist() == [0, 20, 21]
    assert len(edges) + 1 == 22


def test_histogram_by_hand() -> None:
    """Target (1, 0); history: itself, a right angle, its opposite, 60 degrees twice, padding."""
    half = [0.5, 0.75**0.5]
    items = tables([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], half], [0, 1, 2, 3, 4, 0])
    layer = SimilarityTiers(items, uniform_edges(0.1))
    history = torch.tensor([[1, 2, 3, 4, 4, 5, 0]])  # item 5 has no vector
    snapshot = torch.zeros(1, dtype=torch.long)
    h = layer.counts(snapshot, torch.tensor([1]), history)[0]
    at = torch.nonzero(h).squeeze(1).tolist()
    assert h.sum() == 5
    assert h[20] == 1, "cos = 1: the target in its own history"
    assert h[10] == 1
    assert h[0] == 1
    assert at[2] in (15, 16)  # .5 lies on an edge: rounding decides
    assert h[at[2]] == 2
    with torch.no_grad():
        layer.weight.copy_(torch.arange(22.0))
    phi = layer(snapshot, torch.tensor([1]), history)[0]
    torch.testing.assert_close(phi, torch.log1p(h) * torch.arange(22.0))
    raw = SimilarityTiers(items, uniform_edges(0.1), log=False)
    torch.testing.assert_close(raw(snapshot, torch.tensor([1]), history)[0], h * raw.weight)
    assert layer.counts(snapshot, torch.tensor([5]), history).sum() == 0, "no vector, no cosine"


def test_histogram_counts_every_history_item_with_a_vector_once(helpers) -> None:
    model, batch = helpers.build(SimTier), helpers.batch()
    vector = model.tiers.row[batch["snapshot"].unsqueeze(1), batch["hist_items"]]
    own = model.tiers.row[batch["snapshot"], batch["item_id"]]
    valid = ((vector > 0) & (own > 0).unsqueeze(1)).sum(1)
    assert torch.equal(counts(model, batch).sum(1), valid.float())
    assert valid.max() > 3


def test_the_target_in_its_history_lands_in_slot_20(helpers) -> None:
    model, batch = helpers.build(SimTier), helpers.batch()
    history = torch.where(batch["hist_items"] > 0, batch["item_id"].unsqueeze(1), 0)
    h = counts(model, changed(batch, hist_items=history))
    others = torch.cat([h[:, :20], h[:, 21:]], dim=1)
    assert h[:, 20].max() == 6
    assert others.sum() == 0


def test_an_empty_history_gives_zero_not_a_length_feature(helpers) -> None:
    model, batch = helpers.build(SimTier), helpers.batch()
    none = torch.zeros_like(batch["hist_items"])
    phi = model.tiers(batch["snapshot"], batch["item_id"], none)
    assert torch.equal(phi, torch.zeros(64, 22))
    longer = torch.cat([batch["hist_items"], torch.zeros(64, 9, dtype=torch.long)], dim=1)
    assert torch.equal(counts(model, changed(batch, hist_items=longer)), counts(model, batch))


def test_order_of_the_history_does_not_matter(helpers) -> None:
    model, batch = helpers.build(SimTier), helpers.batch()
    other = changed(batch, hist_items=batch["hist_items"].flip(1))
    assert torch.equal(counts(model, other), counts(model, batch))


@pytest.mark.parametrize("center", [True, False])
def test_scale_of_the_vectors_does_not_matter(helpers, center: bool) -> None:
    batch, dataset = helpers.batch(), helpers.akt_dataset()
    plain = helpers.build(SimTier, simtier_center=center, dataset=dataset)
    scaled = helpers.akt_dataset()
    items = scaled.model_inputs.items
    scaled.model_inputs.items = dataclasses.replace(items, vectors=items.vectors * 8)
    other = helpers.build(SimTier, simtier_center=center, dataset=scaled)
    assert torch.equal(counts(other, batch), counts(plain, batch))


def test_center_is_the_mean_of_distinct_vectors_of_items_seen_in_training(helpers) -> None:
    dataset = helpers.akt_dataset()
    items, activity = dataset.model_inputs.items, dataset.model_inputs.activity
    model = helpers.build(SimTier, dataset=dataset)
    rows = {
        int(items.item_vector[s, i])
        for s in range(3)
        for i in range(40)
        if activity.item_rows[i] > 0
    } - {0}
    mean = items.vectors[sorted(rows)].mean(0)
    unit = torch.nn.functional.normalize(items.vectors - mean, dim=-1)
    torch.testing.assert_close(model.tiers.unit[1:], unit[1:])
    assert len(rows) < len(items.vectors) - 1, "unseen items have vectors of their own"
    assert torch.equal(model.tiers.unit[0], torch.zeros(6))


def test_with_zero_weights_it_is_base_mm_bit_for_bit(helpers) -> None:
    model, base, batch = helpers.build(SimTier), helpers.build(BaseMM), helpers.batch()
    for name, value in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not torch.equal(model(batch), base(batch))
    with torch.no_grad():
        model.tiers.weight.zero_()
    assert torch.equal(model(batch), base(batch))


def test_it_reads_what_base_mm_reads(helpers) -> None:
    """The same vectors and ids: a gain over Base+MM is one of the histogram."""
    assert SimTier.needs({}) >= BaseMM.needs({})
    model, base = helpers.build(SimTier), helpers.build(BaseMM)
    for mine, theirs in zip(model.item_encoder.parts, base.item_encoder.parts, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
    assert torch.equal(model.tiers.row, model.item_encoder.parts[0].row)


def test_weights_are_drawn_from_the_unit_interval_and_alone_are_trained(helpers) -> None:
    model, batch = helpers.build(SimTier), helpers.batch()
    assert 0 <= model.tiers.weight.min() < 0.3 < 0.7 < model.tiers.weight.max() <= 1
    phi = model.tiers(batch["snapshot"], batch["item_id"], batch["hist_items"])
    phi.sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["tiers.weight"]
    assert not model.tiers.unit.requires_grad


def test_quantile_tiers_hold_equal_counts_of_training_rows(helpers) -> None:
    model = helpers.build(SimTier, simtier_edges="quantile", simtier_eps=0.5)
    dataset = helpers.akt_dataset()
    rows = dataset.row_inputs
    at = rows.parts[0]
    history = rows.history.gather(
        torch.from_numpy(rows.columns["hist_start"][at]),
        torch.from_numpy(rows.columns["hist_end"][at]),
        6,
    )
    item = torch.from_numpy(rows.events.item[at])
    snapshot = torch.from_numpy(rows.columns["snapshot"][at])
    h = model.tiers.counts(snapshot, item, history).sum(0)
    assert len(h) == 6
    # Equal parts but for ties: a candidate in its own history has cosine 1, in the last tier.
    share = h / h.sum()
    assert (share - 1 / 6).abs().max() < 0.12
    assert (share[:3] - 1 / 6).abs().max() < 0.02


def test_quantile_tiers_know_training_rows_alone(helpers) -> None:
    def edges(label: float) -> torch.Tensor:
        dataset: Any = helpers.akt_dataset()
        rows = dataset.row_inputs
        held_out = rows.events.item[400:]
        held_out[:] = held_out if label else held_out[::-1]
        for name in ("hist_start", "hist_end"):
            rows.columns[name][400:] = rows.columns[name][400:] * int(label)
        model = helpers.build(SimTier, dataset=dataset, simtier_edges="quantile")
        return model.tiers.edges

    assert torch.equal(edges(1.0), edges(0.0))


def test_edges_are_saved_with_the_weights(helpers) -> None:
    fitted = helpers.build(SimTier, simtier_edges="quantile")
    plain = helpers.build(SimTier)
    plain.load_state_dict(fitted.state_dict())
    assert torch.equal(plain.tiers.edges, fitted.tiers.edges)


def test_settings_and_datasets_are_checked(helpers) -> None:
    with pytest.raises(ConfigError, match="simtier_eps: expected 1 / a whole number"):
        helpers.build(SimTier, simtier_eps=0.3)
    with pytest.raises(ConfigError, match="SimTier: expects a semantic table with items"):
        helpers.build(SimTier, dataset=helpers.dataset())
    dataset: SimpleNamespace = helpers.akt_dataset()
    dataset.model_inputs.activity = None
    with pytest.raises(ConfigError, match="SimTier: expected a dataset with activity"):
        helpers.build(SimTier, dataset=dataset)
