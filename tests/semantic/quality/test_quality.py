"""What the quality report measures, against values made by hand and groups that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_choir.prefix_groups import memberships
from recbole_choir.semantic.frames.categories import category_pairs
from recbole_choir.semantic.quality.lift import (
    LabelledRows,
    _asof_pairs,
    _base_rate,
    _lift,
    _permuted,
    lift_report,
)
from recbole_choir.semantic.quality.report import (
    SnapshotGroups,
    attribute_cells,
    quality_report,
    quality_table,
)


def rows_of(*rows: tuple[int, float, int, int], n_users: int) -> LabelledRows:
    """Rows of user, time, label, category; one category a row."""
    user, time, label, category = (np.array(c) for c in zip(*rows, strict=True))
    return LabelledRows(
        user.astype(np.int64),
        time.astype(np.float64),
        label.astype(np.float64),
        np.arange(len(rows)),
        category.astype(np.int64),
        n_users,
    )


def lift_of(rows: LabelledRows, members: list[int], at: int, prior: float) -> float:
    pairs = np.arange(len(rows.pair_row))
    own = _asof_pairs(rows, rows.user, pairs)
    everyone = _asof_pairs(rows, np.zeros(len(pairs), np.int64), pairs)
    where = np.array([at])
    read = np.array(members)
    base = _base_rate(rows)
    return float(_lift(rows, where, read, read[:, None], own, everyone, base, prior)[0])


# User 1 is in user 0's group, user 2 is not. All before row 5 (user 0, category 0, time 10).
EVENTS = (
    (1, 1.0, 1, 0),
    (1, 2.0, 0, 0),
    (2, 3.0, 0, 0),
    (0, 4.0, 1, 0),  # user 0's own: in no count
    (1, 5.0, 1, 1),  # another category
    (0, 10.0, 1, 0),  # the row
    (1, 10.0, 1, 0),  # at the same time: not before it
    (2, 11.0, 1, 0),
)


def test_lift_by_hand() -> None:
    rows = rows_of(*EVENTS, n_users=3)
    # Before t=10: 5 events, 3 positive: base (3+1)/(5+2) = 4/7. Others with category 0: 3
    # exposures, 1 positive: r = (1 + 2 * 4/7) / (3 + 2). The group (user 1): 2 and 1.
    rate = (1 + 2 * 4 / 7) / 5
    expected = np.log((1 + 2 * rate) / (2 + 2) / rate)
    assert lift_of(rows, [0, 0, 1], 5, 2.0) == pytest.approx(expected, abs=1e-12)
    # Without a group the lift is that of no evidence.
    assert lift_of(rows, [-1, 0, 1], 5, 2.0) == pytest.approx(0.0, abs=1e-12)


def test_own_events_later_events_and_own_label_change_nothing() -> None:
    base = lift_of(rows_of(*EVENTS, n_users=3), [0, 0, 1], 5, 2.0)
    without_later = EVENTS[:6]
    assert lift_of(rows_of(*without_later, n_users=3), [0, 0, 1], 5, 2.0) == base
    flipped = (*EVENTS[:5], (0, 10.0, 0, 0), *EVENTS[6:])
    assert lift_of(rows_of(*flipped, n_users=3), [0, 0, 1], 5, 2.0) == base


def two_tastes(n_users: int = 60, n_rows: int = 6000, seed: int = 0) -> LabelledRows:
    """Half of the users like category 0, half category 1."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, n_users, n_rows)
    category = rng.integers(0, 2, n_rows)
    label = rng.random(n_rows) < np.where(user % 2 == category, 0.8, 0.2)
    return LabelledRows(
        user, np.arange(n_rows, dtype=float), label.astype(float), np.arange(n_rows), category,
        n_users,
    )  # fmt: skip


def test_groups_that_know_beat_random_ones_and_ignorant_ones_do_not() -> None:
    rows = two_tastes()
    times = np.array([2000.0, 6001.0])
    taste = np.tile(np.arange(60) % 2, (2, 1))
    report = lift_report(rows, times, taste).set_index("segment")
    # Ranking by the true taste: AUC = .8 within a user (half of the rows of either category).
    assert report.loc["all", "gauc"] == pytest.approx(0.8, abs=0.01)
    assert abs(report.loc["all", "random"] - 0.5) < 0.08
    assert report.loc["all", "rows"] == 3999  # row 2000 is at the snapshot, not after it
    assert report.loc["all", "users"] == 60
    levels = report.loc[[f"level_{i}" for i in range(1, 6)]]
    assert levels["users"].tolist() == [12] * 5
    assert levels["rows"].sum() == 3999
    # Groups of evenly mixed taste lean against their members once these are left out.
    mixed = lift_report(rows, times, np.tile(np.arange(60) // 2 % 2, (2, 1)))
    assert mixed.loc[0, "gauc"] < 0.5


def test_rows_without_a_group_are_ties() -> None:
    report = lift_report(two_tastes(), np.array([2000.0]), np.full((1, 60), -1))
    assert report.loc[0, "gauc"] == 0.5
    assert report.loc[0, "with_group"] == 0.0


def frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    interactions = pd.DataFrame(
        {
            "user_id": ["p", "q", "r", "p"],
            "item_id": ["a", "a", "b", "b"],
            "timestamp": [1.0, 2.0, 3.0, 9.0],
            "label": [1, 1, 1, 0],
        }
    )
    users = pd.DataFrame({"user_id": list("pqrs"), "city": ["rome", "rome", "oslo", None]})
    items = pd.DataFrame({"item_id": ["a", "b"], "category": [["X"], ["Y"]]})
    return interactions, users, category_pairs(items)


def test_shape_consistency_and_concentration_by_hand() -> None:
    interactions, users, pairs = frames()
    codes = np.array([[0, 1], [0, 1], [0, 0], [-1, -1]])
    # The third backs off to "0", which has the first two as members as well.
    groups = SnapshotGroups(5.0, codes, np.array([0, 0, 1, -1]), np.array([2, 2, 1, 0]))
    report = quality_report(interactions, users, pairs, {"city": "token"}, [groups], [2, 3])
    snapshot = report["snapshots"][0]
    assert snapshot["users_with_group"] == 3
    assert snapshot["groups"] == 2
    assert {k: n for k, n in snapshot["group_sizes"].items() if n} == {"2-4": 2}
    assert snapshot["users_by_level"] == {"0": 1, "1": 1, "2": 2}
    assert snapshot["codewords_used"] == [[1, 2], [2, 3]]
    # "0" has rome, rome and oslo, "0-1" rome and rome: 2 + 2 of 3 + 2
    assert snapshot["attribute_consistency"]["mean"] == pytest.approx(4 / 5)
    assert snapshot["attribute_consistency"]["population"] == pytest.approx(2 / 3)
    assert snapshot["top_categories"] == {"n": 2, "share": 1.0, "population": 1.0}
    # One row after the snapshot: nobody has both labels.
    assert report["lift_gauc"][0]["rows"] == 1
    assert report["lift_gauc"][0]["gauc"] is None
    text = quality_table(report)
    assert "users with a group  3 of 4 in 2" in text
    assert "80.0% of a group's members share it (66.7% of all users)" in text


def test_more_than_fifty_categories() -> None:
    interactions, users, _ = frames()
    items = [f"i{n}" for n in range(100)]
    interactions = pd.DataFrame({"user_id": "p", "item_id": items, "timestamp": 0.0, "label": 1})
    pairs = pd.DataFrame({"item_id": items, "category": [f"c{n}" for n in range(100)]})
    groups = SnapshotGroups(
        5.0, np.zeros((4, 1), int), np.array([0, 0, -1, -1]), np.array([1, 1, 0, 0])
    )
    report = quality_report(interactions, users, pairs, {}, [groups], [2])
    assert report["snapshots"][0]["top_categories"]["share"] == 0.5
    assert report["snapshots"][0]["attribute_consistency"]["mean"] is None


class TestBeyondAttributes:
    """Members permuted within cells of equal attributes: what is left is what attributes know."""

    times = np.array([2000.0])

    def test_a_group_that_is_its_cell_knows_nothing_beyond(self) -> None:
        taste = np.arange(60) % 2
        report = lift_report(two_tastes(), self.times, taste[None], cells=taste)
        # any change of places within a cell leaves the groups as they are
        assert (report["within_cells"] == report["gauc"]).all()
        assert (report["beyond_attributes"] == 0.0).all()
        assert report.loc[0, "gauc"] - report.loc[0, "random"] > 0.2

    def test_one_cell_is_the_random_control(self) -> None:
        taste = np.arange(60) % 2
        report = lift_report(two_tastes(), self.times, taste[None], cells=np.zeros(60, np.int64))
        assert abs(report.loc[0, "within_cells"] - 0.5) < 0.15
        assert report.loc[0, "beyond_attributes"] > 0.2
        difference = report["gauc"] - report["within_cells"]
        assert report["beyond_attributes"].tolist() == difference.tolist()

    def test_users_alone_in_their_cell_stay_where_they_are(self) -> None:
        taste = np.arange(60) % 2
        report = lift_report(two_tastes(), self.times, taste[None], cells=np.arange(60))
        assert (report["beyond_attributes"] == 0.0).all()

    def test_the_random_control_does_not_depend_on_cells(self) -> None:
        taste = np.arange(60) % 2
        with_cells = lift_report(two_tastes(), self.times, taste[None], cells=taste)
        without = lift_report(two_tastes(), self.times, taste[None])
        assert with_cells["random"].tolist() == without["random"].tolist()
        assert "within_cells" not in without

    def test_permutations_keep_groups_cells_and_whole_memberships(self) -> None:
        rng = np.random.default_rng(0)
        known, cells = rng.random(200) < 0.8, rng.integers(0, 9, 200)
        for among in (None, cells):
            user = _permuted(known, among, rng)
            assert sorted(user) == list(range(200))
            assert (user[~known] == np.flatnonzero(~known)).all()
            assert (user != np.arange(200)).sum() > 100
        assert (cells[user] == cells).all()

    def test_cells_by_hand(self) -> None:
        users = pd.DataFrame(
            {
                "user_id": list("abcde"),
                "sex": ["f", "f", "m", "m", None],
                "age": [20.0, 20.0, 20.0, np.nan, np.nan],
                "note": [["x"]] * 5,
            }
        )
        fields, cells = attribute_cells(users, ["sex", "age"])
        assert fields == ["sex", "age"]
        assert cells[0] == cells[1]
        assert len(set(cells.tolist())) == 4
        assert attribute_cells(users, []) == ([], pytest.approx(np.zeros(5)))

    def test_report_and_text(self) -> None:
        interactions, users, pairs = frames()
        codes = np.array([[0], [0], [1], [-1]])
        groups = SnapshotGroups(5.0, codes, np.array([0, 0, 1, -1]), np.array([1, 1, 1, 0]))
        report = quality_report(interactions, users, pairs, {"city": "token"}, [groups], [2])
        # of the three with a group: two in rome, one alone in oslo
        assert report["attribute_cells"] == {
            "fields": ["city"], "users": 3, "cells": 2, "users_alone": pytest.approx(1 / 3),
        }  # fmt: skip
        text = quality_table(report)
        assert "in cells: members permuted among users of equal city;" in text
        assert "2 cells\nof 3 users, 33.3% of them alone" in text
        bare = quality_report(interactions, users[["user_id"]], pairs, {}, [groups], [2])
        assert bare["attribute_cells"] is None
        assert "No attribute describes users" in quality_table(bare)


def test_a_prefix_group_counts_its_deep_members() -> None:
    # users 0 and 1 read "0-0" (group 1), user 2 alone reads "0" (group 0), which has all three
    rows = rows_of(
        (0, 1.0, 1, 0), (1, 2.0, 0, 0), (2, 3.0, 1, 0), (2, 10.0, 1, 0), n_users=3
    )  # fmt: skip
    read = np.array([1, 1, 0])
    belongs = memberships(np.array([[0, 0], [0, 0], [0, 1]]), read, np.array([2, 2, 1]))
    pairs = np.arange(4)
    own = _asof_pairs(rows, rows.user, pairs)
    everyone = _asof_pairs(rows, np.zeros(4, np.int64), pairs)
    base = _base_rate(rows)
    got = _lift(rows, np.array([3]), read, belongs, own, everyone, base, 2.0)
    # the others of "0": users 0 and 1, two exposures and one positive, and so is the population
    rate = (1 + 2 * base[3]) / (2 + 2)
    assert got[0] == pytest.approx(np.log((1 + 2 * rate) / (2 + 2) / rate))
