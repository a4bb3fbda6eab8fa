"""Cluster-guided adaptive embedding: the gate, where c starts, and what unseen ids get."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.model.aktrec import cluster_start
from recbole_choir.model.aktrec.activity_gate import ActivityGate
from recbole_choir.model.aktrec.adaptive_embedding import AdaptiveEmbedding, ClusterBuffers
from recbole_choir.model.aktrec.cluster_embedding import ClusterEmbedding
from recbole_choir.model.settings.aktrec import ClusterInit

CODES = torch.tensor([[[0, 0]] * 5, [[0, 0], [1, 2], [1, 2], [2, 1], [0, 0]]])  # [2, 5, 2]
SNAPSHOT = torch.ones(5, dtype=torch.long)
IDS = torch.arange(5)


def a_side(seen: list[int], tail: list[int], home: list[int], stats: Any = None) -> ClusterSide:
    n = len(home)
    cluster = torch.stack([torch.zeros(n), torch.tensor(home)]).int()
    if stats is None:
        stats = torch.arange(2.0 * n).view(2, n, 1)
    return ClusterSide.build(
        cluster,
        torch.zeros(2, n, 2, dtype=torch.int32),
        int(max(home)) + 1,
        stats,
        torch.tensor(seen).numpy() * 10,
        torch.tensor(tail).bool().numpy(),
    )


def an_embedding(side: ClusterSide, mode: str = "per_id", **settings: Any) -> AdaptiveEmbedding:
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    cluster = ClusterEmbedding(CODES, [2, 2], start, 3, 0.5, mode)
    return AdaptiveEmbedding(5, 3, 0.5, cluster, tables=ClusterBuffers(side), **settings)


ALL_SEEN = {"seen": [0, 1, 1, 1, 1], "tail": [0, 1, 0, 0, 1], "home": [0, 1, 1, 2, 0]}


def test_gate_is_a_sigmoid_mlp_that_starts_at_one_half() -> None:
    gate = ActivityGate(2, (3,), 2)
    x = torch.randn(4, 2)
    assert torch.equal(gate(x), torch.full((4, 2), 0.5))
    for p in gate.parameters():
        torch.nn.init.normal_(p)
    first, last = gate.mlp[0][0], gate.mlp[-1]
    hidden = torch.relu(x @ first.weight.T + first.bias)
    torch.testing.assert_close(gate(x), torch.sigmoid(hidden @ last.weight.T + last.bias))


def test_equation_6_by_hand() -> None:
    side = a_side(**ALL_SEEN)
    e = an_embedding(side)
    for p in e.gate.parameters():
        torch.nn.init.normal_(p)
    c, d = e.cluster.own.weight.clone(), e.individual.weight.clone()
    r = e.gate(side.stats[1])  # by the activity at the snapshot
    assert r.shape == (5, 1)
    assert r.unique().numel() == 5
    expected = r * c + (1 - r) * d
    torch.testing.assert_close(e(IDS, SNAPSHOT), expected)
    torch.testing.assert_close(e.at(1), expected)
    torch.testing.assert_close(e.whole()[1], expected)
    # by an activity that the caller knows better
    r = e.gate(side.stats[0])
    torch.testing.assert_close(e.parts(IDS, SNAPSHOT, side.stats[0]).fused, r * c + (1 - r) * d)


def test_padding_is_zero_and_gets_no_gradient() -> None:
    e = an_embedding(a_side(**ALL_SEEN))
    for out in (e(IDS, SNAPSHOT), e.whole()[0], e.at(1)):
        assert torch.equal(out[0], torch.zeros(3))
        e.zero_grad()
        out.sum().backward()
        for table in (e.cluster.own, e.individual):
            assert torch.equal(table.weight.grad[0], torch.zeros(3))
            assert table.weight.grad[1:].abs().min() > 0


def test_one_gate_a_dimension() -> None:
    e = an_embedding(a_side(**ALL_SEEN), gate_size=3)
    for p in e.gate.parameters():
        torch.nn.init.normal_(p)
    r = e.gate_at(1)
    assert r.shape == (5, 3)
    expected = r * e.cluster.own.weight + (1 - r) * e.individual.weight
    torch.testing.assert_close(e.at(1), expected)


@pytest.mark.parametrize(("r", "keeps"), [(1.0, "cluster"), (0.0, "individual")])
def test_a_constant_gate_is_the_ablation_bit_for_bit(r: float, keeps: str) -> None:
    e = an_embedding(a_side(**ALL_SEEN), gate=r)
    assert e.gate is None
    table = e.cluster.own if keeps == "cluster" else e.individual
    assert not e.varies
    assert torch.equal(e.whole(), table.weight)
    assert torch.equal(e(IDS, SNAPSHOT), table.weight)


def test_without_a_part_the_other_stands_alone() -> None:
    side = a_side(**ALL_SEEN)
    only_c = an_embedding(side, use_individual=False)
    assert torch.equal(only_c(IDS, SNAPSHOT), only_c.cluster.own.weight)
    assert only_c.individual is None
    only_d = AdaptiveEmbedding(5, 3, 0.5)
    assert torch.equal(only_d.whole(), only_d.individual.weight)
    assert torch.equal(only_d.at(1), only_d.individual.weight)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("unseen_gate", ["gate", "one"])
def test_an_unseen_id_gets_the_mean_of_its_clusters_heads(unseen_gate: str, size: int) -> None:
    """``d := 0``; r is the gate's by the id's own activity, or 1: ``e = r c``."""
    # Cluster 1: heads 1 and 2, tail 3, unseen 4. Cluster 2: tail 5, unseen 6. Cluster 3: unseen 7.
    home = [0, 1, 1, 1, 1, 2, 2, 3, 0]
    side = a_side([0, 1, 1, 1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1], home)
    cluster = ClusterEmbedding(torch.ones(2, 9, 2).int(), [2, 2], torch.randn(9, 3), 3)
    settings = {"gate_size": size, "unseen_gate": unseen_gate}
    e = AdaptiveEmbedding(9, 3, 0.5, cluster, tables=ClusterBuffers(side), **settings)
    for p in e.gate.parameters():
        torch.nn.init.normal_(p)
    e.refresh()
    c = cluster.own.weight
    # G_1 by hand: a hidden layer with ReLU, and a sigmoid.
    hidden, last = e.gate.mlp[0][0], e.gate.mlp[-1]
    stats = (side.stats - side.stats.mean()) / side.stats.std()
    e.tables.stats.copy_(stats)
    out = e.at(1)
    h = torch.relu(stats[1] @ hidden.weight.T + hidden.bias)
    gate = torch.sigmoid(h @ last.weight.T + last.bias)
    assert gate.shape == (9, size)
    assert ((gate - 1).abs() > 1e-4).all()
    r = gate if unseen_gate == "gate" else torch.ones_like(gate)
    torch.testing.assert_close(out[4], r[4] * (c[1] + c[2]) / 2)
    torch.testing.assert_close(out[6], r[6] * c[5])  # no head: all seen members
    torch.testing.assert_close(out[7], r[7] * c[7])  # nobody: its own
    torch.testing.assert_close(out[8], r[8] * c[8])  # no cluster: its own
    for seen in (1, 2, 3, 5):  # whatever the setting
        mine = gate[seen] * c[seen] + (1 - gate[seen]) * e.individual.weight[seen]
        torch.testing.assert_close(out[seen], mine)
    ids = torch.arange(9)
    torch.testing.assert_close(e(ids, torch.ones_like(ids)), out)
    torch.testing.assert_close(e.whole()[1], out)
    with torch.no_grad():
        cluster.own.weight[1] += 1
    torch.testing.assert_close(e.at(1)[4], r[4] * (c[1] - 1 + c[2]) / 2)  # as of the last refresh
    e.refresh()
    torch.testing.assert_close(e.at(1)[4], r[4] * (c[1] + c[2]) / 2)


@pytest.mark.parametrize(("unseen_gate", "r"), [("gate", 0.25), ("one", 1.0)])
def test_a_constant_gate_of_an_unseen_id(unseen_gate: str, r: float) -> None:
    side = a_side([0, 1, 0, 1, 1], [0, 0, 1, 0, 1], [0, 1, 1, 2, 0])
    e = an_embedding(side, gate=0.25, unseen_gate=unseen_gate)
    e.refresh()
    torch.testing.assert_close(e.at(1)[2], r * e.cluster.own.weight[1])


def test_an_unseen_id_gets_no_gradient() -> None:
    side = a_side([0, 1, 0, 1, 1], [0, 0, 1, 0, 1], [0, 1, 1, 2, 0])
    e = an_embedding(side)
    e.refresh()
    e.at(1).sum().backward()
    assert e.individual.weight.grad[2].tolist() == [0, 0, 0]
    assert e.cluster.own.weight.grad[2].tolist() == [0, 0, 0]  # its c is a constant mean
    assert e.cluster.own.weight.grad[1].abs().min() > 0


def test_everybody_seen_needs_no_stand_in() -> None:
    assert an_embedding(a_side(**ALL_SEEN)).head_means is None


def test_c_of_its_own_starts_where_told() -> None:
    start = torch.randn(5, 3)
    c = ClusterEmbedding(CODES, [2, 2], start, 3, 0.5, "per_id")
    assert torch.equal(c.own.weight[1:], start[1:])
    assert torch.equal(c.own.weight[0], torch.zeros(3))
    assert not c.varies


def test_shared_c_is_the_sum_of_its_codes_vectors() -> None:
    c = ClusterEmbedding(CODES, [2, 2], None, 3, 0.5, "shared")
    one, two = (level.weight for level in c.codes.levels)
    expected = torch.stack(
        [torch.zeros(3), one[1] + two[2], one[1] + two[2], one[2] + two[1], torch.zeros(3)]
    )
    torch.testing.assert_close(c(IDS, SNAPSHOT), expected)
    torch.testing.assert_close(c.at_newest(IDS), expected)
    torch.testing.assert_close(c.whole()[1], expected)
    assert torch.equal(c(IDS, torch.zeros(5, dtype=torch.long)), torch.zeros(5, 3))


def test_shared_plus_delta_starts_as_shared_and_moves_alone() -> None:
    c = ClusterEmbedding(CODES, [2, 2], None, 3, 0.5, "shared_plus_delta")
    assert torch.equal(c.at(1)[1], c.at(1)[2])
    with torch.no_grad():
        c.own.weight[1] += 1
    torch.testing.assert_close(c.at(1)[1], c.at(1)[2] + 1)
    torch.testing.assert_close(c.whole()[1], c.at(1))


def test_level_vectors_sum_and_share_prefixes() -> None:
    torch.manual_seed(0)
    codes = torch.tensor([[0, 0], [1, 1], [1, 1], [1, 2], [2, 1], [2, 2]])
    v = cluster_start.level_vectors(codes, [2, 2], 4, 0.1)
    assert torch.equal(v[0], torch.zeros(4))
    assert torch.equal(v[1], v[2])
    torch.testing.assert_close(v[1] + v[5], v[3] + v[4])  # each code adds its own vector
    assert not torch.equal(v[1], v[5])
    wide = cluster_start.level_vectors(torch.randint(1, 9, (4000, 3)), [8] * 3, 64, 0.1)
    assert wide.std().item() == pytest.approx(0.1, rel=0.1)


def test_centroids_are_means_of_the_clusters_vectors() -> None:
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    items = ItemTables(
        # item 4 has no vector, item 5 no cluster
        item_cluster=torch.tensor([[0] * 6, [0, 5, 5, 7, 7, 0]]).int(),
        item_codes=torch.zeros(2, 6, 2).int(),
        n_codes=[2, 2],
        n_clusters=9,
        item_vector=torch.tensor([[0] * 6, [0, 1, 2, 3, 0, 4]]).int(),
        vectors=vectors,
    )
    centroids, row = cluster_start.item_centroids(items)
    assert centroids.tolist() == [[2, 0], [0, 4]]
    assert row.tolist() == [-1, 0, 0, 1, 1, -1]
    groups = SimpleNamespace(
        group_seq=torch.tensor([[0, 0], [1, 3], [4, 0], [2, 2]]),
        user_group=torch.tensor([[0] * 5, [0, 1, 2, 3, 1]]),
    )
    centroids, row = cluster_start.user_centroids(groups, items)
    assert centroids.tolist() == [[0.5, 2], [3, 0]]  # what cluster 2 chose has no vector
    assert row.tolist() == [-1, 0, -1, 1, 0]
    start = cluster_start.centroid_vectors(centroids, row, 3, 0.1)
    assert torch.equal(start[0], torch.zeros(3))
    assert torch.equal(start[2], torch.zeros(3))
    assert torch.equal(start[1], start[4])
    assert not torch.equal(start[1], start[3])


def test_an_id_starts_from_the_first_snapshot_that_knows_it() -> None:
    """Later snapshots know what its training rows are asked about: they change nothing."""
    codes = torch.tensor([[[0, 0], [0, 0]], [[0, 0], [2, 1]], [[1, 1], [1, 2]]])
    assert cluster_start.earliest(codes).tolist() == [[1, 1], [2, 1]]
    assert cluster_start.earliest(codes[..., 0]).tolist() == [1, 2]
    assert cluster_start.earliest(torch.zeros(3, 2)).tolist() == [0, 0]

    def start(table: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return cluster_start.initial_vectors("levels", table, [2, 2], pytest.fail, 4, 0.1)

    later = codes.clone()
    later[2, 1] = torch.tensor([2, 2])
    assert torch.equal(start(later), start(codes))
    sooner = codes.clone()
    sooner[1, 1] = torch.tensor([2, 2])
    assert not torch.equal(start(sooner)[1], start(codes)[1])


def test_projection_keeps_distances_in_its_directions() -> None:
    torch.manual_seed(0)
    flat = torch.randn(20, 2) @ torch.randn(2, 6) + torch.randn(6)  # a plane in six dimensions
    out = cluster_start.project_centroids(flat, 4, 0.1)
    assert out.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    ratio = torch.pdist(out) / torch.pdist(flat)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
    assert torch.equal(out, cluster_start.project_centroids(flat, 4, 0.1))
    wide = cluster_start.project_centroids(flat[:, :3], 5, 0.1)  # wider than the vectors
    assert wide[:, 3:].abs().max() == 0
    assert wide.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)
    same = torch.ones(3, 2)  # nothing tells them apart
    assert torch.equal(cluster_start.project_centroids(same, 2, 0.1), torch.zeros(3, 2))
    assert cluster_start.project_centroids(torch.zeros(0, 4), 2, 0.1).shape == (0, 2)


def test_levels_fitted_to_vectors_that_are_sums_find_them() -> None:
    torch.manual_seed(0)
    codes = torch.cartesian_prod(torch.arange(1, 4), torch.arange(1, 3))
    one, two = torch.randn(4, 5), torch.randn(3, 5)
    target = one[codes[:, 0]] + two[codes[:, 1]]
    tables = cluster_start.fit_levels(target, codes, [3, 2])
    fitted = tables[0][codes[:, 0]] + tables[1][codes[:, 1]]
    torch.testing.assert_close(fitted, target)
    assert torch.equal(tables[0][0], torch.zeros(5))


def test_initial_vectors_by_name() -> None:
    calls = []

    def centroids() -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        return torch.eye(2), torch.tensor([-1, 0, 0, 1, -1])

    made = {
        init: cluster_start.initial_vectors(init, CODES, [2, 2], centroids, 3, 0.1)
        for init in get_args(ClusterInit)
    }
    assert len(calls) == 1  # costly, and asked for by one of them alone
    for name in ("levels", "centroid"):
        assert torch.equal(made[name][1], made[name][2])  # one cluster
        assert not torch.equal(made[name][1], made[name][3])
        assert torch.equal(made[name][4], torch.zeros(3))  # none
    assert made["random"].unique(dim=0).shape[0] == 5
