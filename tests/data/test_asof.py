"""As-of sums against a plain double loop, equal time stamps included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.asof import AsOfIndex, asof_last, asof_sum, combine_keys
from recbole_choir.errors import DataError

ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=30)


def _split(rows: list[tuple[int, int]], key_scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    a = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return a[:, 0] * key_scale, a[:, 1].astype(np.float64)


@settings(deadline=None)
@given(ROWS, ROWS, st.sampled_from([1, 1 << 40]), st.randoms(use_true_random=False))
def test_sum_and_last_equal_a_double_loop(events, queries, key_scale, rng) -> None:  # type: ignore[no-untyped-def]
    ek, et = _split(events, key_scale)
    qk, qt = _split(queries, key_scale)
    weight = np.array([rng.randint(0, 3) for _ in events], dtype=np.float64)
    before = [[i for i in range(len(ek)) if ek[i] == k and et[i] < t] for k, t in zip(qk, qt)]
    assert asof_sum(ek, et, qk, qt).tolist() == [len(b) for b in before]
    assert asof_sum(ek, et, qk, qt, weight).tolist() == [weight[b].sum() for b in before]
    last = asof_last(ek, et, qk, qt)
    want = [max((et[i] for i in b), default=np.nan) for b in before]
    assert np.array_equal(last, np.array(want, dtype=np.float64), equal_nan=True)


def test_an_event_at_the_query_time_is_not_before_it() -> None:
    key, time = np.array([7, 7]), np.array([1.0, 2.0])
    assert asof_sum(key, time, np.array([7, 7, 7]), np.array([1.0, 2.0, 2.5])).tolist() == [0, 1, 2]


def test_two_weights_at_once() -> None:
    key, time = np.array([1, 1, 2]), np.array([0.0, 1.0, 0.0])
    weight = np.array([[1, 10], [2, 20], [4, 40]])
    got = asof_sum(key, time, np.array([1, 2, 3]), np.array([9.0, 9.0, 9.0]), weight)
    assert got.tolist() == [[3, 30], [4, 40], [0, 0]]


def test_large_inputs_take_the_sorted_search_and_agree() -> None:
    rng = np.random.default_rng(1)
    n = 70_000
    key = rng.integers(0, n * 40, n)
    key[: n // 2] = key[n // 2 :]
    time = rng.integers(0, 50_000, n).astype(np.float64)
    got = asof_sum(key, time, key, time)
    order = np.lexsort((time, key))
    k, t = key[order], time[order]
    _, first, inverse = np.unique(k, return_index=True, return_inverse=True)
    start = first[inverse]
    want = np.empty(n)
    # Rank of the stamp within its key, ties at the first of them.
    new = np.r_[True, (k[1:] != k[:-1]) | (t[1:] != t[:-1])]
    at = np.maximum.accumulate(np.where(new, np.arange(n), 0))
    want[order] = at - start
    assert np.array_equal(got, want)


def test_combine_keys_is_unique_and_independent_of_the_rows() -> None:
    a, b = np.meshgrid(np.array([0, 1, 2**31 - 1]), np.array([0, 5, 2**32 - 1]))
    keys = combine_keys(a.ravel(), b.ravel())
    assert len(set(keys.tolist())) == 9
    assert combine_keys(a.ravel()[4:5], b.ravel()[4:5])[0] == keys[4]
    assert keys.min() >= 0


@pytest.mark.parametrize(("a", "b"), [(-1, 0), (2**31, 0), (0, -1), (0, 2**32)])
def test_combine_keys_refuses_ids_out_of_range(a: int, b: int) -> None:
    with pytest.raises(DataError, match="combine_keys"):
        combine_keys(np.array([a]), np.array([b]))


def test_no_events_and_no_queries() -> None:
    none = np.array([], dtype=np.int64)
    assert asof_sum(none, none * 1.0, np.array([3]), np.array([1.0])).tolist() == [0.0]
    assert asof_sum(np.array([3]), np.array([1.0]), none, none * 1.0).tolist() == []
    assert np.isnan(asof_last(none, none * 1.0, np.array([3]), np.array([1.0]))).all()


def test_keys_and_times_must_agree() -> None:
    with pytest.raises(DataError, match="as-of index"):
        AsOfIndex(np.array([1, 2]), np.array([1.0]))
