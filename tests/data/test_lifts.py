"""Lifts of soft groups: leak tests first, then values by hand, both forms, and brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from recbole_choir.data.lifts import LiftSource, counted_until, neighbourhood_mass, soft_lifts
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.soft_groups import SoftGroups

N_USERS, N_ITEMS = 7, 6
TIMES = np.array([10.0, 20.0])
TYPES = np.array([[0, 0], [1, 0], [1, 0], [2, 0], [2, 1], [0, 0]])  # item 4 has two, item 5 none


def events_of(n: int, seed: int, low: float = 0.0, high: float = 40.0) -> Events:
    rng = np.random.default_rng(seed)
    return Events(
        rng.integers(1, N_USERS, n),
        rng.integers(1, N_ITEMS, n),
        np.sort(rng.integers(int(low), int(high), n).astype(np.float64)),
        (rng.random(n) < 0.6).astype(np.float32),
    )


def neighbours(seed: int = 0) -> SoftGroups:
    rng = np.random.default_rng(seed)
    matrices = []
    for _ in TIMES:
        w = rng.random((N_USERS, N_USERS)) * (rng.random((N_USERS, N_USERS)) < 0.7)
        w[0], w[:, 0] = 0, 0
        np.fill_diagonal(w, 0)
        matrices.append(csr_matrix(w))
    return SoftGroups("neighbours", tuple(matrices))


def prototypes(seed: int = 0, k: int = 3) -> SoftGroups:
    rng = np.random.default_rng(seed)
    matrices = []
    for _ in TIMES:
        a = rng.random((N_USERS, k)) * (rng.random((N_USERS, k)) < 0.7)
        a[0] = 0
        matrices.append(csr_matrix(a))
    return SoftGroups("prototypes", tuple(matrices))


def factors(seed: int = 0, k: int = 3) -> SoftGroups:
    """Memberships of both signs, and as in a space of purchases most products above 0."""
    rng = np.random.default_rng(seed)
    matrices = []
    for _ in TIMES:
        a = rng.standard_normal((N_USERS, k)) + 0.7
        a[0] = 0
        matrices.append(csr_matrix(a))
    return SoftGroups("factors", tuple(matrices))


def dense(groups: SoftGroups, s: int) -> np.ndarray:
    """The weights [n_users, n_users] that the groups stand for."""
    m = groups.weights[s - 1].toarray()
    if groups.kind != "neighbours":
        m = m @ m.T
        np.fill_diagonal(m, 0)
    return m


SOURCES = (LiftSource("item", None), LiftSource("type", TYPES))


def lifts(
    events: Events,
    rows: Events,
    groups: SoftGroups,
    prior: float = 2.0,
    refresh_days: float | None = None,
) -> np.ndarray:
    snapshot = np.searchsorted(TIMES, rows.time, "left")
    until = counted_until(rows.time, snapshot, TIMES, refresh_days)
    bought = events.take(events.label > 0)
    return soft_lifts(bought, rows, snapshot, until, groups, SOURCES, prior).values


@pytest.mark.parametrize("groups", [neighbours(), prototypes(), factors()], ids=lambda g: g.kind)
@pytest.mark.parametrize("refresh", [None, 3 / 86_400])
def test_own_purchases_do_not_enter_own_lifts(groups: SoftGroups, refresh: float | None) -> None:
    events, rows = events_of(80, 1), events_of(60, 2)
    whole = lifts(events, rows, groups, refresh_days=refresh)
    for user in range(1, N_USERS):
        mine = rows.user == user
        without = lifts(events.take(events.user != user), rows, groups, refresh_days=refresh)
        np.testing.assert_allclose(without[mine], whole[mine], atol=1e-9)
        assert not np.allclose(without[~mine], whole[~mine])


@pytest.mark.parametrize("groups", [neighbours(), prototypes(), factors()], ids=lambda g: g.kind)
@pytest.mark.parametrize("refresh", [None, 3 / 86_400])
def test_mass_is_what_the_neighbourhood_has_bought_by_then(
    groups: SoftGroups, refresh: float | None
) -> None:
    events = events_of(80, 1)
    snapshot = np.searchsorted(TIMES, events.time, "left")
    until = counted_until(events.time, snapshot, TIMES, refresh)
    bought = events.take(events.label > 0)
    got = neighbourhood_mass(bought, events, snapshot, until, groups)
    assert got.names == ("lift_mass",)
    assert got.known.all()
    expected = np.zeros(len(events))
    for row in np.flatnonzero(snapshot > 0):
        weights = dense(groups, int(snapshot[row]))[events.user[row]]
        before = bought.user[bought.time < until[row]]
        expected[row] = np.log1p(max(weights[before].sum(), 0.0))
    np.testing.assert_allclose(got.values[:, 0], expected, atol=1e-9)
    assert (expected > 0).sum() > 20
    # the row's own purchases, its label, and whatever is later: in none of it
    mine = events.user == 3
    others = bought.take(bought.user != 3)
    without = neighbourhood_mass(others, events, snapshot, until, groups)
    np.testing.assert_allclose(without.values[mine], got.values[mine], atol=1e-9)
    early = events.time < 40
    cut = bought.take(bought.time < 40)
    kept = neighbourhood_mass(cut, events.take(early), snapshot[early], until[early], groups)
    np.testing.assert_allclose(kept.values, got.values[early], atol=1e-9)


@pytest.mark.parametrize("groups", [neighbours(), prototypes(), factors()], ids=lambda g: g.kind)
@pytest.mark.parametrize("refresh", [None, 3 / 86_400])
def test_a_row_and_what_is_later_change_nothing_before(
    groups: SoftGroups, refresh: float | None
) -> None:
    events = events_of(80, 1)
    whole = lifts(events, events, groups, refresh_days=refresh)
    for time in np.unique(events.time)[::4]:
        kept = events.take(events.time < time)
        cut = lifts(kept, kept, groups, refresh_days=refresh)
        assert np.array_equal(cut, whole[events.time < time])
        now = events.take(events.time == time)  # the rows themselves are gone from what is counted
        cut = lifts(kept, now, groups, refresh_days=refresh)
        assert np.array_equal(cut, whole[events.time == time])


@pytest.mark.parametrize("groups", [neighbours(), prototypes(), factors()], ids=lambda g: g.kind)
def test_labels_after_the_last_snapshot_change_nothing(groups: SoftGroups) -> None:
    events = events_of(80, 1)
    flipped = Events(
        events.user,
        events.item,
        events.time,
        np.where(events.time >= TIMES[-1], 1 - events.label, events.label),
    )
    assert np.array_equal(lifts(events, events, groups), lifts(flipped, flipped, groups))


def test_a_snapshot_does_not_read_its_own_moment() -> None:
    until = counted_until(np.array([10.0, 10.5, 25.0]), np.array([0, 1, 2]), TIMES, None)
    assert until.tolist() == [-np.inf, 10.0, 20.0]
    # every second from the snapshot on, and never after the row
    refreshed = counted_until(
        np.array([12.0, 12.5, 13.2]), np.array([1, 1, 1]), TIMES, 1.0 / 86_400
    )
    np.testing.assert_allclose(refreshed, [12.0, 12.0, 13.0])


def test_value_by_hand() -> None:
    # User 2 (weight .5) bought item 1 twice and item 2 once, user 3 (weight 1) item 2 once and
    # item 3 twice; user 1 asks, and has bought item 1 four times itself.
    w = np.zeros((4, 4))
    w[1, 2], w[1, 3] = 0.5, 1.0
    user = np.array([2, 2, 2, 3, 3, 3, 1, 1, 1, 1])
    item = np.array([1, 1, 2, 2, 3, 3, 1, 1, 1, 1])
    events = Events(user, item, np.zeros(10), np.ones(10, np.float32))
    rows = Events(
        np.array([1, 1]), np.array([1, 2]), np.array([11.0, 11.0]), np.zeros(2, np.float32)
    )
    groups = SoftGroups("neighbours", (csr_matrix(w),))
    got = soft_lifts(
        events, rows, np.array([1, 1]), np.array([10.0, 10.0]), groups,
        (LiftSource("item", None),), prior=3.0,
    )  # fmt: skip
    # others: 6 purchases, 2 of item 1, 2 of item 2; mass .5 * 3 + 1 * 3 = 4.5
    share = 2 / 6
    expected = [
        np.log((0.5 * 2 + 3 * share) / (4.5 + 3) / share),
        np.log((0.5 * 1 + 1.0 * 1 + 3 * share) / (4.5 + 3) / share),
    ]
    np.testing.assert_allclose(got.values[:, 0], expected)
    assert got.names == ("lift_item",)
    assert got.known.all()


def brute_force(events: Events, rows: Events, groups: SoftGroups, prior: float) -> np.ndarray:
    """The formula of the recipe, row by row and user by user."""
    bought = events.take(events.label > 0)
    out = np.zeros((len(rows), 2))
    for r in range(len(rows)):
        s = int(np.searchsorted(TIMES, rows.time[r], "left"))
        if s == 0:
            continue
        before = bought.take(bought.time < TIMES[s - 1])
        w = dense(groups, s)[rows.user[r]]
        for c, about in enumerate((None, TYPES)):
            item = rows.item[r]
            kinds = [item] if about is None else [t for t in about[item] if t]
            values = []
            for kind in kinds:
                hit = before.item == kind if about is None else (about[before.item] == kind).any(1)
                width = np.ones(len(before)) if about is None else (about[before.item] > 0).sum(1)
                other = before.user != rows.user[r]
                total, with_kind = width[other].sum(), hit[other].sum()
                if with_kind == 0:
                    values.append(0.0)
                    continue
                share = with_kind / total
                weight = w[before.user]
                up = max((weight * hit).sum(), 0.0) + prior * share
                mass = max((weight * width).sum(), 0.0)
                values.append(np.log(up / (mass + prior) / share))
            out[r, c] = np.mean(values) if values else 0.0
    return out


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    prior=st.floats(0.5, 50.0),
    kind=st.sampled_from([neighbours, prototypes, factors]),
)
def test_equal_to_brute_force(seed: int, prior: float, kind: Callable[[int], SoftGroups]) -> None:
    groups = kind(seed)
    events, rows = events_of(60, seed), events_of(30, seed + 1)
    got = lifts(events, rows, groups, prior)
    np.testing.assert_allclose(got, brute_force(events, rows, groups, prior), atol=1e-8)


def test_prototypes_are_their_neighbour_weights() -> None:
    groups = prototypes(3)
    same = SoftGroups(
        "neighbours", tuple(csr_matrix(dense(groups, s)) for s in range(1, len(TIMES) + 1))
    )
    events, rows = events_of(90, 5), events_of(50, 6)
    np.testing.assert_allclose(lifts(events, rows, groups), lifts(events, rows, same), atol=1e-9)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_order_of_events_and_rows_does_not_matter(seed: int) -> None:
    groups, events, rows = neighbours(1), events_of(50, seed), events_of(30, seed + 1)
    rng = np.random.default_rng(seed)
    order, mixed = rng.permutation(len(rows)), rng.permutation(len(events))
    whole = lifts(events, rows, groups)
    np.testing.assert_allclose(lifts(events.take(mixed), rows.take(order), groups), whole[order])


def test_a_user_without_members_and_a_row_without_snapshot_are_as_the_population() -> None:
    empty = SoftGroups("neighbours", tuple(csr_matrix((N_USERS, N_USERS)) for _ in TIMES))
    events, rows = events_of(80, 1), events_of(60, 2)
    assert np.abs(lifts(events, rows, empty)).max() < 1e-12
    early = rows.take(rows.time <= TIMES[0])
    snapshot = np.zeros(len(early), dtype=np.int64)
    got = soft_lifts(
        events, early, snapshot, np.full(len(early), -np.inf), neighbours(), SOURCES, 2.0
    )
    assert not got.known.any()
    assert not got.values.any()


def test_more_prior_pulls_towards_the_population() -> None:
    events, rows, groups = events_of(80, 1), events_of(60, 2), neighbours()
    sizes = [np.abs(lifts(events, rows, groups, prior)).mean() for prior in (1.0, 10.0, 1000.0)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 0.1
