"""As-of statistics of user cluster x item cluster and of the user's own past: no leak, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.cross_statistics import (
    A19_COLUMNS,
    CLUSTER_COLUMNS,
    ItemClusters,
    cross_statistics,
    standardize_cross,
)
from recbole_choir.data.group_statistics import Membership
from recbole_choir.data.statistics import Events

CATEGORIES = np.array([[0, 0], [1, 0], [1, 2], [3, 0], [0, 0], [2, 3]])  # of items 0..5
SNAPSHOT_TIMES = np.array([2.0, 4.0])
USER_CLUSTER = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 2, 0], [0, 3, 4, 4, 4]])
ITEM_CLUSTER = np.array([[0] * 6, [0, 1, 1, 2, 0, 2], [0, 3, 4, 4, 3, 0]])
CODES = np.zeros((3, 6, 2), dtype=np.int64)
CODES[1] = [[0, 0], [1, 1], [1, 2], [2, 1], [0, 0], [2, 1]]
CODES[2] = [[0, 0], [2, 1], [1, 2], [1, 2], [2, 1], [2, 0]]
ITEMS = ItemClusters(ITEM_CLUSTER, CODES)
EVENT = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 7), st.integers(0, 1))
EVENTS = st.lists(EVENT, min_size=1, max_size=25)
Row = tuple[int, int, int, int]


def make(rows: list[Row]) -> Events:
    a = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Events(a[:, 0], a[:, 1], a[:, 2].astype(np.float64), a[:, 3].astype(np.float32))


def hard(s: int) -> Membership:
    return Membership.hard(USER_CLUSTER[s])


def table(rows: list[Row], asked: list[Row] | None = None, prior: float = 2.0):  # type: ignore[no-untyped-def]
    queries = make(rows if asked is None else asked)
    snapshot = np.searchsorted(SNAPSHOT_TIMES, queries.time, "left")
    return cross_statistics(make(rows), queries, snapshot, hard, ITEMS, CATEGORIES, prior)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_a_row_sees_only_what_is_strictly_earlier(rows: list[Row]) -> None:
    whole = table(rows)
    for n, (u, i, t, y) in enumerate(rows):
        flipped = [*rows[:n], (u, i, t, 1 - y), *rows[n + 1 :]]
        assert np.array_equal(table(flipped).values[n], whole.values[n])
        past = [r for r in rows if r[2] < t]
        if not past:
            continue
        # Asked from outside: the row itself, and everything at its time or later, is gone.
        alone = table(past, [rows[n]])
        assert np.array_equal(alone.values[0], whole.values[n])
        assert np.array_equal(alone.known[0], whole.known[n])


def _expected(rows: list[Row], n: int, prior: float) -> dict[str, float]:
    u, i, t, _ = rows[n]
    s = int(np.searchsorted(SNAPSHOT_TIMES, t, "left"))
    past = [r for r in rows if r[2] < t]
    own = [r for r in past if r[0] == u]
    out: dict[str, float] = {}
    g, c = int(USER_CLUSTER[s, u]), int(ITEM_CLUSTER[s, i])
    if g and c:
        about = [r for r in past if ITEM_CLUSTER[s, r[1]] == c and r[0] != u]
        members = [r for r in about if USER_CLUSTER[s, r[0]] == g]
        exp, pos = len(members), sum(r[3] for r in members)
        rate = (sum(r[3] for r in past) + 1) / (len(past) + 2)
        base = (sum(r[3] for r in about) + prior * rate) / (len(about) + prior)
        lift = math.log((pos + prior * base) / (exp + prior) / base)
        out |= dict(zip(CLUSTER_COLUMNS, (math.log1p(exp), math.log1p(pos), lift)))
    kinds = {
        "cluster": [lambda j: ITEM_CLUSTER[s, j] == c] if c else [],
        "code_1": [lambda j: CODES[s, j, 0] == CODES[s, i, 0]] if CODES[s, i, 0] else [],
        "code_2": [lambda j: (CODES[s, j] == CODES[s, i]).all()] if CODES[s, i].all() else [],
        "category": [lambda j, k=k: k in CATEGORIES[j] for k in CATEGORIES[i] if k],
    }
    for kind, sets in kinds.items():
        if sets:
            hits = [r for inside in sets for r in own if inside(r[1])]
            out[f"cross_own_{kind}_log_exposures"] = math.log1p(len(hits) / len(sets))
            out[f"cross_own_{kind}_log_positives"] = math.log1p(sum(r[3] for r in hits) / len(sets))
    return out


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_statistics_equal_a_double_loop(rows: list[Row]) -> None:
    got = table(rows)
    for n in range(len(rows)):
        want = _expected(rows, n, 2.0)
        assert {c for c, k in zip(got.names, got.known[n]) if k} == set(want)
        expected = [want.get(c, 0.0) for c in got.names]
        np.testing.assert_allclose(got.values[n], expected, rtol=1e-9, atol=1e-9)


def test_hand_computed() -> None:
    # Snapshot 1: users 1 and 2 share cluster 1, items 1 and 2 share cluster 1.
    # User 1 asks item 1 at 3: of the cluster, user 2 saw items 1 and 2 and chose item 2.
    rows = [(2, 1, 0, 0), (2, 2, 0, 1), (3, 2, 1, 0), (1, 2, 1, 1), (1, 3, 1, 1), (1, 1, 3, 0)]
    got = table(rows)
    row = dict(zip(got.names, got.values[5]))
    rate = (3 + 1) / (5 + 2)
    base = (1 + 2 * rate) / (3 + 2)
    assert row["cross_cluster_log_exposures"] == pytest.approx(math.log(3))
    assert row["cross_cluster_log_positives"] == pytest.approx(math.log(2))
    assert row["cross_cluster_lift"] == pytest.approx(math.log((1 + 2 * base) / 4 / base))
    assert row["cross_own_cluster_log_positives"] == pytest.approx(math.log(2))
    # The same first code: item 2; the same two codes: none; the same category: item 2.
    assert row["cross_own_code_1_log_positives"] == pytest.approx(math.log(2))
    assert row["cross_own_code_2_log_positives"] == 0
    assert row["cross_own_category_log_positives"] == pytest.approx(math.log(2))


@settings(max_examples=30, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Row], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled, whole = table([rows[k] for k in order]), table(rows)
    assert np.array_equal(shuffled.values, whole.values[order])


def test_the_clusters_of_the_rows_own_snapshot_count() -> None:
    # Items 1 and 2 share a cluster in snapshot 1, not in snapshot 2.
    rows = [(1, 2, 1, 1), (1, 1, 3, 0), (1, 1, 5, 0)]
    got = table(rows)
    column = got.names.index("cross_own_cluster_log_positives")
    assert got.values[:, column].tolist() == [0.0, math.log(2), 0.0]
    assert got.known[:, column].tolist() == [False, True, True]


def test_names() -> None:
    got = table([(1, 1, 0, 1)])
    assert all(n.startswith("cross_") for n in got.names)
    assert set(A19_COLUMNS) < set(got.names)
    assert got.names[:3] == CLUSTER_COLUMNS
    bare = cross_statistics(
        make([(1, 1, 0, 1)]), make([(1, 1, 3, 1)]), np.array([1]), hard,
        ItemClusters(ITEM_CLUSTER, CODES[..., :1]), None,
    )  # fmt: skip
    assert not {n for n in bare.names if "category" in n or "code_2" in n}
    assert bare.values.shape == (1, len(bare.names)) == (1, 7)


def test_standardised_on_training_rows_with_the_clusters() -> None:
    rows = [(2, 1, 0, 1), (2, 1, 0, 0), (1, 4, 3, 1), (1, 1, 3, 1), (1, 3, 3, 0), (2, 1, 5, 1)]
    stats = table(rows)
    out = standardize_cross(stats, np.arange(5))
    assert out.dtype == np.float32
    column = stats.names.index("cross_cluster_log_exposures")
    # Rows 3 and 4 alone are known in training: log 3 and log 1.
    assert stats.known[:, column].tolist() == [False, False, False, True, True, True]
    assert out[:5, column].tolist() == [0.0, 0.0, 0.0, 1.0, -1.0]
    category = stats.names.index("cross_own_category_log_exposures")
    assert stats.known[:, category].tolist() == [True, True, False, True, True, True]
    assert out[2, category] == 0.0
    stats.values[5] = 1e9
    assert standardize_cross(stats, np.arange(5))[5, column] == 4.0
    assert standardize_cross(stats, np.arange(5), clip=None)[5, column] > 1e6
    assert not standardize_cross(stats, np.arange(2))[:, column].any()
