"""Target attention: values, masks and the fused pooling against plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.errors import ConfigError
from recbole_choir.model.layers import dot_pooling as module
from recbole_choir.model.layers.dot_pooling import dot_pooling, masked_softmax
from recbole_choir.model.layers.target_attention import MLPScore, TargetAttention


def plain(
    query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, for rows with at least one valid slot."""
    scores = (keys * query.unsqueeze(1)).sum(-1)
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1)
    mean = (keys * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    return torch.stack([(weights.unsqueeze(-1) * keys).sum(1), mean], dim=1), weights


def test_softmax_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), 50.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = masked_softmax(scores, mask)
    torch.testing.assert_close(out, torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]))
    assert out[0, 2] == 0


def test_pooling_by_hand() -> None:
    table = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0]])
    query = torch.tensor([[math.log(3.0), 0.0]])  # scores log 3 and 0 -> weights 3/4 and 1/4
    pooled, weights = dot_pooling(
        query, table, torch.tensor([[1, 0, 2]]), torch.tensor([[True, False, True]])
    )
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.0, 0.25]]))
    torch.testing.assert_close(pooled, torch.tensor([[[0.75, 0.5], [0.5, 1.0]]]))


@given(
    batch=st.integers(1, 9),
    length=st.integers(1, 6),
    width=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None)
def test_weights_sum_to_one_over_valid_slots_and_padding_has_none(
    batch: int, length: int, width: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, length, generator=rng) < 0.6
    table = torch.randn(7, width, generator=rng)
    index = torch.randint(0, 7, (batch, length), generator=rng)
    query = torch.randn(batch, width, generator=rng) * 5
    pooled, weights = dot_pooling(query, table, index, mask)
    assert torch.equal(weights * ~mask, torch.zeros_like(weights))
    torch.testing.assert_close(weights.sum(1), mask.any(1).float())
    some = mask.any(1)
    assert torch.equal(pooled[~some], torch.zeros_like(pooled[~some]))
    expected, _ = plain(query[some], table[index[some]], mask[some])
    torch.testing.assert_close(pooled[some], expected)


@pytest.mark.parametrize("chunk", [1, 40, 600_000])
def test_fused_gradients_are_those_of_plain_autograd(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_CHUNK", chunk)
    torch.manual_seed(0)
    index = torch.randint(0, 6, (5, 4))  # items repeat: gradients must add up
    mask = torch.rand(5, 4) < 0.7
    mask[:, 0] = True
    up = torch.randn(5, 2, 3, dtype=torch.float64)
    grads = []
    for fused in (True, False):
        torch.manual_seed(1)
        query = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        if fused:
            pooled, _ = dot_pooling(query, table, index, mask)
        else:
            pooled, _ = plain(query, table[index], mask)
        (pooled * up).sum().backward()
        grads.append((query.grad, table.grad))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


def test_fused_gradcheck_with_an_empty_row() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    index = torch.tensor([[0, 1, 2], [2, 2, 0]])
    query = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    table = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, t: dot_pooling(q, t, index, mask)[0], (query, table))


def test_several_queries_are_as_many_poolings() -> None:
    torch.manual_seed(0)
    index, mask = torch.randint(0, 6, (5, 4)), torch.rand(5, 4) < 0.7
    queries = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    table = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    pooled, weights = dot_pooling(queries, table, index, mask)
    for h in range(3):
        one, alpha = dot_pooling(queries[:, h], table, index, mask)
        torch.testing.assert_close(pooled[:, [h, 3]], one)
        torch.testing.assert_close(weights[:, h], alpha)
    assert torch.autograd.gradcheck(
        lambda q, t: dot_pooling(q, t, index, mask)[0], (queries, table)
    )


def test_an_empty_batch_is_allowed() -> None:
    pooled, weights = dot_pooling(
        torch.zeros(0, 2), torch.zeros(3, 2), torch.zeros(0, 4, dtype=torch.long),
        torch.zeros(0, 4, dtype=torch.bool),
    )  # fmt: skip
    assert pooled.shape == (0, 2, 2)
    assert weights.shape == (0, 4)


@pytest.mark.parametrize("att_type", ["dot", "mlp"])
def test_padding_is_invisible_wherever_it_stands(att_type: str) -> None:
    torch.manual_seed(0)
    attention = TargetAttention(3, att_type)
    table, query = torch.randn(6, 3), torch.randn(1, 3)
    short = attention(query, table, torch.tensor([[4, 2]]), torch.tensor([[True, True]]))
    longer = attention(
        query, table, torch.tensor([[0, 4, 0, 2, 5]]),
        torch.tensor([[False, True, False, True, False]]),
    )  # fmt: skip
    torch.testing.assert_close(short.pooled, longer.pooled)
    assert longer.weights[0, [0, 2, 4]].tolist() == [0, 0, 0]
    torch.testing.assert_close(longer.weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("att_type", ["dot", "mlp"])
def test_an_empty_history_gives_zeros_and_finite_gradients(att_type: str) -> None:
    torch.manual_seed(0)
    attention = TargetAttention(3, att_type)
    table = torch.randn(4, 3, requires_grad=True)
    out = attention(
        torch.randn(2, 3), table, torch.zeros(2, 5, dtype=torch.long),
        torch.zeros(2, 5, dtype=torch.bool),
    )  # fmt: skip
    assert torch.equal(out.pooled, torch.zeros(2, 2, 3))
    out.pooled.sum().backward()
    assert torch.equal(table.grad, torch.zeros(4, 3))
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters())


def test_the_target_in_the_history_raises_its_own_weight() -> None:
    torch.manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    attention = TargetAttention(8, "dot")
    target = 3
    mask = torch.ones(1, 3, dtype=torch.bool)
    without = attention(table[[target]], table, torch.tensor([[1, 2, 4]]), mask).weights[0]
    once = attention(table[[target]], table, torch.tensor([[1, 2, target]]), mask).weights[0]
    twice = attention(table[[target]], table, torch.tensor([[1, target, target]]), mask).weights[0]
    assert once[2] > without[2]  # it takes more than the item it replaced
    assert once.argmax() == 2
    assert twice[1] + twice[2] > once[2]


def test_dot_scale_is_one_over_root_width() -> None:
    table = torch.tensor([[0.0] * 4, [1.0, 0, 0, 0], [0, 0, 0, 0]])
    target = torch.tensor([[2 * math.log(3.0), 0, 0, 0]])
    index, mask = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    scaled = TargetAttention(4, "dot")(target, table, index, mask).weights
    raw = TargetAttention(4, "dot", scale=False)(target, table, index, mask).weights
    torch.testing.assert_close(scaled, torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(raw, torch.tensor([[0.9, 0.1]]))


def test_mlp_score_is_the_mlp_of_the_four_parts() -> None:
    torch.manual_seed(0)
    score = MLPScore(3, (5, 4))
    query, keys = torch.randn(2, 3), torch.randn(2, 6, 3)
    q = query.unsqueeze(1).expand_as(keys)
    x = score.first(torch.cat([q, keys, q - keys, q * keys], dim=-1))
    for layer in score.rest:
        x = layer(torch.relu(x))
    torch.testing.assert_close(score(query, keys), x.squeeze(-1))


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="att_type: expected dot or mlp, got 'cosine'"):
        TargetAttention(3, "cosine")
