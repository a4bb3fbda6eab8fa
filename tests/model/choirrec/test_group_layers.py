"""Prefix fusion (Eq. 4-5), injection (Eq. 6), reliability network and group lookups."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_choir.model.choirrec.group_encoder import GroupLookup
from recbole_choir.model.choirrec.group_injection import AsymmetricInjection
from recbole_choir.model.choirrec.prefix_fusion import PrefixFusion
from recbole_choir.model.choirrec.reliability import ReliabilityNetwork, count_bucket
from recbole_choir.model.layers.field_embedding import ItemEncoder


def small_fusion() -> PrefixFusion:
    """Two levels, d_e = 1, weights set by hand; the final MLP passes its input through."""
    fusion = PrefixFusion([2, 2], size=1, hidden=2, out=2)
    fusion.levels[0].weight.data = torch.tensor([[0.0], [0.5], [1.0]])
    fusion.levels[1].weight.data = torch.tensor([[0.0], [0.25], [-0.25]])
    fusion.fuse[0].weight.data = torch.tensor([[2.0, 4.0]])
    fusion.fuse[0].bias.data = torch.tensor([0.1])
    for layer in (fusion.project[0][0], fusion.project[1]):
        layer.weight.data = torch.eye(2)
        layer.bias.data = torch.zeros(2)
    return fusion


def test_equations_4_and_5_by_hand() -> None:
    fusion = small_fusion()
    f1, f2 = fusion.levelwise(torch.tensor([[2, 1], [1, 0]]))
    assert f1.tolist() == [[1.0], [0.5]]
    # tanh(2 * 1 + 4 * .25 + .1) and, code 0 being a zero embedding, tanh(2 * .5 + .1)
    torch.testing.assert_close(f2, torch.tensor([[math.tanh(3.1)], [math.tanh(1.1)]]))
    e = fusion(torch.tensor([[2, 1]]))
    raw = torch.tensor([1.0, math.tanh(3.1)])
    torch.testing.assert_close(e[0], raw / raw.norm())


def test_group_vector_has_norm_one_times_the_scale() -> None:
    torch.manual_seed(0)
    codes = torch.tensor([[1, 2, 3], [2, 0, 0], [3, 4, 0]])
    for scale in (1.0, 5.0):
        e = PrefixFusion([3, 4, 5], scale=scale)(codes)
        torch.testing.assert_close(e.norm(dim=-1), torch.full((3,), scale))
    raw = PrefixFusion([3, 4, 5], normalize=False)(codes)
    assert (raw.norm(dim=-1) - 1).abs().min() > 1e-3


def test_no_group_is_the_zero_vector_with_finite_gradients() -> None:
    fusion = PrefixFusion([3, 4])
    e = fusion(torch.tensor([[0, 0], [1, 1]]))
    assert torch.equal(e[0], torch.zeros(32))
    e.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters())
    alone = PrefixFusion([3, 4])
    alone(torch.tensor([[0, 0]])).sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in alone.parameters())


def test_a_deeper_level_depends_on_its_parent() -> None:
    torch.manual_seed(0)
    fusion = PrefixFusion([3, 4])
    same_leaf = fusion.levelwise(torch.tensor([[1, 2], [3, 2]]))[1]
    assert not torch.allclose(same_leaf[0], same_leaf[1])


def test_equation_6_by_hand() -> None:
    injection = AsymmetricInjection(2, 1, hidden=2, out=1)
    injection.first.weight.data = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.0]])
    injection.first.bias.data = torch.tensor([0.5, 1.0])
    injection.second.weight.data = torch.tensor([[3.0, 10.0]])
    injection.second.bias.data = torch.tensor([-1.0])
    out = injection(torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0]]))
    # hidden = relu([1 + 4 + .5, -4 + 1]) = [5.5, 0]; 3 * 5.5 - 1
    assert out.tolist() == [[15.5]]


@pytest.mark.parametrize("stop", [True, False])
def test_stop_gradient_holds_back_the_group_side_alone(stop: bool) -> None:
    torch.manual_seed(0)
    injection = AsymmetricInjection(3, 3, hidden=4, out=2, stop_gradient=stop)
    group = torch.randn(5, 3, requires_grad=True)
    individual = torch.randn(5, 3, requires_grad=True)
    injection(group, individual).sum().backward()
    assert (group.grad is None) == stop
    assert individual.grad is not None
    assert individual.grad.abs().sum() > 0


def test_buckets_of_counts() -> None:
    counts = torch.tensor([0.0, 1, 2, 3, 6, 7, 14, 15, 1023, 1e30])
    assert count_bucket(counts).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 10, 23]


def test_reliability_heads_by_hand() -> None:
    net = ReliabilityNetwork(2, hidden=(1,), bucket_size=1)
    net.bucket.weight.data = torch.arange(24.0).unsqueeze(1)
    net.tower[0][0].weight.data = torch.tensor([[1.0, 2.0, 0.5]])
    net.tower[0][0].bias.data = torch.tensor([0.0])
    net.distill.weight.data = torch.tensor([[0.1, 0.2]])
    net.distill.bias.data = torch.tensor([0.3])
    net.fusion.weight.data = torch.tensor([[-1.0]])
    gates = net(torch.tensor([[1.0, 0.5]]), torch.tensor([3.0]))  # bucket 2; tower 1 + 1 + 1 = 3
    torch.testing.assert_close(gates.distill, torch.sigmoid(torch.tensor([0.3 + 0.4 + 0.3])))
    torch.testing.assert_close(gates.fusion, torch.sigmoid(torch.tensor([-3.0 - 0.5])))


def test_fusion_gate_starts_near_038() -> None:
    torch.manual_seed(0)
    gate = ReliabilityNetwork(5)(torch.zeros(1, 5), torch.zeros(1)).fusion
    assert gate.item() == pytest.approx(0.3775, abs=0.05)


def test_gates_lie_strictly_between_0_and_1() -> None:
    torch.manual_seed(0)
    gates = ReliabilityNetwork(5)(torch.randn(100, 5) * 3, torch.arange(100.0))
    for gate in gates:
        assert gate.min() > 0
        assert gate.max() < 1


def test_a_frozen_distill_head_sends_no_gradient_anywhere() -> None:
    net = ReliabilityNetwork(5, freeze_distill=True)
    assert not net(torch.randn(4, 5), torch.ones(4)).distill.requires_grad
    assert net(torch.randn(4, 5), torch.ones(4)).fusion.requires_grad
    alone = ReliabilityNetwork(5, fusion_head=False, freeze_distill=True)
    assert not any(p.requires_grad for p in alone.parameters())


def test_group_lookup_reads_by_snapshot_and_user(helpers) -> None:
    groups = helpers.groups()
    lookup = GroupLookup(groups, helpers.schema.user_attrs)
    snapshot, user = torch.tensor([0, 1, 2, 2]), torch.tensor([5, 5, 5, 0])
    assert lookup.group_of(snapshot, user).tolist() == [
        0, int(groups.user_group[1, 5]), int(groups.user_group[2, 5]), 0,
    ]  # fmt: skip
    assert torch.equal(lookup.codes_of(snapshot, user)[2], groups.user_codes[2, 5].long())
    group = lookup.group_of(snapshot, user)
    for values, spec in zip(lookup.attributes(group), helpers.schema.user_attrs, strict=True):
        assert torch.equal(values, groups.group_attr[spec.name][group])
    assert not lookup.state_dict()  # the table is the dataset's, not the checkpoint's


def test_group_lookup_skips_fields_the_table_does_not_describe(helpers) -> None:
    groups = helpers.groups()
    del groups.group_attr["age"]
    groups.group_attr["unknown"] = torch.zeros(7)
    lookup = GroupLookup(groups, helpers.schema.user_attrs)
    assert [f.name for f in lookup.fields] == ["gender", "hobbies"]
    assert lookup.positions == [0, 2]


@pytest.mark.parametrize("n_rows", [4, 30])
@pytest.mark.parametrize("whole", [True, False])
def test_group_sequences_are_the_same_by_every_route(helpers, n_rows: int, whole: bool) -> None:
    groups, inputs = helpers.groups(), helpers.dataset().model_inputs
    lookup = GroupLookup(groups, inputs.schema.user_attrs)
    encoder = ItemEncoder(40, inputs.schema.item_attrs, inputs.item_features, 4)
    group = torch.randint(0, 7, (n_rows,))
    table, rows, mask = lookup.sequence(group, encoder.tokens(10**6 if whole else 1))
    ids = groups.group_seq[group].long()
    assert torch.equal(table[rows], encoder(ids))
    assert torch.equal(mask, ids > 0)
