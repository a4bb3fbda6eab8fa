"""Target attention: values, masks and the fused pooling against plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.errors import ConfigError
from recbole_choir.model.layers import dot_pooling as module
from recbole_choir.model.layers.attention_meter import AttentionMeter
from recbole_choir.model.layers.dot_pooling import Scoring, dot_pooling, masked_softmax
from recbole_choir.model.layers.target_attention import (
    ATT_TYPES,
    EPS,
    MLPScore,
    TargetAttention,
    use_plain_attention,
)


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


@pytest.mark.parametrize("att_type", ATT_TYPES)
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
    if att_type in ("dot", "cosine", "mlp"):
        torch.testing.assert_close(longer.weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("att_type", ATT_TYPES)
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
    unit, k = (x * (3 / (x.square().sum(-1, keepdim=True) + EPS**2)) ** 0.5 for x in (q, keys))
    x = score.first(torch.cat([unit, k, unit - k, unit * k], dim=-1))
    for layer in score.rest:
        x = layer(torch.relu(x))
    torch.testing.assert_close(score(query, keys), x.squeeze(-1))
    # however short tokens are at the start, the unit sees them
    torch.testing.assert_close(score(query * 0.2, keys * 0.3), x.squeeze(-1), rtol=1e-4, atol=1e-5)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"att_type: expected one of .*, got 'cosin' .*cosine"):
        TargetAttention(3, "cosin")


# --- forms ------------------------------------------------------------------------------


def unit(*degrees: float) -> torch.Tensor:
    """Vectors of length 1 in the plane; row 0 is the padding."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.cat([torch.zeros(1, 2), torch.stack([angle.cos(), angle.sin()], dim=1)])


def test_sigmoid_by_hand_whatever_the_length_of_tokens() -> None:
    """Cosines 1, .5, 0 with gain 10 and shift .5: sigmoid of 5, 0 and -5, summed."""
    attention = TargetAttention(2, "sigmoid")
    table = unit(0, 60, 90)
    table[2] *= 3.0
    index, mask = torch.tensor([[1, 2, 3, 0]]), torch.tensor([[True, True, True, False]])
    out = attention(7 * table[[1]], table, index, mask)
    w = torch.tensor([5.0, 0.0, -5.0]).sigmoid()
    torch.testing.assert_close(out.weights[0, :3], w, rtol=1e-4, atol=1e-5)
    assert out.weights[0, 3] == 0
    torch.testing.assert_close(out.pooled[0, 0], w @ table[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.pooled[0, 1], table[1:].mean(0))


def test_intensity_survives_in_the_sigmoid_alone() -> None:
    """Three repeats of the candidate: three times one repeat's sum; a softmax forgets how many."""
    table, mask = unit(0, 90), torch.tensor([[True, True, True], [True, False, False]])
    for att_type, factor in (("sigmoid", 3.0), ("cosine", 1.0), ("dot", 1.0)):
        out = TargetAttention(2, att_type)(table[[1, 1]], table, torch.ones(2, 3).long(), mask)
        torch.testing.assert_close(out.pooled[0, 0], factor * out.pooled[1, 0])


def test_cosine_by_hand() -> None:
    """Softmax of 10 and 5."""
    table = unit(0, 60)
    out = TargetAttention(2, "cosine")(
        table[[1]], table, torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    )
    expected = torch.softmax(torch.tensor([[10.0, 5.0]]), dim=1)
    torch.testing.assert_close(out.weights, expected, rtol=1e-4, atol=1e-5)


def test_mlp_sum_is_the_units_own_output() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(3, "mlp_sum")
    table, index = torch.randn(6, 3), torch.tensor([[1, 2, 5]])
    mask = torch.tensor([[True, True, False]])
    out = attention(table[[4]], table, index, mask)
    score = attention.score(table[[4]], table[index])[0, :2]
    torch.testing.assert_close(out.weights[0], torch.cat([score, torch.zeros(1)]))
    torch.testing.assert_close(out.pooled[0, 0], score @ table[[1, 2]])


@pytest.mark.parametrize("att_type", ["sigmoid", "cosine"])
def test_an_item_gives_its_own_repeat_at_least_twice_the_weight(att_type: str) -> None:
    """At the start, with tokens as embeddings start: short and random."""
    torch.manual_seed(0)
    table = torch.randn(200, 32) * 0.05
    index = torch.randint(1, 200, (100, 8))
    target = torch.randint(1, 200, (100,))
    index[:, 0] = target
    index[:, 1:][index[:, 1:] == target.unsqueeze(1)] = 0
    weights = TargetAttention(32, att_type)(table[target], table, index, index > 0).weights
    others = weights[:, 1:][index[:, 1:] > 0]
    # of 700 random pairs a few are alike by chance
    assert weights[:, 0].min() > 2 * others.quantile(0.99)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("chunk", [1, 600_000])
def test_fused_forms_gradcheck(
    normalise: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of the rows and biases of the queries too; items repeat, a row is empty."""
    monkeypatch.setattr(module, "CPU_CHUNK", chunk)
    torch.manual_seed(0)
    index, mask = torch.randint(0, 5, (4, 3)), torch.rand(4, 3) < 0.7
    mask[1] = False
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 2, 2), (5, 2), (5, 2), (2,))
    ]
    assert torch.autograd.gradcheck(
        lambda q, t, c, b: dot_pooling(q, t, index, mask, Scoring(normalise, c, b))[0], inputs
    )


@pytest.mark.parametrize("att_type", ["sigmoid", "cosine", "dot"])
def test_plain_operations_give_the_same_values_and_gradients(att_type: str) -> None:
    torch.manual_seed(0)
    attention = TargetAttention(4, att_type).double()
    index, mask = torch.randint(0, 9, (6, 5)), torch.rand(6, 5) < 0.7
    found = []
    for plain_path in (False, True):
        use_plain_attention(attention, plain_path)
        assert attention.fused is not plain_path
        torch.manual_seed(1)
        table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
        query = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        out = attention(query, table, index, mask)
        (out.pooled * torch.arange(4)).sum().backward()
        own = [p.grad.clone() for p in attention.parameters() if p.grad is not None]
        attention.zero_grad()
        found.append([out.pooled, out.weights, table.grad, query.grad, *own])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_shrunken_token_is_not_attended_and_has_bounded_gradients() -> None:
    attention = TargetAttention(2, "sigmoid")
    table = unit(0, 0)
    table[2] *= 1e-7
    table.requires_grad_()
    out = attention(
        table[[1]].detach(), table, torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    )
    assert out.weights[0, 0] > 0.99
    assert out.weights[0, 1] < 0.01
    out.pooled.sum().backward()
    assert table.grad.abs().max() < 100


# --- what is reported -------------------------------------------------------------------


def test_meter_by_hand() -> None:
    """Weights 1/2, 1/4, 1/8, 1/16, 1/32, 1/32 and a mean; the short row does not count."""
    meter = AttentionMeter()
    w = torch.tensor(
        [[1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 32], [1 / 6] * 6, [0.9, 0.1] + [0] * 4]
    )
    mask = torch.tensor([[True] * 6, [True] * 6, [True, True] + [False] * 4])
    meter.add(w, mask)
    bits = (1 / 2 + 2 / 4 + 3 / 8 + 4 / 16 + 5 / 32 + 5 / 32) / math.log2(6)
    logits = torch.tensor([1.0, 2, 3, 4, 5, 5]) * math.log(2)
    spread = float(logits.std(correction=0))
    figures = meter.report("history")
    assert figures["attention_entropy_history"] == pytest.approx((bits + 1) / 2)
    assert figures["attention_logit_sd_history"] == pytest.approx(spread / 2)
    meter.reset()
    assert meter.report("history") == {}


def test_meter_undoes_each_forms_weights() -> None:
    logits = torch.tensor([[-2.0, -1, 0, 1, 2, 3]])
    mask = torch.ones(1, 6, dtype=torch.bool)
    spread = float(logits.double().std(correction=0))
    for kind, weights in (
        ("softmax", logits.softmax(1)),
        ("sigmoid", logits.sigmoid()),
        ("linear", logits),
    ):
        meter = AttentionMeter()
        meter.add(weights, mask, kind)
        assert meter.report("x")["attention_logit_sd_x"] == pytest.approx(spread, rel=1e-4), kind
