"""Clusters that small siblings back off to: averages, stand-ins and negatives of all their members.

Ids 1 and 2 read the deep cluster 1 ("0-0"), id 3 alone in "0-1" reads 2 ("0"), id 4 reads 3 ("1").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.model.aktrec.adaptive_embedding import ClusterBuffers, HeadMeans
from recbole_choir.model.aktrec.cluster_average import ClusterAverage
from recbole_choir.model.aktrec.cluster_start import item_centroids
from recbole_choir.model.aktrec.transfer import AsymmetricTransfer
from recbole_choir.model.layers.first_occurrence import distinct

READ = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 1, 2, 3]]).int()
CODES = torch.tensor([[[0, 0]] * 5, [[0, 0], [1, 1], [1, 1], [1, 2], [2, 1]]]).int()
LEVEL = np.array([0, 2, 1, 1])


def a_side(rows: list[int], tail: list[int], **changes: Any) -> ClusterSide:
    arguments = {"cluster": READ, "codes": CODES, "n_clusters": 4, "level": LEVEL, **changes}
    n = arguments["cluster"].shape[1]
    stats = torch.zeros(len(arguments["cluster"]), n, 1)
    return ClusterSide.build(
        stats=stats, train_rows=np.array(rows), tail=np.array(tail, bool), **arguments
    )


X = torch.tensor([[9.0, 9.0], [1.0, 0.0], [3.0, 2.0], [5.0, 7.0], [8.0, 8.0]])


@pytest.mark.parametrize("mode", ["snapshot", "grad", "ema"])
def test_the_average_of_a_prefix_is_over_all_its_members(mode: str) -> None:
    average = ClusterAverage(a_side([0, 1, 1, 1, 1], [0] * 5), 2, mode)
    assert average.compute(lambda _: X).tolist() == [[0, 0], [2, 1], [3, 3], [8, 8]]


def test_moving_averages_move_every_cluster_of_a_member() -> None:
    side = a_side([0, 1, 1, 1, 1], [0] * 5)
    average = ClusterAverage(side, 2, "ema", keep=0.5)
    average.refresh(lambda _: X)
    tables = ClusterBuffers(side)
    ids = torch.tensor([1, 4])
    clusters = tables.clusters_of(torch.ones(2, dtype=torch.long), ids)
    average.observe(clusters, torch.tensor([[10.0, 11.0], [0.0, 0.0]]))
    # id 1 belongs to 1 and to 2; id 4 to 3 alone
    assert average.table.tolist() == [[0, 0], [6, 6], [6.5, 7], [4, 4]]


def test_an_unseen_id_gets_the_heads_of_its_whole_prefix() -> None:
    side = a_side([0, 1, 1, 0, 1], [0, 0, 1, 1, 0])  # 3 has no training row; of "0", 1 is a head
    head_means = HeadMeans(side, 2)
    head_means.refresh(X)
    assert head_means.replace(X, head_means.row)[3].tolist() == [1.0, 0.0]


def test_members_of_the_anchors_prefix_are_no_negatives() -> None:
    # Head 1 and tail 2 read "0-0", tail 3 alone reads "0", tail 4 and head 5 read "0-2", head 6 and
    # tail 7 read "1-0".
    read = torch.tensor([[0] * 8, [0, 1, 1, 2, 3, 3, 4, 4]]).int()
    first = [[0, 0], [1, 1], [1, 1], [1, 2], [1, 3], [1, 3], [2, 1], [2, 1]]
    side = a_side(
        [0, *[4] * 7], [0, 0, 1, 1, 1, 0, 0, 1], cluster=read,
        codes=torch.tensor([[[0, 0]] * 8, first]).int(), n_clusters=5,
        level=np.array([0, 2, 1, 2, 2]),
    )  # fmt: skip
    c = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def gradient(ids: list[int]) -> torch.Tensor:
        transfer = AsymmetricTransfer(lambda1=0.0, lambda2=1.0)
        loss = transfer(distinct(torch.tensor(ids)), side, lambda i: c[i]).loss
        return torch.autograd.grad(loss, c)[0]

    # The partners of 2 and 4, heads 1 and 5, are both in "0": no negatives of 3.
    g = gradient([2, 3, 4])
    assert g[3].abs().sum() == 0
    assert g[2].abs().sum() > 0  # but 5 is one of 2, and 1 of 4
    assert g[4].abs().sum() > 0
    assert gradient([3, 7])[3].abs().sum() > 0  # and so is 6 of 3


def test_centroids_are_of_all_members() -> None:
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 2.0], [5.0, 7.0], [8.0, 8.0]])
    rows = torch.tensor([[0] * 5, [0, 1, 2, 3, 4]]).int()
    items = ItemTables(READ, CODES, [2, 2], 4, rows, vectors, cluster_level=LEVEL)
    centroids, row = item_centroids(items)
    assert centroids[row[1:]].tolist() == [[2, 1], [2, 1], [3, 3], [8, 8]]
