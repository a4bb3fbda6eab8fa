"""Fusion of the two views (Eq. 10)."""

from __future__ import annotations

import pytest
import torch

from recbole_choir.model.aktrec.view_fusion import Slots, ViewFusion

WIDTHS = (3, 2, 4)


def slots(seed: int, n: int = 5) -> Slots:
    rng = torch.Generator().manual_seed(seed)
    return Slots(*(torch.randn(n, w, generator=rng) for w in WIDTHS))


def randomise(module: torch.nn.Module) -> None:
    for p in module.parameters():
        torch.nn.init.normal_(p)


def test_equation_10_by_hand() -> None:
    fusion = ViewFusion(WIDTHS, 2, gate_hidden=(3,))
    randomise(fusion)
    own, cluster, activity = slots(0), slots(1), torch.randn(5, 2)
    fused, alpha = fusion(own, cluster, activity)
    a = fusion.gate(activity)
    assert alpha is not None
    assert torch.equal(alpha, a[:, 0])
    assert alpha.unique().numel() == 5
    for k in range(3):
        mapped_c = cluster[k] @ fusion.cluster.weights[k].T
        mapped_i = own[k] @ fusion.instance.weights[k].T
        torch.testing.assert_close(fused[k], a * mapped_c + (1 - a) * mapped_i)


def test_it_starts_as_the_plain_average_of_the_views() -> None:
    """Maps start as the identity, the gate at .5: the paper's "w/o HFA gate"."""
    own, cluster = slots(0), slots(1)
    fused, alpha = ViewFusion(WIDTHS, 2)(own, cluster, torch.randn(5, 2))
    half, none = ViewFusion(WIDTHS, 2, gate=0.5)(own, cluster, None)
    assert alpha is not None
    assert torch.equal(alpha, torch.full((5,), 0.5))
    assert none is None
    for k in range(3):
        torch.testing.assert_close(fused[k], (own[k] + cluster[k]) / 2)
        assert torch.equal(fused[k], half[k])


@pytest.mark.parametrize(("alpha", "without"), [(0.0, "use_cluster"), (1.0, "use_instance")])
def test_a_constant_gate_is_the_ablation_bit_for_bit(alpha: float, without: str) -> None:
    constant, ablated = ViewFusion(WIDTHS, 2, alpha), ViewFusion(WIDTHS, 2, **{without: False})
    assert constant.gate is None
    assert ablated.gate is None
    randomise(constant)
    ablated.load_state_dict(constant.state_dict(), strict=False)
    own, cluster = slots(0), slots(1)
    one, _ = constant(own, cluster, None)
    views = (own, None) if without == "use_cluster" else (None, cluster)
    two, _ = ablated(*views, None)
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def test_concatenation_has_neither_gate_nor_maps() -> None:
    fusion = ViewFusion(WIDTHS, 2, fusion="concat")
    assert list(fusion.parameters()) == []
    assert fusion.widths == (6, 4, 8)
    own, cluster = slots(0), slots(1)
    fused, alpha = fusion(own, cluster, None)
    assert alpha is None
    for k in range(3):
        assert torch.equal(fused[k], torch.cat([own[k], cluster[k]], dim=1))
    one_view = ViewFusion(WIDTHS, 2, fusion="concat", use_cluster=False)
    assert one_view.widths == WIDTHS


def test_a_view_that_knows_nothing_says_nothing() -> None:
    fusion = ViewFusion(WIDTHS, 2)
    randomise(fusion)
    empty = Slots(*(torch.zeros(5, w) for w in WIDTHS))
    activity = torch.randn(5, 2)
    fused, alpha = fusion(slots(0), empty, activity)
    mapped = fusion.instance(slots(0))
    assert alpha is not None
    for k in range(3):
        torch.testing.assert_close(fused[k], (1 - alpha).unsqueeze(1) * mapped[k])


@pytest.mark.parametrize("gate", ["learned", 0.3])
def test_alpha_is_zero_where_a_slot_has_no_cluster(gate: float | str) -> None:
    fusion = ViewFusion(WIDTHS, 2, gate)
    randomise(fusion)
    own, cluster, activity = slots(0), slots(1), torch.randn(5, 2)
    known = Slots(*(torch.tensor(k).bool() for k in ([1, 0, 1, 0, 0], [0, 1, 1, 0, 1], [0] * 5)))
    cluster = Slots(*(c * k.unsqueeze(1) for c, k in zip(cluster, known, strict=True)))
    fused, alpha = fusion(own, cluster, activity, known)
    a = fusion.gate(activity) if gate == "learned" else torch.full((5, 1), 0.3)
    if gate == "learned":
        assert torch.equal(alpha, a[:, 0])  # reported as the gate gives it
    mapped_i, mapped_c = fusion.instance(own), fusion.cluster(cluster)
    for k in range(3):
        assert torch.equal(fused[k][~known[k]], mapped_i[k][~known[k]])
        want = a * mapped_c[k] + (1 - a) * mapped_i[k]
        torch.testing.assert_close(fused[k][known[k]], want[known[k]])
    everywhere = Slots(*(torch.ones(5, dtype=torch.bool) for _ in range(3)))
    one, two = fusion(own, cluster, activity, everywhere)[0], fusion(own, cluster, activity)[0]
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    if gate == "learned":
        sum(fused[k][~known[k]].sum() for k in range(3)).backward()
        assert not any(p.grad.any() for p in fusion.gate.parameters())
