"""SaviorRec: codebooks that start at nothing and learn, and attention in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.errors import ConfigError
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM
from recbole_choir.model.context_aware_recommender.saviorrec import SaviorRec


def savior(helpers: Any, awake: bool = True, **settings: Any) -> SaviorRec:
    """A model whose codebooks have left their start."""
    model = helpers.build(SaviorRec, **settings)
    if awake and model.modal is not None and model.modal.delta is not None:
        torch.manual_seed(1)
        with torch.no_grad():
            for level in model.modal.delta.levels:
                level.weight[1:].normal_()
    return model


def everywhere(model: SaviorRec) -> tuple[torch.Tensor, torch.Tensor]:
    """All items at all snapshots."""
    ids = torch.arange(40).expand(3, 40)
    return ids, torch.arange(3).unsqueeze(1).expand(3, 40)


def modal_inputs(model: SaviorRec, batch: Interaction) -> torch.Tensor:
    items = model.item_tokens(batch)
    return model.modal_inputs(batch, items, model.encode(batch, items), model.modal)


def test_vectors_start_as_projected_content_and_codebooks_learn(helpers) -> None:
    """The trap: with ReLU, or a zero last layer, the codebooks would never move."""
    model, batch = savior(helpers, awake=False), helpers.batch()
    ids, snapshot = everywhere(model)
    assert torch.equal(model.modal(ids, snapshot), model.modal.content(ids, snapshot))
    model.calculate_loss(batch).backward()
    for level in model.modal.delta.levels:
        assert level.weight.abs().sum() == 0
        assert (level.weight.grad[1:].abs().sum(1) > 0).all()
        assert torch.equal(level.weight.grad[0], torch.zeros(32)), "unknown codes stay zero"
    assert [n for n, _ in model.modal.delta.named_parameters() if "bias" in n] == []


def test_delta_by_hand_levels_are_concatenated_not_summed(helpers) -> None:
    model = savior(helpers)
    items = helpers.akt_dataset().model_inputs.items
    ids, snapshot = everywhere(model)
    codes = items.item_codes.long()
    first, _, last = model.modal.delta.fusion
    assert first.in_features == 3 * 32
    levels = [table.weight[codes[..., m]] for m, table in enumerate(model.modal.delta.levels)]
    hidden = torch.nn.functional.gelu(torch.cat(levels, dim=-1) @ first.weight.T)
    content = items.vectors[items.item_vector.long()] @ model.modal.content.weight.T
    torch.testing.assert_close(model.modal(ids, snapshot), content + hidden @ last.weight.T)


def test_items_of_equal_codes_share_their_delta_and_unknown_codes_have_none(helpers) -> None:
    model = savior(helpers)
    codes = helpers.akt_dataset().model_inputs.items.item_codes.long()
    ids, snapshot = everywhere(model)
    delta = model.modal.delta(ids, snapshot).view(-1, 32)
    flat = codes.view(-1, 3)
    same = (flat.unsqueeze(0) == flat.unsqueeze(1)).all(-1)  # [120, 120]
    equal = (delta.unsqueeze(0) == delta.unsqueeze(1)).all(-1)
    assert torch.equal(same, equal)
    assert same.sum() > len(flat)
    assert torch.equal(delta[flat[:, 0] == 0], torch.zeros(int((flat[:, 0] == 0).sum()), 32))


def test_candidate_and_history_are_embedded_alike(helpers) -> None:
    """An item's own history: every attention over vectors returns its vector."""
    model, batch = savior(helpers, att_type="cosine"), helpers.batch()
    history = torch.zeros_like(batch["hist_items"])
    history[:, 3] = batch["item_id"]
    found = modal_inputs(model, Interaction({**batch.interaction, "hist_items": history}))
    width = model.item_encoder.width
    target, modal, crossed, back = found.split([32, 32, width, 32], dim=1)
    known = batch["item_id"] > 0
    torch.testing.assert_close(modal[known], target[known])
    torch.testing.assert_close(back[known], target[known])
    tokens = model.encode(batch, model.item_tokens(batch)).item_token
    torch.testing.assert_close(crossed[known], tokens[known])
    assert target[known].abs().sum(1).median() > 0


def test_weights_and_values_of_each_direction(helpers) -> None:
    model, batch = savior(helpers, att_type="dot"), helpers.batch()
    with torch.no_grad():
        for weight in model.attention.parameters():
            weight.normal_(std=0.3)
    found = modal_inputs(model, batch)
    snapshot, history = batch["snapshot"], batch["hist_items"]
    t = model.modal(batch["item_id"], snapshot)
    t_j = model.modal(history, snapshot.unsqueeze(1).expand_as(history))
    items = model.item_tokens(batch)
    x, x_j = items.lookup(batch["item_id"]), items.lookup(history)

    def attend(attention: Any, q: Any, k: Any, v: Any) -> torch.Tensor:
        projected = q @ attention.weight.T
        scores = (k * projected.unsqueeze(1)).sum(-1) / k.shape[-1] ** 0.5
        weights = torch.softmax(scores.masked_fill(history == 0, -1e30), dim=1) * (history > 0)
        return (weights.unsqueeze(-1) * v).sum(1)

    expected = [
        t,
        attend(model.attention.modal, t, t_j, t_j),
        attend(model.attention.modal_to_behaviour, t, t_j, x_j),
        attend(model.attention.behaviour_to_modal, x, x_j, t_j),
    ]
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


def test_default_weights_of_each_direction(helpers) -> None:
    """The same form as every other attention over the history, with lengths of their own."""
    model, batch = savior(helpers), helpers.batch()
    seen: list[Any] = []
    model.attention.register_forward_hook(lambda *a: seen.append(a[2]))
    modal_inputs(model, batch)
    snapshot, history = batch["snapshot"], batch["hist_items"]
    t, t_j = (
        model.modal(ids, snapshot.view(-1, *[1] * (ids.dim() - 1)).expand_as(ids))
        for ids in (batch["item_id"], history)
    )
    items = model.item_tokens(batch)
    x, x_j = items.lookup(batch["item_id"]), items.lookup(history)
    content = helpers.default_weights(t_j, t, history > 0)
    behaviour = helpers.default_weights(x_j, x, history > 0)
    expected = torch.stack([content, content, behaviour], dim=1)
    torch.testing.assert_close(seen[0].weights, expected, rtol=1e-4, atol=1e-6)
    crossed = (content.unsqueeze(-1) * x_j).sum(1)
    torch.testing.assert_close(seen[0].modal_to_behaviour, crossed, rtol=1e-4, atol=1e-6)


def test_modal_to_behaviour_does_not_weigh_by_ids(helpers) -> None:
    model, batch = savior(helpers), helpers.batch()
    weights: list[torch.Tensor] = []
    model.attention.register_forward_hook(lambda *a: weights.append(a[2].weights))
    modal_inputs(model, batch)
    with torch.no_grad():
        model.item_encoder.id_table.weight[1:].normal_()
    modal_inputs(model, batch)
    before, after = weights
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])
    assert torch.equal(before.sum(1)[batch["hist_items"] == 0].unique(), torch.tensor([0.0]))


@pytest.mark.parametrize("settings", [{}, {"use_content": False, "use_codes": False}])
def test_large_vocabularies_score_the_same(helpers, settings: dict) -> None:
    """Tokens made once for all items, or one by one where there are more items than lookups."""
    model, batch = savior(helpers, **settings), helpers.batch()
    few = Interaction({k: v[:8] for k, v in batch.interaction.items()})
    assert model.item_tokens(batch).table is not None
    assert settings or model.item_tokens(few).table is None
    torch.testing.assert_close(model(few), model(batch)[:8], rtol=0, atol=1e-6)


def test_switched_off_it_is_base_mm_bit_for_bit(helpers) -> None:
    model = savior(helpers, savior_mba=False, savior_attention=False)
    base, batch = helpers.build(BaseMM), helpers.batch()
    assert model.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(model(batch), base(batch))
    on = savior(helpers)
    for name, value in base.state_dict().items():
        assert torch.equal(on.state_dict()[name], value), name
    assert not torch.equal(on(batch), base(batch))


def test_vectors_and_ids_are_frozen(helpers) -> None:
    """Neither is a parameter, so ranking changes neither."""
    model = savior(helpers)
    trained = {id(p) for p in model.parameters()}
    for part in (model.modal.content, model.modal.delta):
        assert not part.keys.requires_grad
        assert {id(part.keys), id(part.row)}.isdisjoint(trained)


def test_without_mba_vectors_are_projected_content(helpers) -> None:
    model = savior(helpers, savior_mba=False)
    assert model.modal.delta is None
    ids, snapshot = everywhere(model)
    assert torch.equal(model.modal(ids, snapshot), model.modal.content(ids, snapshot))


def test_what_it_needs(helpers) -> None:
    plain = {"use_content": False, "use_codes": False}
    assert SaviorRec.needs(plain) == {"groups", "items"}
    assert SaviorRec.needs({**plain, "savior_mba": False, "savior_attention": False}) == set()
    with pytest.raises(ConfigError, match="SaviorRec: expects a semantic table with items"):
        helpers.build(SaviorRec, dataset=helpers.dataset())
