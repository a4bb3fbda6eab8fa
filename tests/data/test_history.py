"""History: leak-free by construction, padded right, 16 bytes a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.history import HistoryPool

EVENT = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.integers(0, 1))
EVENTS = st.lists(EVENT, min_size=1, max_size=25)


def _columns(rows: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, ...]:
    a = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return a[:, 0], a[:, 1], a[:, 2].astype(np.float64), a[:, 3]


def _histories(rows: list[tuple[int, int, int, int]], length: int) -> np.ndarray:
    """History of every row from the positives among the rows."""
    user, item, time, label = _columns(rows)
    pool = HistoryPool.build(user[label > 0], item[label > 0], time[label > 0])
    start, end = (torch.from_numpy(p) for p in pool.pointers(user, time))
    return pool.gather(start, end, length).numpy()


def test_deleting_or_changing_what_is_not_earlier_changes_no_history() -> None:
    rng = np.random.default_rng(3)
    rows = [
        (int(u), int(i), int(t), int(y))
        for u, i, t, y in zip(
            rng.integers(1, 4, 40), rng.integers(1, 9, 40), rng.integers(0, 9, 40),
            rng.integers(0, 2, 40),
        )
    ]  # fmt: skip
    whole = _histories(rows, 5)
    for n, (u, i, t, y) in enumerate(rows):
        flipped = [*rows[:n], (u, i, t, 1 - y), *rows[n + 1 :]]
        assert np.array_equal(_histories(flipped, 5)[n], whole[n])
        kept = [k for k, r in enumerate(rows) if r[2] < t or k == n]
        only_earlier = _histories([rows[k] for k in kept], 5)
        assert np.array_equal(only_earlier[kept.index(n)], whole[n])


@settings(deadline=None)
@given(EVENTS, st.integers(1, 6))
def test_gather_equals_a_double_loop(rows: list[tuple[int, int, int, int]], length: int) -> None:
    got = _histories(rows, length)
    for n, (u, _, t, _) in enumerate(rows):
        past = [(r[2], k, r[1]) for k, r in enumerate(rows) if r[0] == u and r[2] < t and r[3]]
        items = [i for _, _, i in sorted(past)][-length:]
        assert got[n].tolist() == items + [0] * (length - len(items))


def test_oldest_first_and_padded_on_the_right() -> None:
    pool = HistoryPool.build(np.array([1, 1, 1]), np.array([30, 10, 20]), np.array([3.0, 1.0, 2.0]))
    start, end = pool.pointers(np.array([1, 1, 2]), np.array([9.0, 3.0, 9.0]))
    got = pool.gather(torch.from_numpy(start), torch.from_numpy(end), 4)
    assert got.tolist() == [[10, 20, 30, 0], [10, 20, 0, 0], [0, 0, 0, 0]]
    assert got.dtype == torch.int64


def test_the_newest_are_kept() -> None:
    pool = HistoryPool.build(np.ones(5, dtype=int), np.arange(1, 6), np.arange(5.0))
    start, end = (torch.from_numpy(p) for p in pool.pointers(np.array([1]), np.array([9.0])))
    assert pool.gather(start, end, 2).tolist() == [[4, 5]]


def test_labels_follow_their_items() -> None:
    pool = HistoryPool.build(
        np.array([1, 1]), np.array([7, 8]), np.array([2.0, 1.0]), np.array([1, 0])
    )
    start, end = (torch.from_numpy(p) for p in pool.pointers(np.array([1]), np.array([9.0])))
    assert pool.gather(start, end, 3).tolist() == [[8, 7, 0]]
    assert pool.gather_labels(start, end, 3).tolist() == [[0.0, 1.0, 0.0]]


def test_labels_need_a_labelled_pool() -> None:
    pool = HistoryPool.build(np.array([1]), np.array([7]), np.array([2.0]))
    with pytest.raises(ValueError, match="without labels"):
        pool.gather_labels(torch.tensor([0]), torch.tensor([1]), 2)


def test_sixteen_bytes_a_row_and_one_pool() -> None:
    n = 1000
    pool = HistoryPool.build(np.ones(n, dtype=int), np.arange(n), np.arange(float(n)))
    start, end = pool.pointers(np.ones(n, dtype=int), np.arange(float(n)))
    assert (start.nbytes + end.nbytes) / n == 16
    assert pool.items.nbytes == 8 * (n + 1)


def test_an_empty_pool_gives_empty_histories() -> None:
    none = np.array([], dtype=np.int64)
    pool = HistoryPool.build(none, none, none.astype(np.float64))
    start, end = (
        torch.from_numpy(p) for p in pool.pointers(np.array([1, 2]), np.array([1.0, 2.0]))
    )
    assert pool.gather(start, end, 3).tolist() == [[0, 0, 0], [0, 0, 0]]
