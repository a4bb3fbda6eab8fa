"""As-of activity statistics: no leak, equal to a double loop, standardised on training rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.statistics import (
    ITEM_STAT_NAMES,
    RATE_PRIOR,
    USER_STAT_NAMES,
    Events,
    activity_statistics,
    population_rate,
    standardize,
)

CATEGORIES = np.array([[0, 0], [1, 0], [1, 2], [3, 0], [0, 0], [2, 3]])  # of items 0..5
EVENT = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 6), st.integers(0, 1))
EVENTS = st.lists(EVENT, min_size=1, max_size=22)


def make(rows: list[tuple[int, int, int, int]]) -> Events:
    a = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Events(a[:, 0], a[:, 1], a[:, 2] * 86_400.0, a[:, 3].astype(np.float32))


def table(rows: list[tuple[int, int, int, int]]) -> np.ndarray:
    events = make(rows)
    stats = activity_statistics(events, events, CATEGORIES)
    return np.concatenate([stats.user, stats.item, stats.n_buy[:, None]], axis=1)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_a_row_sees_only_what_is_strictly_earlier(rows: list[tuple[int, int, int, int]]) -> None:
    whole = table(rows)
    for n, (u, i, t, y) in enumerate(rows):
        flipped = [*rows[:n], (u, i, t, 1 - y), *rows[n + 1 :]]
        assert np.array_equal(table(flipped)[n], whole[n], equal_nan=True)
        kept = [k for k, r in enumerate(rows) if r[2] < t or k == n]
        alone = table([rows[k] for k in kept])
        assert np.array_equal(alone[kept.index(n)], whole[n], equal_nan=True)
        # Without the row itself: the same description, asked from outside.
        rest = rows[:n] + rows[n + 1 :]
        if rest:
            stats = activity_statistics(make(rest), make([rows[n]]), CATEGORIES)
            assert np.array_equal(stats.user[0], whole[n, :6], equal_nan=True)
            assert np.array_equal(stats.item[0], whole[n, 6:10])


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_statistics_equal_a_double_loop(rows: list[tuple[int, int, int, int]]) -> None:
    got = table(rows)
    for n, (u, i, t, _) in enumerate(rows):
        past = [r for r in rows if r[2] < t]
        prior = (sum(r[3] for r in past) + 1) / (len(past) + 2)
        mine = [r for r in past if r[0] == u]
        bought = sum(r[3] for r in mine)
        cats = {int(c) for r in mine if r[3] for c in CATEGORIES[r[1]] if c}
        its = [r for r in past if r[1] == i]
        sold = sum(r[3] for r in its)
        want = [
            math.log1p(len(mine)),
            math.log1p(bought),
            (bought + RATE_PRIOR * prior) / (len(mine) + RATE_PRIOR),
            math.log1p(t - max(r[2] for r in mine)) if mine else math.nan,
            math.log1p(len(cats)),
            float(not mine),
            math.log1p(len(its)),
            math.log1p(sold),
            (sold + RATE_PRIOR * prior) / (len(its) + RATE_PRIOR),
            math.log1p(t - min(r[2] for r in its)) if its else 0.0,
            bought,
        ]
        np.testing.assert_allclose(got[n], want, rtol=1e-12, atol=1e-12)


def test_without_categories_distinct_items_are_counted() -> None:
    rows = make([(1, 1, 0, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 3, 3, 0), (1, 4, 4, 1)])
    stats = activity_statistics(rows, rows, None)
    np.testing.assert_allclose(np.expm1(stats.user[:, 4]), [0, 1, 2, 2, 2])


def test_events_may_be_fewer_than_the_rows() -> None:
    rows = make([(1, 1, 0, 1), (1, 2, 1, 1), (1, 1, 2, 0)])
    stats = activity_statistics(rows.take(np.array([0])), rows, CATEGORIES)
    assert stats.n_buy.tolist() == [0.0, 1.0, 1.0]


def test_population_rate_before_anything_is_one_half() -> None:
    rows = make([(1, 1, 0, 1), (1, 1, 1, 1), (2, 1, 1, 0)])
    assert population_rate(rows, np.array([0.0, 86_400.0, 1e9])).tolist() == [0.5, 2 / 3, 0.6]


def test_standardize_uses_training_rows_and_fills_missing_with_the_longest() -> None:
    raw = np.array([[1.0, 0.0, 5.0], [3.0, 1.0, np.nan], [100.0, 1.0, 9.0]])
    out = standardize(raw, slice(0, 2), ("a", "is_new", "log_recency_days"), clip=None)
    assert out.dtype == np.float32
    assert out[:, 0].tolist() == [-1.0, 1.0, 98.0]  # mean 2, deviation 1
    assert out[:, 1].tolist() == [0.0, 1.0, 1.0]  # a flag stays a flag
    assert out[:, 2].tolist() == [0.0, 0.0, 4.0]  # one training value: shifted only


def test_standardised_values_are_clipped_and_flags_are_not() -> None:
    """Mean 2 and deviation 1; the fill of the missing value lies at (12 - 2) / sqrt(10) = 3.16."""
    names = ("a", "is_new", "log_recency_days")
    raw = np.array([[1.0, 0, 1], [3, 9, 1], [100, -9, np.nan], [-100, 1, 1], [5.9, 0, 1]])
    raw = np.vstack([raw, np.tile([2.0, 0.0, 1.0], (8, 1)), [2.0, 0.0, 12.0]])
    train = np.r_[0, 1, 5:14]  # of column 2: ten times 1, once 12: mean 2, deviation sqrt(10)
    out = standardize(raw, train, names)
    scale = math.sqrt(2 / 11)  # of column 0: 1, 3 and nine times 2
    assert out[:2, 0].tolist() == pytest.approx([-1 / scale, 1 / scale])
    assert out[2:5, 0].tolist() == [4.0, -4.0, 4.0]
    assert out[:5, 1].tolist() == [0.0, 9.0, -9.0, 1.0, 0.0]
    assert out[2, 2] == pytest.approx(math.sqrt(10))
    assert standardize(raw, train, names, clip=2.5)[2, 2] == 2.5
    free = standardize(raw, train, names, clip=None)
    assert free[2:5, 0].tolist() == pytest.approx([98 / scale, -102 / scale, 3.9 / scale])
    near = np.abs(free) < 4
    assert np.array_equal(out[near], free[near])


def test_a_missing_recency_is_no_outlier() -> None:
    """One user came back after years, all others after an hour: a new user used to be at +15."""
    hour, year = 3600.0, 365 * 86_400.0
    n = 250
    user = np.repeat(np.arange(1, n + 1), 2)
    time = np.stack([np.arange(n) * hour, np.arange(1, n + 1) * hour], 1)
    time[-1, 1] += 3 * year
    events = Events(user, np.ones(2 * n, int), time.ravel(), np.ones(2 * n, np.float32))
    raw = activity_statistics(events, events, None).user
    column = USER_STAT_NAMES.index("log_recency_days")
    assert standardize(raw, slice(None), USER_STAT_NAMES, None)[0, column] > 15
    out = standardize(raw, slice(None), USER_STAT_NAMES)
    assert out[0, column] == 4.0
    assert out[0, USER_STAT_NAMES.index("is_new")] == 1.0
    assert np.abs(out).max() == 4.0


def test_a_column_without_any_training_value_is_zero() -> None:
    raw = np.array([[np.nan], [np.nan], [2.0]])
    assert standardize(raw, np.array([0, 1]), ("log_recency_days",)).tolist() == [[0], [0], [0]]


def test_names_match_columns() -> None:
    rows = make([(1, 1, 0, 1)])
    stats = activity_statistics(rows, rows, CATEGORIES)
    assert stats.user.shape == (1, len(USER_STAT_NAMES))
    assert stats.item.shape == (1, len(ITEM_STAT_NAMES))


def test_time_far_from_zero_keeps_differences_of_seconds() -> None:
    base = 1_600_000_000.0
    rows = Events(
        np.array([1, 1]), np.array([1, 1]), np.array([base, base + 30.0]), np.ones(2, np.float32)
    )
    stats = activity_statistics(rows, rows, None)
    assert stats.user[1, 3] == pytest.approx(math.log1p(30 / 86_400), rel=1e-6)
