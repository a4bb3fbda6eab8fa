"""Asymmetric transfer (Eq. 4), soft orthogonality (Eq. 5) and the distinct ids they act on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.model.aktrec.transfer import (
    AsymmetricTransfer,
    soft_orthogonality,
    squared_cosine,
    weighted_info_nce,
)
from recbole_choir.model.layers.first_occurrence import distinct

N, M = 9, 4
# Two clusters: 1 with heads 1, 2 and tails 3, 4; 2 with head 5 and tail 6. 7 and 8: no partner.
HOME = [0, 1, 1, 1, 1, 2, 2, 3, 0]
TAIL = [0, 0, 0, 1, 1, 0, 1, 0, 1]


def a_side(home: list[int] = HOME, tail: list[int] = TAIL) -> ClusterSide:
    n = len(home)
    return ClusterSide.build(
        torch.stack([torch.zeros(n), torch.tensor(home)]).int(),
        torch.zeros(2, n, 2, dtype=torch.int32),
        max(home) + 1,
        torch.zeros(2, n, 1),
        torch.full((n,), 4).numpy(),
        torch.tensor(tail).bool().numpy(),
    )


def vectors(seed: int = 0, n: int = N) -> torch.Tensor:
    return torch.randn(n, M, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def run(c: torch.Tensor, ids: list[int], side: ClusterSide | None = None, **settings: Any) -> Any:
    transfer = AsymmetricTransfer(**settings)
    batch = distinct(torch.tensor(ids))
    return transfer(batch, a_side() if side is None else side, lambda i: c[i])


def gradient(c: torch.Tensor, ids: list[int], **settings: Any) -> torch.Tensor:
    loss = run(c, ids, **settings).loss
    return torch.autograd.grad(loss, c)[0]


def test_distinct_ids_of_a_batch() -> None:
    found = distinct(torch.tensor([5, 0, 3, 5, 3, 9, 0]))
    assert found.ids[found.first].tolist() == [3, 5, 9]  # not the padding
    weight = found.row_weight(torch.float32)
    assert weight.tolist() == [1, 0, 1, 0, 0, 1, 0]
    assert not distinct(torch.zeros(3, dtype=torch.long)).first.any()
    assert distinct(torch.tensor([4])).first.tolist() == [True]


def test_info_nce_by_hand() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    y = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    excluded = torch.zeros(3, 3, dtype=torch.bool)
    excluded[0, 1] = excluded[1, 1] = True  # a wrong negative; the diagonal says nothing
    weight = torch.tensor([1.0, 10.0, 100.0])
    half = math.sqrt(0.5)
    cosine = [[1.0, None, 0.0], [0.0, 0.0, 1.0], [half, half, half]]
    expected = 0.0
    for i, row in enumerate(cosine):
        terms = [math.exp(s / 0.5) for s in row if s is not None]
        expected += weight[i].item() * -math.log(math.exp(row[i] / 0.5) / sum(terms))
    assert weighted_info_nce(x, y, weight, excluded, 0.5).item() == pytest.approx(expected)


@pytest.mark.parametrize("live", [False, True])
def test_its_gradient_is_that_of_autograd(live: bool) -> None:
    """Against the plain formula; positives are constants, negatives only where detached."""
    generator = torch.Generator().manual_seed(1)
    a, p = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    a, p = a.requires_grad_(), p.requires_grad_()
    weight = torch.tensor([0.5, 1, 0, 2, 1, 1], dtype=torch.float64)
    excluded = torch.rand(6, 6, generator=generator) < 0.4

    def plain() -> torch.Tensor:
        x = torch.nn.functional.normalize(a, dim=1) / 0.1
        y = torch.nn.functional.normalize(p, dim=1)
        eye = torch.eye(6, dtype=torch.bool)
        logits = torch.where(eye, (x * y.detach()).sum(1).unsqueeze(1), x @ y.T)
        logits = logits.masked_fill(excluded & ~eye, float("-inf"))
        return (weight * -torch.log_softmax(logits, dim=1).diagonal()).sum()

    mine = weighted_info_nce(a, p if live else p.detach(), weight, excluded, 0.1)
    torch.testing.assert_close(mine, plain())
    want_a, want_p = torch.autograd.grad(plain(), [a, p])
    got = torch.autograd.grad(mine, [a, p], allow_unused=True)
    torch.testing.assert_close(got[0], want_a)
    if live:
        torch.testing.assert_close(got[1], want_p)
    else:
        assert got[1] is None
    assert torch.equal(got[0][2], torch.zeros(5, dtype=torch.float64))  # weight 0


def test_a_pair_alone_has_no_negative_and_no_loss() -> None:
    x = vectors().detach()[:1]
    assert weighted_info_nce(x, -x, torch.ones(1), torch.zeros(1, 1).bool(), 0.1).item() == 0


def test_equation_4_by_hand() -> None:
    """One partner each, so nothing is left to chance: 1 head and 1 tail in each of two clusters."""
    side = a_side([0, 1, 1, 2, 2], [0, 0, 1, 0, 1])
    c = vectors(n=5)
    out = run(c, [1, 2, 3, 4, 4, 0, 1], side, lambda1=0.3, lambda2=0.7, temperature=0.2)
    unit = torch.nn.functional.normalize(c, dim=1)
    s = (unit @ unit.T) / 0.2

    def info(i: int, own: int, other: int) -> torch.Tensor:
        return torch.logsumexp(torch.stack([s[i, own], s[i, other]]), 0) - s[i, own]

    heads = (info(1, 2, 4) + info(3, 4, 2)) / 2  # negative: the other head's tail
    tails = (info(2, 1, 3) + info(4, 3, 1)) / 2
    torch.testing.assert_close(out.loss, 0.3 * heads + 0.7 * tails)
    assert (int(out.n_ids), int(out.n_paired)) == (4, 4)


def test_same_cluster_is_no_negative() -> None:
    """Both anchors of a class lie in one cluster: each has its positive and nothing else."""
    side = a_side([0, 1, 1, 1, 1], [0, 0, 0, 1, 1])
    assert run(vectors(n=5), [1, 2, 3, 4], side).loss.item() == 0


def test_lambda1_zero_leaves_heads_alone_and_lambda2_zero_tails() -> None:
    head, tail = ~torch.tensor(TAIL).bool(), torch.tensor(TAIL).bool()
    ids, c = [1, 2, 3, 4, 5, 6], vectors()
    without_1 = gradient(c, ids, lambda1=0.0, lambda2=1.0)
    assert torch.equal(without_1[head], torch.zeros_like(without_1[head]))
    assert without_1[[3, 4, 6]].abs().sum(1).min() > 0
    without_2 = gradient(c, ids, lambda1=1.0, lambda2=0.0)
    assert torch.equal(without_2[tail], torch.zeros_like(without_2[tail]))
    assert without_2[[1, 2, 5]].abs().sum(1).min() > 0


def test_live_negatives_let_tails_move_heads() -> None:
    head = ~torch.tensor(TAIL).bool()
    ids, c = [1, 2, 3, 4, 5, 6], vectors()
    live = gradient(c, ids, lambda1=0.0, lambda2=1.0, detach_negatives=False)
    assert live[head].abs().sum() > 0
    detached = run(c, ids, lambda1=0.0, lambda2=1.0)
    same = run(c, ids, lambda1=0.0, lambda2=1.0, detach_negatives=False)
    torch.testing.assert_close(detached.loss, same.loss)  # the value does not depend on it


@pytest.mark.parametrize("ids", [[7, 8, 7], [0, 0], [8]])
def test_nobody_with_a_partner_is_zero_and_connected(ids: list[int]) -> None:
    c = vectors()
    out = run(c, ids)
    assert out.loss.item() == 0
    assert torch.equal(torch.autograd.grad(out.loss, c)[0], torch.zeros(N, M))
    assert int(out.n_paired) == 0
    assert int(out.n_ids) == len(set(ids) - {0})


def test_zero_vectors_are_finite() -> None:
    c = torch.zeros(N, M, requires_grad=True)
    loss = run(c, [1, 2, 3, 4, 5, 6]).loss
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, c)[0]).all()


def test_order_and_repetition_of_rows_do_not_matter() -> None:
    c = vectors()
    first = run(c, [1, 2, 3, 4, 5, 6, 0, 0]).loss
    again = run(c, [6, 0, 5, 0, 3, 4, 2, 1]).loss
    assert torch.equal(first, again)


def test_at_most_so_many_anchors_and_only_such_with_a_partner() -> None:
    asked: list[torch.Tensor] = []
    c = vectors()

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        asked.append(ids)
        return c[ids]

    transfer = AsymmetricTransfer(max_anchors=3)
    for _ in range(20):
        out = transfer(distinct(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])), a_side(), look_up)
        assert asked[-2].shape == (3,)
        assert set(asked[-2].tolist()) <= {1, 2, 3, 4, 5, 6}
        assert len(set(asked[-2].tolist())) == 3
        assert (int(out.n_ids), int(out.n_paired)) == (8, 6)
    assert torch.cat(asked[::2]).unique().tolist() == [1, 2, 3, 4, 5, 6]  # all have their turn


def test_partners_are_of_the_other_class_and_the_own_cluster() -> None:
    asked: list[torch.Tensor] = []
    c = vectors()

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        asked.append(ids)
        return c[ids]

    transfer = AsymmetricTransfer()
    for _ in range(30):
        transfer(distinct(torch.tensor([1, 3, 5, 6])), a_side(), look_up)
    anchors, partners = torch.stack(asked[::2]), torch.stack(asked[1::2])
    assert anchors.unique(dim=0).tolist() == [[1, 3, 5, 6]]
    assert partners[:, 0].unique().tolist() == [3, 4]
    assert partners[:, 1].unique().tolist() == [1, 2]
    assert partners[:, 2].unique().tolist() == [6]
    assert partners[:, 3].unique().tolist() == [5]


def test_draws_go_on_where_the_state_was_saved() -> None:
    c, ids = vectors(), [1, 2, 3, 4, 5, 6]
    transfer = AsymmetricTransfer(seed=3)

    def draw(one: AsymmetricTransfer, n: int) -> list[float]:
        batch = distinct(torch.tensor(ids))
        return [one(batch, a_side(), lambda i: c[i]).loss.item() for _ in range(n)]

    draw(transfer, 5)
    state = transfer.state_dict()
    later = draw(transfer, 6)
    assert len(set(later)) > 1
    other = AsymmetricTransfer(seed=4)
    other.load_state_dict(state)
    assert draw(other, 6) == later
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(transfer, 1)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's numbers are used


def test_equation_5_by_hand() -> None:
    c = torch.tensor([[1.0, 0.0], [3.0, 4.0], [1.0, 1.0], [0.0, 0.0]])
    d = torch.tensor([[0.0, 2.0], [6.0, 8.0], [1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(squared_cosine(c, d), torch.tensor([0.0, 1.0, 0.5, 0.0]))


def test_orthogonality_is_a_mean_over_distinct_users_and_items() -> None:
    c, d = torch.randn(4, 3), torch.randn(4, 3)
    one, two = torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.0, 0, 0, 1])
    values = squared_cosine(c, d)
    expected = (values[0] + values[2] + values[3]) / 3
    torch.testing.assert_close(soft_orthogonality([(c, d, one), (c, d, two)]), expected)
    none = torch.zeros(4)
    assert soft_orthogonality([(c, d, none)]).item() == 0


def test_orthogonality_of_vanishing_vectors_has_a_bounded_gradient() -> None:
    for size in (0.0, 1e-8, 1e-4):
        c = (torch.ones(1, 3) * size).requires_grad_()
        grad = torch.autograd.grad(squared_cosine(c, torch.ones(1, 3)).sum(), c)[0]
        assert torch.isfinite(grad).all()
        assert grad.abs().max() < 2e4
