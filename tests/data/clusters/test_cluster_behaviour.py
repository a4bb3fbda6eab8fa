"""Cluster behaviour sequences: no leak, equal to a double loop, looked up without one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.clusters.behaviour import ClusterBehaviour
from recbole_choir.data.statistics import Events
from recbole_choir.errors import DataError

TIMES = np.array([3.0, 6.0])
N_USERS, N_ITEMS, N_TOP, N_CLUSTERS = 6, 7, 2, 5
USER_CLUSTER = np.array([[0] * 6, [0, 1, 1, 1, 2, 0], [0, 3, 3, 3, 3, 4]])
ITEM_TOP = np.array([[0] * 7, [0, 1, 1, 2, 2, 0, 1], [0, 1, 2, 2, 1, 1, 0]])
EVENT = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 8))
Row = tuple[int, int, int]


def build(rows: list[Row], length: int = 2, min_support: int = 2) -> ClusterBehaviour:
    a = np.array(rows, dtype=np.int64).reshape(-1, 3)
    events = Events(a[:, 0], a[:, 1], a[:, 2].astype(np.float64), np.ones(len(a), np.float32))
    return ClusterBehaviour.build(
        events, USER_CLUSTER, ITEM_TOP, TIMES, N_CLUSTERS, N_TOP, length, min_support
    )


def lists(behaviour: ClusterBehaviour) -> dict[tuple[int, int], list[int]]:
    """Every list that is not empty, by cluster and code."""
    cluster, code = np.divmod(np.arange(N_CLUSTERS * (N_TOP + 1)), N_TOP + 1)
    out = behaviour.gather(torch.from_numpy(cluster), torch.from_numpy(code))
    assert out.shape == (len(cluster), behaviour.length)
    found = {}
    for g, c, row in zip(cluster.tolist(), code.tolist(), out.tolist()):
        items = [i for i in row if i]
        assert row == items + [0] * (behaviour.length - len(items))  # padded on the right
        if items:
            found[g, c] = items
    return found


def expected(rows: list[Row], length: int, min_support: int) -> dict[tuple[int, int], list[int]]:
    out = {}
    for s, time in enumerate(TIMES, 1):
        for g in set(USER_CLUSTER[s]) - {0}:
            for c in range(1, N_TOP + 1):
                past = [
                    r
                    for r in rows
                    if r[2] < time and USER_CLUSTER[s, r[0]] == g and ITEM_TOP[s, r[1]] == c
                ]
                counts = Counter(i for _, i, _ in past)
                kept = [i for i in counts if len({u for u, j, _ in past if j == i}) >= min_support]
                kept = sorted(kept, key=lambda i: (-counts[i], i))[:length]
                last = {i: max(t for _, j, t in past if j == i) for i in kept}
                if kept:
                    out[int(g), c] = sorted(kept, key=lambda i: (last[i], i))
    return out


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=40), st.integers(1, 3), st.integers(1, 3))
def test_lists_equal_a_double_loop(rows: list[Row], length: int, min_support: int) -> None:
    assert lists(build(rows, length, min_support)) == expected(rows, length, min_support)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40))
def test_what_a_row_reads_ends_strictly_before_it(rows: list[Row]) -> None:
    whole = lists(build(rows))
    for _, _, time in rows:
        snapshot = int(np.searchsorted(TIMES, time, "left"))
        past = lists(build([r for r in rows if r[2] < time]))
        for g in set(USER_CLUSTER[snapshot].tolist()) - {0}:
            for c in range(1, N_TOP + 1):
                assert whole.get((g, c)) == past.get((g, c))


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40))
def test_a_member_finds_only_what_two_others_chose(rows: list[Row]) -> None:
    for (g, c), items in lists(build(rows, length=9, min_support=3)).items():
        s = 1 if g <= 2 else 2
        for user in np.flatnonzero(USER_CLUSTER[s] == g):
            for item in items:
                others = {
                    u
                    for u, i, t in rows
                    if i == item and u != user and t < TIMES[s - 1] and USER_CLUSTER[s, u] == g
                }
                assert len(others) >= 2
                assert ITEM_TOP[s, item] == c


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Row], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert torch.equal(build(shuffled).items, build(rows).items)
    assert torch.equal(build(shuffled).offsets, build(rows).offsets)


def test_hand_computed() -> None:
    # Snapshot 1, cluster 1 (users 1 to 3), code 1 (items 1, 2, 6).
    rows = [
        (1, 1, 0), (2, 1, 2),  # item 1: two members, twice, last at 2
        (1, 2, 1), (2, 2, 1), (3, 2, 0),  # item 2: three times, last at 1
        (1, 6, 0), (1, 6, 1), (1, 6, 2),  # item 6: one member alone, however often
        (4, 1, 1), (5, 1, 1),  # another cluster, and nobody's
        (3, 1, 3), (3, 6, 3),  # at the snapshot: too late
    ]  # fmt: skip
    found = lists(build(rows))
    assert found[1, 1] == [2, 1]
    assert (1, 2) not in found
    assert lists(build(rows, length=1))[1, 1] == [2]  # the more frequent one
    # Support from three members: item 2 alone.
    assert lists(build(rows, min_support=3)) == {(1, 1): [2], (3, 2): [2], (3, 1): [1]}


def test_unknown_codes_and_no_cluster_are_empty() -> None:
    # Item 5 has no code in the first snapshot, user 5 no cluster.
    rows = [(1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 5, 0), (4, 5, 1), (5, 1, 0), (5, 3, 0)]
    behaviour = build(rows, length=1, min_support=1)
    got = behaviour.gather(torch.tensor([0, 1, 1, 2, 3]), torch.tensor([1, 0, 1, 2, 0]))
    assert got.tolist() == [[0], [0], [1], [0], [0]]
    assert got.dtype == torch.int64


def test_nobody_chose_anything() -> None:
    behaviour = build([])
    assert behaviour.items.tolist() == [0]
    assert behaviour.gather(torch.tensor([1, 4]), torch.tensor([2, 1])).tolist() == [[0], [0]]


def test_rows_of_clusters_in_any_order() -> None:
    # Another tool may number the clusters of the second snapshot first.
    swap = np.array([0, 3, 4, 1, 2])
    rows = [(1, 1, 0), (2, 1, 0), (4, 4, 4), (1, 4, 5), (2, 3, 1)]
    a = np.array(rows)
    events = Events(a[:, 0], a[:, 1], a[:, 2].astype(np.float64), np.ones(len(a), np.float32))
    other = ClusterBehaviour.build(
        events, swap[USER_CLUSTER], ITEM_TOP, TIMES, N_CLUSTERS, N_TOP, 2, 1
    )
    want = {(int(swap[g]), c): i for (g, c), i in lists(build(rows, 2, 1)).items()}
    assert lists(other) == want


def test_moving_keeps_everything() -> None:
    behaviour = build([(1, 1, 0), (2, 1, 0)])
    moved = behaviour.to("cpu")
    assert torch.equal(moved.items, behaviour.items)
    assert torch.equal(moved.offsets, behaviour.offsets)
    assert (moved.n_top, moved.length) == (N_TOP, 1)


@pytest.mark.parametrize("bad", [{"length": 0}, {"min_support": 0}])
def test_settings_are_positive(bad: dict[str, int]) -> None:
    with pytest.raises(DataError, match="at least 1, got"):
        build([], **bad)
