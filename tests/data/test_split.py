"""Exact order and split on float64 time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.split import is_time_split, ratio_split, time_order
from recbole_choir.errors import ConfigError, DataError


def test_unix_stamps_thirty_seconds_apart_keep_their_order() -> None:
    time = 1_600_000_000.0 + 30.0 * np.arange(40)
    shuffled = np.random.default_rng(0).permutation(40)
    order = time_order(time[shuffled])
    assert np.array_equal(shuffled[order], np.arange(40))
    # The reason for all this: float32 keeps a quarter of them apart.
    assert len(np.unique(time.astype(np.float32))) < 15


def test_equal_stamps_keep_the_given_order() -> None:
    assert time_order(np.array([2.0, 1.0, 2.0, 1.0])).tolist() == [1, 3, 0, 2]


def test_time_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="got 1 of 3"):
        time_order(np.array([1.0, np.nan, 2.0]))


def test_distinct_stamps_are_cut_by_count() -> None:
    assert ratio_split(np.arange(100.0), [0.8, 0.1, 0.1]) == [
        slice(0, 80),
        slice(80, 90),
        slice(90, 100),
    ]


def test_a_cut_inside_a_stamp_moves_to_its_start() -> None:
    time = np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7.0])  # the cut at 8 lies inside stamp 7
    assert ratio_split(time, [0.8, 0.2]) == [slice(0, 7), slice(7, 10)]


def test_a_cut_without_earlier_change_moves_on() -> None:
    time = np.array([1.0, 1.0, 1.0, 2.0])
    assert ratio_split(time, [0.5, 0.5]) == [slice(0, 3), slice(3, 4)]


def test_one_stamp_cannot_be_split() -> None:
    with pytest.raises(DataError, match="1 distinct time stamps"):
        ratio_split(np.zeros(10), [0.8, 0.1, 0.1])


def test_a_share_of_zero_gives_an_empty_part() -> None:
    assert ratio_split(np.arange(10.0), [0.8, 0.0, 0.2]) == [
        slice(0, 8),
        slice(8, 8),
        slice(8, 10),
    ]


def test_negative_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match="RS"):
        ratio_split(np.arange(10.0), [1.2, -0.2])


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=60))
def test_equal_stamps_never_straddle_and_all_rows_are_kept(stamps: list[int]) -> None:
    time = np.sort(np.array(stamps, dtype=np.float64))
    try:
        parts = ratio_split(time, [0.6, 0.2, 0.2])
    except DataError:
        # Refused only where the stamps are few or one of them fills the end of the rows.
        assert len(set(stamps)) < 3 or (time == time[-1]).mean() > 0.2
        return
    assert [p.start for p in parts] == [0, parts[0].stop, parts[1].stop]
    assert parts[-1].stop == len(time)
    for before, after in itertools.pairwise(parts):
        assert time[before].max() < time[after].min()


def test_is_time_split() -> None:
    assert is_time_split([np.array([1.0, 0.0]), np.array([2.0]), np.array([])])
    assert not is_time_split([np.array([1.0, 2.0]), np.array([2.0])])
