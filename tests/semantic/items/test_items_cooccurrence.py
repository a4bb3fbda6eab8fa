"""Pairs of items chosen together: leak test first, then by hand, against loops, invariances."""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items.cooccurrence import Pairs, cooccurring, frequent, hold_out

Row = tuple[str, str, float, int]


def frames_of(rows: list[Row], items: list[str] | None = None) -> Frames:
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "label"])
    names = items if items is not None else sorted({row[1] for row in rows})
    users = sorted({row[0] for row in rows})
    return Frames(
        events, pd.DataFrame({"user_id": users}), pd.DataFrame({"item_id": names}), float("inf")
    )


def mined(frames: Frames, window: int, chunk: int = 1 << 19) -> dict[tuple[str, str], int]:
    ids = np.sort(frames.items["item_id"].to_numpy(object))
    pairs = cooccurring(frames, ids, window, chunk)
    return {(ids[a], ids[b]): int(n) for a, b, n in zip(*pairs, strict=True)}


def in_loops(rows: list[Row], window: int) -> dict[tuple[str, str], int]:
    """The definition, written down; times differ within a user."""
    users = defaultdict(list)
    for user, item, time, label in rows:
        if label:
            users[user].append((time, item))
    found = defaultdict(set)
    for user, events in users.items():
        names = [item for _, item in sorted(events)]
        for i, a in enumerate(names):
            for b in names[i + 1 : i + 1 + window]:
                if a != b:
                    found[min(a, b), max(a, b)].add(user)
    return {pair: len(who) for pair, who in found.items()}


class TestLeak:
    def test_nothing_at_or_after_the_moment_is_a_pair(self) -> None:
        rows = [("u", "a", 1, 1), ("u", "b", 2, 1), ("u", "c", 3, 1), ("v", "a", 3, 1)]
        frames = frames_of(rows)
        assert mined(frames.before(3), 5) == {("a", "b"): 1}
        assert mined(frames, 5) == {("a", "b"): 1, ("a", "c"): 1, ("b", "c"): 1}


class TestByHand:
    def test_window_counts_positives_of_one_user(self) -> None:
        rows = [
            ("u", "a", 1, 1), ("u", "x", 2, 0), ("u", "b", 3, 1), ("u", "c", 4, 1),
            ("u", "d", 5, 1), ("v", "c", 1, 1), ("v", "b", 9, 1), ("w", "a", 1, 1),
        ]  # fmt: skip
        assert mined(frames_of(rows), 1) == {("a", "b"): 1, ("b", "c"): 2, ("c", "d"): 1}
        assert mined(frames_of(rows), 2) == {
            ("a", "b"): 1, ("b", "c"): 2, ("c", "d"): 1, ("a", "c"): 1, ("b", "d"): 1,
        }  # fmt: skip

    def test_a_user_counts_once_for_a_pair_and_no_item_pairs_with_itself(self) -> None:
        rows: list[Row] = [("u", name, time, 1) for time, name in enumerate("abababaa")]
        assert mined(frames_of(rows), 5) == {("a", "b"): 1}

    def test_items_that_are_not_asked_for_are_skipped_before_distances_are_counted(self) -> None:
        rows = [("u", "a", 1, 1), ("u", "gone", 2, 1), ("u", "b", 3, 1)]
        assert mined(frames_of(rows, ["a", "b"]), 1) == {("a", "b"): 1}

    def test_nothing(self) -> None:
        assert mined(frames_of([("u", "a", 1, 0), ("u", "b", 2, 0)]), 3) == {}
        assert mined(frames_of([("u", "a", 1, 1)]), 3) == {}

    def test_window(self) -> None:
        with pytest.raises(ConfigError, match="window: expected a number >= 1, got 0"):
            cooccurring(frames_of([("u", "a", 1, 1)]), np.array(["a"], object), 0)


class TestInvariance:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 1)), max_size=40),
        st.integers(1, 7),
        st.integers(1, 9),
        st.randoms(use_true_random=False),
    )
    def test_as_in_loops_in_chunks_of_any_size_and_rows_of_any_order(
        self, events: list[tuple[int, int, int]], window: int, chunk: int, random: object
    ) -> None:
        rows: list[Row] = [
            (f"u{u}", f"i{i}", float(time), label) for time, (u, i, label) in enumerate(events)
        ]
        if not rows:
            return
        expected = in_loops(rows, window)
        assert mined(frames_of(rows), window, chunk) == expected
        shuffled = list(rows)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert mined(frames_of(shuffled), window) == expected

    def test_equal_stamps_do_not_make_neighbours_of_ids_that_are_alike(self) -> None:
        names = [f"{i:03d}" for i in range(300)]
        pairs = mined(frames_of([("u", name, 5, 1) for name in names]), 1)
        assert len(pairs) == 299
        assert sum(int(b) - int(a) == 1 for a, b in pairs) < 20
        again = mined(frames_of([("u", name, 5, 1) for name in reversed(names)]), 1)
        assert again == pairs

    def test_users_have_orders_of_their_own_among_equal_stamps(self) -> None:
        names = [f"{i:03d}" for i in range(100)]
        rows: list[Row] = [(user, name, 5, 1) for user in ("u", "v") for name in names]
        counts = list(mined(frames_of(rows), 1).values())
        assert sum(n == 2 for n in counts) < 10


class TestFrequent:
    pairs = Pairs(np.array([0, 0, 1, 2]), np.array([1, 2, 2, 3]), np.array([1, 4, 2, 2]))

    def test_at_least(self) -> None:
        assert frequent(self.pairs, 2).users.tolist() == [4, 2, 2]

    def test_lowered_where_nothing_reaches_it(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            assert frequent(self.pairs, 9).users.tolist() == [4]
        assert "min_count is lowered to 4" in caplog.text
        none = self.pairs.take(np.zeros(4, bool))
        assert len(frequent(none, 3).users) == 0

    def test_the_most_frequent_are_kept_in_order(self) -> None:
        kept = frequent(self.pairs, 1, max_pairs=3)
        assert kept.first.tolist() == [0, 1, 2]
        assert kept.users.tolist() == [4, 2, 2]

    def test_ties_at_the_cut_do_not_favour_small_rows(self) -> None:
        n = 2000
        pairs = Pairs(np.arange(n), np.arange(n) + 1, np.ones(n, np.int64))
        kept = frequent(pairs, 1, max_pairs=500)
        assert len(kept.users) == 500
        assert 850 < kept.first.mean() < 1150
        np.testing.assert_array_equal(kept.first, frequent(pairs, 1, max_pairs=500).first)


class TestHoldOut:
    pairs = Pairs(np.arange(1000), np.arange(1000) + 1, np.ones(1000, np.int64))

    def test_a_tenth_by_pair_and_seed(self) -> None:
        train, held = hold_out(self.pairs, seed=3)
        assert len(held.users) == 100
        assert sorted([*train.first, *held.first]) == list(range(1000))
        np.testing.assert_array_equal(held.first, hold_out(self.pairs, seed=3)[1].first)
        assert held.first.tolist() != hold_out(self.pairs, seed=4)[1].first.tolist()

    def test_no_more_than_needed_and_none_of_few(self) -> None:
        assert len(hold_out(self.pairs, 0, most=20)[1].users) == 20
        few = self.pairs.take(np.arange(9))
        assert len(hold_out(few, 0)[1].users) == 0
