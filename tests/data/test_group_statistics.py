"""As-of group statistics: no leak, own events left out, equal to a double loop."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.group_statistics import (
    Membership,
    group_statistics,
    standardize_groups,
)
from recbole_choir.data.statistics import Events

CATEGORIES = np.array([[0, 0], [1, 0], [1, 2], [3, 0], [0, 0], [2, 3]])  # of items 0..5
GROUPS = {1: np.array([0, 1, 1, 2, 0]), 2: np.array([0, 3, 4, 4, 4])}  # by snapshot, of users 0..4
SNAPSHOT_TIMES = np.array([2.0, 4.0])
EVENT = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 7), st.integers(0, 1))
EVENTS = st.lists(EVENT, min_size=1, max_size=25)


def make(rows: list[tuple[int, int, int, int]]) -> Events:
    a = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Events(a[:, 0], a[:, 1], a[:, 2].astype(np.float64), a[:, 3].astype(np.float32))


def hard(s: int) -> Membership:
    return Membership.hard(GROUPS[s])


def soft(s: int) -> Membership:
    index = np.array([[0, 0], [1, 2], [1, 2], [2, 0], [1, 2]])
    return Membership(index, np.array([[0, 0], [0.5, 0.5], [1, 0.25], [1, 9], [0.25, 0.75]]))


def table(rows, membership=hard, prior=2.0):  # type: ignore[no-untyped-def]
    events = make(rows)
    snapshot = np.searchsorted(SNAPSHOT_TIMES, events.time, "left")
    return group_statistics(events, events, snapshot, membership, CATEGORIES, prior)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_a_row_sees_only_what_is_strictly_earlier(rows: list[tuple[int, int, int, int]]) -> None:
    whole = table(rows)
    for n, (u, i, t, y) in enumerate(rows):
        flipped = [*rows[:n], (u, i, t, 1 - y), *rows[n + 1 :]]
        assert np.array_equal(table(flipped).values[n], whole.values[n])
        kept = [k for k, r in enumerate(rows) if r[2] < t or k == n]
        alone = table([rows[k] for k in kept])
        assert np.array_equal(alone.values[kept.index(n)], whole.values[n])


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_the_users_own_events_are_left_out(rows: list[tuple[int, int, int, int]]) -> None:
    whole = table(rows)
    for n, (u, _, _, _) in enumerate(rows):
        others = [r for k, r in enumerate(rows) if r[0] != u or k == n]
        at = [k for k, r in enumerate(rows) if r[0] != u or k == n].index(n)
        # The smoothing rate of the whole population counts every event, so compare the counts.
        got = table(others).values[at][[0, 1, 3, 4]]
        assert np.allclose(got, whole.values[n][[0, 1, 3, 4]])


def _expected(rows, n, membership, prior):  # type: ignore[no-untyped-def]
    u, i, t, _ = rows[n]
    s = int(np.searchsorted(SNAPSHOT_TIMES, t, "left"))
    if s == 0:
        return None
    m = membership(s)

    def shared(v: int) -> float:
        return sum(
            float(wa * wb)
            for a, wa in zip(m.index[u], m.weight[u])
            for b, wb in zip(m.index[v], m.weight[v])
            if a == b and a > 0
        )

    if not any(a > 0 and w > 0 for a, w in zip(m.index[u], m.weight[u])):
        return None
    past = [r for r in rows if r[2] < t]
    rate = (sum(r[3] for r in past) + 1) / (len(past) + 2)
    out = []
    cats = [c for c in CATEGORIES[i] if c]
    for sets in ([lambda j: j == i], [lambda j, c=c: c in CATEGORIES[j] for c in cats]):
        exp = pos = pe = pp = 0.0
        for inside in sets:
            for v, j, _, y in past:
                if v != u and inside(j):
                    exp, pos = exp + shared(v) / len(sets), pos + y * shared(v) / len(sets)
                    pe, pp = pe + 1 / len(sets), pp + y / len(sets)
        base = (pp + prior * rate) / (pe + prior)
        lift = math.log(((pos + prior * base) / (exp + prior)) / base)
        out += [math.log1p(exp), math.log1p(pos), lift]
    return out


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.sampled_from([hard, soft]))
def test_statistics_equal_a_double_loop(rows, membership) -> None:  # type: ignore[no-untyped-def]
    got = table(rows, membership)
    for n in range(len(rows)):
        want = _expected(rows, n, membership, 2.0)
        assert got.known[n] == (want is not None)
        np.testing.assert_allclose(got.values[n], want or [0.0] * 6, rtol=1e-9, atol=1e-9)


def test_hand_computed_lift() -> None:
    # Users 2 and 1 share group 1 in snapshot 1; user 3 does not. Item 1 is asked by user 1 at 3.
    rows = [(2, 1, 0, 1), (3, 1, 1, 0), (1, 1, 1, 1), (1, 1, 3, 0)]
    got = table(rows).values[3]
    rate = 3 / 5
    base = (1 + 2 * rate) / (2 + 2)
    assert np.allclose(got[:3], [math.log(2), math.log(2), math.log((1 + 2 * base) / 3 / base)])


def test_rows_without_snapshot_or_group_are_zero_also_when_standardised() -> None:
    rows = [(1, 1, 0, 1), (2, 1, 1, 1), (1, 1, 3, 1), (4, 1, 3, 1), (2, 2, 3, 0)]
    stats = table(rows)
    assert stats.known.tolist() == [False, False, True, False, True]
    out = standardize_groups(stats, slice(0, 5))
    assert not out[[0, 1, 3]].any()
    assert np.allclose(out[[2, 4]].mean(axis=0), 0, atol=1e-6)


def test_values_are_clipped_and_training_without_groups_gives_zeros() -> None:
    rows = [(1, 1, 0, 1), (2, 1, 1, 1), (1, 1, 3, 1)]
    stats = table(rows)
    assert not standardize_groups(stats, slice(0, 2)).any()
    stats.values[2] = 1e9
    stats.known[:] = [True, True, True]
    assert standardize_groups(stats, slice(0, 2)).max() == 4.0
    assert standardize_groups(stats, slice(0, 2), clip=1.5).max() == 1.5
    assert standardize_groups(stats, slice(0, 2), clip=None).max() > 1e6


def test_without_categories_three_columns() -> None:
    events = make([(1, 1, 0, 1), (2, 1, 3, 1)])
    got = group_statistics(events, events, np.array([0, 1]), hard)
    assert got.values.shape == (2, 3)
    assert got.names == ("item_log_exposures", "item_log_positives", "item_lift")
