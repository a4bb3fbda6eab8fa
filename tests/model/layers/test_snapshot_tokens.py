"""Item tokens by snapshot: content vectors, codes, the id part, and both ways to look them up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_choir.model.layers.code_embedding import CodeEmbedding
from recbole_choir.model.layers.content import ContentProjection
from recbole_choir.model.layers.snapshot_tokens import SnapshotItemEncoder

D = 4


def inputs_of(helpers: Any) -> Any:
    return helpers.akt_dataset().model_inputs


def an_encoder(helpers: Any, kind: str) -> SnapshotItemEncoder:
    """``plain``: ids, content and codes; ``akt``: the encoder of a model; ``static``: ids alone."""
    if kind == "akt":
        model = helpers.akt(use_content=True, cluster_emb="shared_plus_delta")
        for p in model.item_encoder.identity.gate.parameters():
            torch.nn.init.normal_(p)
        model.refresh()
        return model.item_encoder
    inputs = inputs_of(helpers)
    items = inputs.items
    parts = [ContentProjection(items, D), CodeEmbedding(items.item_codes, items.n_codes, D)]
    return SnapshotItemEncoder(
        inputs.schema.n_items,
        inputs.schema.item_attrs,
        inputs.item_features,
        D,
        0.5,
        parts if kind == "plain" else (),
        n_snapshots=3,
    )


def test_content_is_the_projected_vector_of_the_snapshot(helpers: Any) -> None:
    items = inputs_of(helpers).items
    content = ContentProjection(items, D)
    assert {n for n, _ in content.named_parameters()} == {"weight"}  # the vectors are frozen
    snapshot, item = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([3, 3, 3, 7, 0])
    expected = torch.stack(
        [
            torch.zeros(D),
            content.weight @ items.vectors[items.item_vector[1, 3]],
            content.weight @ items.vectors[items.item_vector[2, 3]],
            torch.zeros(D),  # an item without a vector
            torch.zeros(D),
        ]
    )
    torch.testing.assert_close(content(item, snapshot), expected)
    assert not torch.equal(expected[1], expected[2])


def test_codes_side_by_side_or_added_up(helpers: Any) -> None:
    items = inputs_of(helpers).items
    torch.manual_seed(0)
    side_by_side = CodeEmbedding(items.item_codes, items.n_codes, D)
    torch.manual_seed(0)
    added = CodeEmbedding(items.item_codes, items.n_codes, D, add=True)
    snapshot, item = torch.full((40,), 2), torch.arange(40)
    codes = items.item_codes[2].long()
    levels = [level.weight[codes[:, i]] for i, level in enumerate(side_by_side.levels)]
    torch.testing.assert_close(side_by_side(item, snapshot), torch.cat(levels, dim=1))
    torch.testing.assert_close(added(item, snapshot), torch.stack(levels).sum(0))
    unknown = codes[:, 0] == 0
    assert unknown.any()
    assert side_by_side(item, snapshot)[unknown].abs().max() == 0


@pytest.mark.parametrize("kind", ["content", "codes"])
def test_parts_are_the_same_for_few_and_for_many(helpers: Any, kind: str) -> None:
    items = inputs_of(helpers).items
    part = (
        ContentProjection(items, D)
        if kind == "content"
        else CodeEmbedding(items.item_codes, items.n_codes, D)
    )
    snapshot, item = torch.cartesian_prod(torch.arange(3), torch.arange(40)).unbind(1)
    whole = part.whole().view(-1, part.width)
    torch.testing.assert_close(part(item, snapshot), whole)
    for s, i in ((1, 5), (2, 39), (0, 3)):
        one = part(torch.tensor([i]), torch.tensor([s]))
        torch.testing.assert_close(one[0], whole[s * 40 + i])
        torch.testing.assert_close(part.at(s)[i], whole[s * 40 + i])


def test_a_token_by_hand(helpers: Any) -> None:
    encoder = an_encoder(helpers, "plain")
    item, snapshot = torch.tensor([[5, 6], [8, 0]]), torch.tensor([[1, 1], [2, 2]])
    expected = torch.cat(
        [
            encoder.id_table.weight[item],
            *encoder.attributes(encoder.features(item)),
            encoder.parts[0](item, snapshot),
            encoder.parts[1](item, snapshot),
        ],
        dim=-1,
    )
    token = encoder.token(item, snapshot)
    torch.testing.assert_close(token, expected)
    assert token.shape[-1] == encoder.width == D + 3 * D + D + 3 * D
    assert token[1, 1].abs().max() == 0  # the padding


@pytest.mark.parametrize("kind", ["plain", "akt", "static"])
def test_all_ways_of_looking_up_agree(helpers: Any, kind: str) -> None:
    encoder = an_encoder(helpers, kind)
    assert encoder.varies == (kind != "static")
    assert encoder.n_rows == (40 if kind == "static" else 120)
    snapshot = torch.tensor([0, 1, 2, 2])
    ids = torch.randint(0, 40, (4, 9))
    expected = encoder.token(ids, snapshot.unsqueeze(1).expand(4, 9))
    ways = {
        "table": encoder.tokens_at(10_000, snapshot),
        "attributes": encoder.tokens_at(40, snapshot),
        "one by one": encoder.tokens_at(1, snapshot),
    }
    assert ways["table"].table is not None
    assert ways["one by one"].table is None
    assert ways["one by one"].attributes is None
    if kind != "static":
        assert ways["attributes"].table is None
        assert ways["attributes"].attributes is not None
    gradients = []
    for tokens in ways.values():
        torch.testing.assert_close(tokens.lookup(ids), expected)
        table, rows = tokens.rows(ids)
        torch.testing.assert_close(table[rows], expected)
        torch.testing.assert_close(tokens.lookup(ids[:, 0]), expected[:, 0])
        encoder.zero_grad()
        (tokens.lookup(ids) * torch.arange(1.0, encoder.width + 1)).sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for other in gradients[1:]:
        assert len(other) == len(gradients[0]) > 3
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_snapshots_tokens_are_rows_of_the_whole(helpers: Any) -> None:
    encoder = an_encoder(helpers, "akt")
    whole = encoder.whole().view(3, 40, -1)
    for s in range(3):
        torch.testing.assert_close(encoder.at(s), whole[s])


def test_without_attributes_or_parts_there_is_the_id(helpers: Any) -> None:
    encoder = SnapshotItemEncoder(6, (), {}, D)
    assert encoder.width == D
    assert torch.equal(encoder.whole()[1:], encoder.id_table.weight[1:])
