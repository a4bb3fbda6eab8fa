"""The shared sampler: never a user's own, never from later, the same whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recbole_choir.dataset_adapters.negatives import (
    Sampling,
    Taken,
    draw_distinct,
    first_of_each,
    member,
    popularity_ranges,
    sample_negatives,
    spans,
)


def taken(seed: int, n: int = 80, users: int = 6, items: int = 25, days: int = 20) -> Taken:
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, days, n)).astype(np.float64)
    return Taken(rng.integers(0, users, n), rng.integers(0, items, n), time, items)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["popularity", "uniform"]),
    per_positive=st.integers(0, 4),
    window=st.sampled_from([3.0, np.inf]),
    share=st.sampled_from([0.0, 0.2]),
)
def test_negatives_are_distinct_and_not_taken_up_to_that_time(
    seed: int, kind: str, per_positive: int, window: float, share: float
) -> None:
    events = taken(seed)
    how = Sampling(kind, per_positive, window, uniform_share=share)
    owner, item = sample_negatives(events, np.ones(80, dtype=bool), how, seed)
    assert (np.diff(owner) >= 0).all()
    for user, time in set(zip(events.user, events.time)):
        visit = (events.user == user) & (events.time == time)
        before = (events.user == user) & (events.time <= time)
        left = 25 - len(set(events.item[before]))
        assert visit[owner].sum() == min(visit.sum() * per_positive, left)
    assert np.bincount(owner, minlength=80).max(initial=0) <= per_positive
    seen = set()
    for o, i in zip(owner, item):
        mine = (events.user == events.user[o]) & (events.time <= events.time[o])
        assert i not in events.item[mine]
        key = (events.user[o], events.time[o], i)
        assert key not in seen
        seen.add(key)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(3, 18))
@example(seed=173, cut=3)
def test_popularity_counts_nothing_at_or_after_the_row(seed: int, cut: int) -> None:
    """Items that appear from ``cut`` on are never drawn for rows up to it.

    Unless a visit has nothing else left: then it is filled up uniformly, as documented.
    """
    events = taken(seed, n=400, users=100)
    late = events.time >= cut
    item = np.where(late, 20 + events.item % 5, events.item % 20)
    events = Taken(events.user, item, events.time, 25)
    how = Sampling(per_positive=2, uniform_share=0.0, warm_up=0.0)
    owner, drawn = sample_negatives(events, ~late | (events.time == cut), how, seed)
    assert set(events.time[owner]) <= set(range(cut + 1))
    for o in owner[drawn >= 20]:
        at = events.time[o]
        before = events.time < max(at, 1)  # the first stamp is the least warm-up
        mine = events.user == events.user[o]
        left = set(events.item[before]) - set(events.item[mine & (events.time <= at)])
        assert len(left) < 2 * (mine & (events.time == at)).sum()


def test_ranges_are_past_windows_and_the_warm_up_is_fixed() -> None:
    time = np.array([0.0, 0, 1, 2, 2, 3, 5, 5, 6, 9])
    at = np.array([0.0, 1, 2, 3, 5, 9, 20])
    start, stop = popularity_ranges(time, at, Sampling(warm_up=0.0, window=3.0))
    # One positive is the least warm-up, widened to its stamp: [0, 2) for time 0 and 1.
    assert list(zip(start, stop)) == [(0, 2), (0, 2), (0, 3), (0, 5), (3, 6), (8, 9), (9, 10)]
    start, stop = popularity_ranges(time, at, Sampling(warm_up=0.4))
    # Four positives are not whole stamps: five, up to time 2.
    assert list(zip(start, stop))[:4] == [(0, 5), (0, 5), (0, 5), (0, 5)]
    assert list(zip(start, stop))[4:] == [(0, 6), (0, 9), (0, 10)]
    start, stop = popularity_ranges(time, at, Sampling(fixed_until=2.0))
    assert list(zip(start, stop)) == [(0, 5)] * 7


def test_draws_follow_popularity() -> None:
    """3 of 4 past positives are item 0: three quarters of the draws, given nothing is forbidden."""
    n = 4000
    user = np.append([9_000, 9_001, 9_002, 9_003], np.arange(n))
    item = np.append([0, 0, 0, 1], np.full(n, 2))
    time = np.append([0.0] * 4, np.ones(n))
    events = Taken(user, item, time, 3)
    how = Sampling(per_positive=1, warm_up=0.0, uniform_share=0.0)
    owner, drawn = sample_negatives(events, events.time == 1, how, 0)
    assert len(owner) == n
    assert (drawn == 0).mean() == pytest.approx(0.75, abs=0.02)
    assert (drawn == 2).sum() == 0
    mixed = sample_negatives(
        events, events.time == 1, Sampling(per_positive=1, warm_up=0.0, uniform_share=0.5), 0
    )
    # Half uniform, of which a third is the user's own and drawn again: (.375 + 1/6) / (5/6).
    assert (mixed[1] == 0).mean() == pytest.approx(0.65, abs=0.02)
    uniform = sample_negatives(events, events.time == 1, Sampling("uniform", 1), 0)
    assert (uniform[1] == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_seed_decides_and_other_rows_do_not_stand_in_for_it() -> None:
    events = taken(1)
    every = np.ones(80, dtype=bool)
    one, two = (sample_negatives(events, every, Sampling(), 7) for _ in range(2))
    assert [a.tolist() for a in one] == [b.tolist() for b in two]
    assert sample_negatives(events, every, Sampling(), 8)[1].tolist() != one[1].tolist()
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 that the global state stays
    sample_negatives(events, every, Sampling(), 7)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_a_user_that_took_everything_gets_what_is_left() -> None:
    events = Taken(np.zeros(4, dtype=np.int64), np.arange(4), np.array([0.0, 1, 2, 3]), n_items=5)
    owner, item = sample_negatives(events, np.ones(4, dtype=bool), Sampling(per_positive=3), 0)
    assert owner.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert item[owner == 3].tolist() == [4]
    assert item[owner == 2].tolist() == [3, 4]


def test_draw_distinct_lists_what_rejection_cannot_find() -> None:
    rng = np.random.default_rng(0)
    groups, items = draw_distinct(
        need=np.array([2, 0, 3]),
        draw=lambda asked: np.zeros(len(asked), dtype=np.int64),
        forbidden=lambda asked, drawn: (asked == 2) & (drawn == 1),
        n_items=10,
        rest=lambda short: (np.repeat(short, 4), np.tile(np.arange(4), len(short))),
        rng=rng,
        rounds=3,
    )
    assert groups.tolist() == [0, 0, 2, 2, 2]
    assert items[0] == 0
    assert items[2:].tolist() == [0, 2, 3]


def test_small_parts() -> None:
    keys = np.array([2, 5, 7])
    assert member(keys, np.array([1, 2, 7, 8])).tolist() == [False, True, True, False]
    assert member(np.zeros(0, dtype=np.int64), keys).tolist() == [False] * 3
    assert first_of_each(np.array([3, 1, 3, 1, 2])).tolist() == [True, True, False, False, True]
    owner, position = spans(np.array([4, 9, 2]), np.array([6, 9, 5]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert position.tolist() == [4, 5, 2, 3, 4]
