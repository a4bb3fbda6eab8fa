"""Embeddings of fields and item tokens."""

from __future__ import annotations

import pytest
import torch

from recbole_choir.data.schema import Field
from recbole_choir.errors import DataError
from recbole_choir.model.layers.field_embedding import FeatureTable, FieldEmbedding, ItemEncoder
from recbole_choir.model.layers.lookup import gather_rows


def table(kind: str, rows: list[list[float]]) -> FieldEmbedding:
    field = FieldEmbedding(Field("f", kind, len(rows)), len(rows[0]))
    field.weight.data = torch.tensor(rows)
    return field


def test_token_reads_its_row_and_padding_is_zero() -> None:
    field = FieldEmbedding(Field("f", "token", 3), 2)
    out = field(torch.tensor([0, 2]))
    assert torch.equal(out[0], torch.zeros(2))
    assert torch.equal(out[1], field.weight[2])


def test_padding_row_gets_no_gradient_by_either_route() -> None:
    field = FieldEmbedding(Field("f", "token", 3), 2)
    (field(torch.tensor([0, 1])).sum() + field.whole().sum()).backward()
    assert field.weight.grad is not None
    assert field.weight.grad.tolist() == [[0, 0], [2, 2], [1, 1]]


def test_token_seq_is_the_mean_over_ids_that_are_not_padding() -> None:
    field = table("token_seq", [[0.0, 0.0], [1.0, 2.0], [3.0, 8.0]])
    out = field(torch.tensor([[1, 2, 0], [0, 0, 0], [2, 0, 0], [1, 1, 2]]))
    expected = [[2, 5], [0, 0], [3, 8], [5 / 3, 4]]
    torch.testing.assert_close(out, torch.tensor(expected))


def test_token_seq_ignores_where_the_padding_stands() -> None:
    field = FieldEmbedding(Field("f", "token_seq", 5), 4)
    assert torch.allclose(field(torch.tensor([[3, 0, 1]])), field(torch.tensor([[1, 3, 0]])))


def test_token_seq_keeps_leading_dimensions() -> None:
    field = FieldEmbedding(Field("f", "token_seq", 5), 4)
    ids = torch.randint(0, 5, (2, 3, 6))
    out = field(ids)
    assert out.shape == (2, 3, 4)
    assert torch.equal(out[1, 2], field(ids[1, 2][None])[0])


def test_float_is_a_multiple_of_one_vector() -> None:
    field = table("float", [[2.0, -1.0]])
    assert field(torch.tensor([0.0, 1.5])).tolist() == [[0, 0], [3.0, -1.5]]


def test_item_tokens_are_the_same_bits_by_table_and_by_row(helpers) -> None:
    inputs = helpers.dataset().model_inputs
    encoder = ItemEncoder(40, inputs.schema.item_attrs, inputs.item_features, 4)
    ids = torch.randint(0, 40, (5, 7))
    by_table, by_row = encoder.tokens(40), encoder.tokens(39)
    assert by_table.table is not None
    assert by_row.table is None
    assert torch.equal(by_table.lookup(ids), by_row.lookup(ids))
    for tokens in (by_table, by_row):
        rows, index = tokens.rows(ids)
        assert torch.equal(rows[index], by_row.lookup(ids))
    assert torch.equal(by_table.lookup(torch.tensor([0])), torch.zeros(1, encoder.width))


def test_both_routes_give_the_same_gradient(helpers) -> None:
    inputs = helpers.dataset().model_inputs
    encoder = ItemEncoder(40, inputs.schema.item_attrs, inputs.item_features, 4)
    ids, up = torch.randint(0, 40, (64,)), torch.randn(64, encoder.width)
    grads = []
    for n in (40, 39):
        encoder.zero_grad()
        (encoder.tokens(n).lookup(ids) * up).sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(grads[0]) == 4
    torch.testing.assert_close(grads[0], grads[1])


def test_gather_rows_of_blocks() -> None:
    blocks = torch.arange(24.0).view(4, 3, 2)
    assert torch.equal(gather_rows(blocks, torch.tensor([2, 0])), blocks[[2, 0]])


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DataError, match=r"user features: expected values of field 'age', got"):
        FeatureTable([Field("age", "float", 1)], {"agee": torch.zeros(3)}, "user")
