"""Cluster averages (Eq. 9) and the cluster behaviour sequence."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.data.clusters.behaviour import ClusterBehaviour
from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.errors import DataError
from recbole_choir.model.aktrec.adaptive_embedding import ClusterBuffers
from recbole_choir.model.aktrec.cluster_average import FLOOR, ClusterAverage
from recbole_choir.model.aktrec.cluster_view import ClusterSequence

# Snapshot 1: cluster 2 = {1, 2, 3}, cluster 1 = {4}. Snapshot 2: cluster 4 = {1, 4}, cluster 5 =
# {2, 3}. Cluster 3 has nobody.
CLUSTER = [[0, 0, 0, 0, 0], [0, 2, 2, 2, 1], [0, 4, 5, 5, 4]]
EXPOSURES = [[0, 0, 0, 0, 0], [0, 1, 3, 0, 0], [0, 7, 0, 0, 1]]


def a_side() -> ClusterSide:
    log = np.log1p(np.array(EXPOSURES, dtype=np.float32))
    stats = torch.from_numpy(np.stack([np.zeros_like(log), (log - 1.3) / 0.7], axis=-1))
    return ClusterSide.build(
        torch.tensor(CLUSTER).int(),
        torch.zeros(3, 5, 2, dtype=torch.int32),
        6,
        stats,
        np.array([0, 5, 5, 5, 5]),
        np.zeros(5, dtype=bool),
        log_exposures=torch.from_numpy(log),
    )


def features(snapshot: int) -> torch.Tensor:
    """Different at every snapshot, so that a mix-up shows."""
    return torch.arange(10.0).view(5, 2) + 100 * snapshot


EXPECTED = [[0, 0], [108, 109], [104, 105], [0, 0], [205, 206], [205, 206]]


@pytest.mark.parametrize("mode", ["snapshot", "grad", "ema"])
def test_plain_means_by_hand(mode: str) -> None:
    average = ClusterAverage(a_side(), 2, mode)
    assert average.compute(features).tolist() == EXPECTED
    average.refresh(features)
    clusters = torch.tensor([4, 0, 2, 3])
    assert average.lookup(clusters).tolist() == [[205, 206], [0, 0], [104, 105], [0, 0]]


def test_each_snapshot_is_asked_for_once() -> None:
    asked: list[int] = []

    def at(snapshot: int) -> torch.Tensor:
        asked.append(snapshot)
        return features(snapshot)

    ClusterAverage(a_side(), 2).refresh(at)
    assert asked == [1, 2]


def test_weights_by_log_exposures() -> None:
    average = ClusterAverage(a_side(), 2, weight="logfreq")
    got = average.compute(features)
    # cluster 2 at snapshot 1: log(1 + n) of 1, 3, 0 exposures
    w = np.log1p([1, 3, 0]) + FLOOR
    expected = (w[:, None] * features(1)[1:4].numpy()).sum(0) / w.sum()
    np.testing.assert_allclose(got[2], expected, rtol=1e-5)
    np.testing.assert_allclose(got[1], features(1)[4])  # one member without events
    np.testing.assert_allclose(got[5], features(2)[2:4].mean(0))  # two without: the plain mean
    w = np.log1p([7, 1]) + FLOOR
    expected = (w[:, None] * features(2)[[1, 4]].numpy()).sum(0) / w.sum()
    np.testing.assert_allclose(got[4], expected, rtol=1e-5)


def test_weights_by_exposures_nobody_counted_are_refused() -> None:
    side = dataclasses.replace(a_side(), log_exposures=None)
    ClusterAverage(side, 2)
    with pytest.raises(DataError, match="clust_weight: logfreq expects exposures") as error:
        ClusterAverage(side, 2, weight="logfreq")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weight", ["uniform", "logfreq"])
def test_gradient_of_live_averages(weight: str) -> None:
    average = ClusterAverage(a_side(), 2, "grad", weight)
    x = torch.randn(5, 2, requires_grad=True)
    average.compute(lambda s: x * s)[2].sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0], torch.zeros(2))
    assert torch.equal(x.grad[4], torch.zeros(2))  # of another cluster
    torch.testing.assert_close(x.grad.sum(0), torch.ones(2))
    if weight == "uniform":
        torch.testing.assert_close(x.grad[1:4], torch.full((3, 2), 1 / 3))


def test_a_buffer_carries_no_gradient() -> None:
    average = ClusterAverage(a_side(), 2)
    x = torch.randn(5, 2, requires_grad=True)
    average.refresh(lambda s: x)
    assert not average.lookup(torch.tensor([1, 2])).requires_grad


def test_a_moving_average_moves_towards_the_members_of_a_batch() -> None:
    average = ClusterAverage(a_side(), 2, "ema", keep=0.75)
    average.refresh(features)
    batch = torch.tensor([[8.0, 8.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    average.observe(torch.tensor([4, 2, 2, 0]), batch)
    expected = torch.tensor(EXPECTED).float()
    expected[4] = 0.75 * expected[4] + 0.25 * torch.tensor([8.0, 8.0])
    expected[2] = 0.75 * expected[2] + 0.25 * torch.tensor([2.0, 2.0])
    torch.testing.assert_close(average.table, expected)  # row 0 too: nobody's
    average.refresh(features)
    torch.testing.assert_close(average.table, expected)  # started once, then it only moves


def test_a_moving_average_is_saved_and_an_exact_one_is_not() -> None:
    average = ClusterAverage(a_side(), 2, "ema")
    average.refresh(features)
    state = average.state_dict()
    assert list(state) == ["table"]
    other = ClusterAverage(a_side(), 2, "ema")
    other.load_state_dict(state)
    other.refresh(lambda s: torch.zeros(5, 2))
    assert torch.equal(other.table, average.table)
    assert ClusterAverage(a_side(), 2).state_dict() == {}


def test_means_over_many_clusters_agree_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    n, s, g = 200, 3, 17
    which = rng.integers(0, g + 1, (s + 1, n))
    which[0] = which[:, 0] = 0
    rows = np.where(which > 0, which + (np.arange(s + 1)[:, None] - 1) * g, 0)
    side = ClusterSide.build(
        torch.from_numpy(rows).int(),
        torch.zeros(s + 1, n, 1, dtype=torch.int32),
        1 + s * g,
        torch.zeros(s + 1, n, 1),
        np.ones(n, dtype=np.int64),
        np.zeros(n, dtype=bool),
    )
    x = torch.from_numpy(rng.normal(size=(s + 1, n, 3))).float()
    got = ClusterAverage(side, 3).compute(lambda t: x[t])
    for row in range(1 + s * g):
        members = [x[t, i] for t in range(1, s + 1) for i in range(n) if rows[t, i] == row]
        expected = torch.stack(members).mean(0) if row and members else torch.zeros(3)
        torch.testing.assert_close(got[row], expected)


def test_sequence_reads_the_candidates_code_at_the_rows_snapshot() -> None:
    codes = torch.tensor([[[0]] * 4, [[0], [1], [2], [0]], [[0], [2], [2], [1]]]).int()
    items = ItemTables(codes[..., 0], codes, [2], 3, codes[..., 0], torch.zeros(1, 2))
    # Lists of cluster 1: code 1: 11, 12; code 2: 13. Of cluster 2: code 2: 14, 15, 16.
    lengths = torch.tensor([0, 0, 0, 0, 2, 1, 0, 0, 3])  # by cluster * 3 + code
    behaviour = ClusterBehaviour(
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
        items=torch.tensor([11, 12, 13, 14, 15, 16, 0]),
        n_top=2,
        length=3,
    )
    sequence = ClusterSequence(behaviour, items)
    cluster = torch.tensor([1, 1, 1, 2, 2, 0, 1])
    snapshot = torch.tensor([1, 1, 2, 2, 1, 1, 0])
    item = torch.tensor([1, 2, 1, 2, 1, 1, 1])
    assert sequence(cluster, snapshot, item).tolist() == [
        [11, 12, 0],
        [13, 0, 0],
        [13, 0, 0],  # item 1 has code 2 by then
        [14, 15, 16],
        [0, 0, 0],  # nothing of code 1
        [0, 0, 0],  # no cluster
        [0, 0, 0],  # no code before the first snapshot
    ]


def test_cluster_buffers_are_those_of_the_dataset(helpers: Any) -> None:
    side = helpers.akt_dataset().model_inputs.clusters.users
    tables = ClusterBuffers(side)
    assert tables.state_dict() == {}
    assert tables.n_clusters == side.n_clusters
    again = tables.side
    for name in ("cluster", "stats", "tail", "seen", "home", "partner_ids", "partner_cum"):
        assert torch.equal(getattr(again, name), getattr(side, name)), name
    snapshot, user = torch.tensor([1, 2, 0]), torch.tensor([3, 4, 5])
    expected = [int(side.cluster[1, 3]), int(side.cluster[2, 4]), 0]
    assert tables.cluster_of(snapshot, user).tolist() == expected
