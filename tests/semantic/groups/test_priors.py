"""Group attributes, sequences and back-off against hand-computed values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.errors import DataError
from recbole_choir.prefix_groups import prefix_ids
from recbole_choir.semantic.frames.categories import (
    PSEUDO_CATEGORY,
    category_pairs,
    has_categories,
)
from recbole_choir.semantic.groups.priors import (
    attribute_kinds,
    choose_levels,
    group_names,
    group_priors,
    group_sequences,
)


def events_of(*rows: tuple[int, str, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["group", "item_id", "timestamp"])


def pairs_of(**items: list[str]) -> pd.DataFrame:
    return category_pairs(pd.DataFrame({"item_id": list(items), "category": list(items.values())}))


class TestSequence:
    def test_two_stages_by_hand(self) -> None:
        # Category X has 6 purchases (a 3, b 2, c 1), Y 3 (d 2, e 1), Z 1 (f): with K_cat 2 and 3
        # places, X gets 6/9 of 3 = 2 (a, b) and Y 1 (d). Mean times: a 20, b 5, d 11.
        events = events_of(
            (0, "a", 10), (0, "a", 20), (0, "a", 30), (0, "b", 4), (0, "b", 6), (0, "c", 1),
            (0, "d", 10), (0, "d", 12), (0, "e", 2), (0, "f", 3),
        )  # fmt: skip
        pairs = pairs_of(a=["X"], b=["X"], c=["X"], d=["Y"], e=["Y"], f=["Z"])
        assert group_sequences(events, pairs, 2, 3).to_dict() == {0: ["b", "d", "a"]}

    def test_largest_remainder(self) -> None:
        # Counts 5, 3, 2 for 4 places: exact shares 2.0, 1.2, 0.8 -> 2, 1, 0 and the last place
        # goes to the largest remainder, Z.
        rows = [(0, i, t) for t, i in enumerate("aabbc" + "dde" + "fg")]
        pairs = pairs_of(a=["X"], b=["X"], c=["X"], d=["Y"], e=["Y"], f=["Z"], g=["Z"])
        assert sorted(group_sequences(events_of(*rows), pairs, 10, 4)[0]) == ["a", "b", "d", "f"]

    def test_remainder_tie_goes_to_larger_category(self) -> None:
        # X and Y have 1 purchase each for 3 places: 1 each and the third to X, which has a second
        # item... but X has one item only, so Y's spare item takes it.
        pairs = pairs_of(a=["X"], b=["Y"], c=["Y"])
        events = events_of((0, "a", 1), (0, "a", 1), (0, "b", 2), (0, "c", 3))
        assert group_sequences(events, pairs, 10, 3)[0] == ["a", "b", "c"]

    def test_item_of_two_categories_counts_twice_appears_once(self) -> None:
        # X: a 2 + b 1 = 3; Y: a 2 + c 1 = 3. Tie by name: X first. Two places: one each. X's is a;
        # Y's best is a as well, taken, so c.
        pairs = pairs_of(a=["X", "Y"], b=["X"], c=["Y"])
        events = events_of((0, "a", 5), (0, "a", 7), (0, "b", 1), (0, "c", 2))
        assert group_sequences(events, pairs, 10, 2)[0] == ["c", "a"]
        assert group_sequences(events, pairs, 1, 3)[0] == ["b", "a"]

    def test_item_that_finds_no_place_may_enter_by_its_other_category(self) -> None:
        # X: b 3 + a 2 = 5, Y: a 2 + c 1 = 3; two places, one each: X takes b, Y its best, a.
        pairs = pairs_of(a=["X", "Y"], b=["X"], c=["Y"])
        events = events_of(*[(0, i, t) for t, i in enumerate("bbbaac")])
        assert group_sequences(events, pairs, 10, 2)[0] == ["b", "a"]

    def test_popularity_and_time_are_those_of_the_group(self) -> None:
        pairs = pairs_of(a=["X"], b=["X"])
        events = events_of((0, "a", 1), (1, "b", 1), (1, "b", 2), (1, "a", 9), (0, "a", 3))
        assert group_sequences(events, pairs, 10, 1).to_dict() == {0: ["a"], 1: ["b"]}

    def test_equal_times_ordered_by_item(self) -> None:
        pairs = pairs_of(a=["X"], b=["X"])
        assert group_sequences(events_of((0, "b", 1), (0, "a", 1)), pairs)[0] == ["a", "b"]

    def test_item_without_category_is_left_out(self) -> None:
        pairs = pairs_of(a=["X"], b=[])
        assert group_sequences(events_of((0, "b", 1), (0, "a", 1)), pairs)[0] == ["a"]

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from("abcdefgh"), st.integers(0, 9)),
            min_size=1,
            max_size=40,
        ),
        st.integers(1, 4),
        st.integers(1, 10),
        st.randoms(),
    )
    def test_properties(self, rows, k, length, rng) -> None:
        pairs = pairs_of(
            a=["X"], b=["X", "Y"], c=["Y"], d=["Z"], e=["Z", "X"], f=["V"], g=["W"], h=["W"]
        )
        got = group_sequences(events_of(*rows), pairs, k, length)
        shuffled = list(rows)
        rng.shuffle(shuffled)
        assert group_sequences(events_of(*shuffled), pairs, k, length).to_dict() == got.to_dict()
        for group, sequence in got.items():
            bought = {i for g, i, _ in rows if g == group}
            assert len(sequence) == len(set(sequence)) <= length
            assert set(sequence) <= bought
            if k == 4 and len(bought & set("abcde")) == len(bought):
                assert len(sequence) == min(length, len(bought))  # no place is left empty


class TestGroups:
    codes = np.array([[0, 1], [0, 1], [0, 0], [1, 0], [-1, -1]])

    def test_prefix_ids(self) -> None:
        expected = [[0, 1], [0, 1], [0, 0], [1, 2], [-1, -1]]
        assert prefix_ids(self.codes).tolist() == expected

    def test_backoff(self) -> None:
        prefixes = prefix_ids(self.codes)
        # 0-1 has two members, 0-0 one (its parent three), 1 only one: the first level all the same.
        assert choose_levels(prefixes, 2, "backoff").tolist() == [2, 2, 1, 1, 0]
        assert choose_levels(prefixes, 1, "backoff").tolist() == [2, 2, 2, 2, 0]
        assert choose_levels(prefixes, 4, "backoff").tolist() == [1, 1, 1, 1, 0]
        assert choose_levels(prefixes, 2, 2).tolist() == [2, 2, 2, 2, 0]

    def test_names(self) -> None:
        names = group_names(self.codes, np.array([2, 2, 1, 1, 0])).tolist()
        assert names == ["0-1", "0-1", "0", "1", None]

    def test_priors_by_hand(self) -> None:
        users = pd.DataFrame(
            {
                "user_id": list("pqrst"),
                "city": ["rome", None, "oslo", "oslo", "bonn"],
                "age": [20.0, np.nan, 40.0, np.nan, 60.0],
            }
        )
        positives = pd.DataFrame(
            {
                "user_id": ["p", "q", "r", "t"],
                "item_id": ["a", "b", "a", "c"],
                "timestamp": [3.0, 1.0, 5.0, 0.0],
            }
        )
        kinds = attribute_kinds(users)
        assert kinds == {"city": "token", "age": "float"}
        pairs = pairs_of(a=["X"], b=["X"], c=["X"])
        groups = group_priors(positives, users, self.codes, pairs, kinds).set_index("group_id")
        assert groups["size"].to_dict() == {"0": 3, "1": 1, "0-0": 1, "0-1": 2, "1-0": 1}
        assert groups["level"].to_dict() == {"0": 1, "1": 1, "0-0": 2, "0-1": 2, "1-0": 2}
        assert groups["n_events"].to_dict() == {"0": 3, "1": 0, "0-0": 1, "0-1": 2, "1-0": 0}
        # group 0: rome, missing, oslo: the missing one does not count, the tie goes to oslo
        assert groups.loc["0", "attr_city"] == "oslo"
        assert groups.loc["0-1", "attr_city"] == "rome"
        assert groups.loc["0", "attr_age"] == 30.0
        assert np.isnan(groups.loc["1", "attr_age"])
        assert groups.loc["0", "sequence"] == ["b", "a"]  # mean times 1 and 4
        assert groups.loc["1-0", "sequence"] == []

    def test_no_member_knows_the_attribute(self) -> None:
        users = pd.DataFrame({"user_id": ["p"], "city": pd.Series([None], dtype=object)})
        positives = pd.DataFrame({"user_id": [], "item_id": [], "timestamp": []})
        groups = group_priors(
            positives, users, np.array([[0]]), pairs_of(a=["X"]), attribute_kinds(users)
        )
        assert groups["attr_city"].tolist() == [None]

    def test_stranger_is_an_error(self) -> None:
        users = pd.DataFrame({"user_id": ["p"]})
        positives = pd.DataFrame({"user_id": ["x"], "item_id": ["a"], "timestamp": [0.0]})
        with pytest.raises(DataError, match="'x'"):
            group_priors(positives, users, np.array([[0]]), pairs_of(a=["X"]), {})


class TestCategories:
    def test_lists_names_and_blanks(self) -> None:
        items = pd.DataFrame(
            {"item_id": ["b", "a", "c"], "category": [["X", "Y", "X"], "Z", ["", None]]}
        )
        expected = [["a", "Z"], ["b", "X"], ["b", "Y"]]
        assert category_pairs(items).to_numpy().tolist() == expected

    def test_no_category_field(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            pairs = category_pairs(pd.DataFrame({"item_id": ["b", "a"]}))
        assert pairs["category"].unique().tolist() == [PSEUDO_CATEGORY]
        assert not has_categories(pairs)
        assert "one pseudo-category" in caplog.text
        sequence = group_sequences(events_of((0, "b", 1), (0, "b", 3), (0, "a", 1)), pairs)
        assert sequence[0] == ["a", "b"]
