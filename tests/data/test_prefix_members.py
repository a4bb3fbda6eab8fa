"""Members of a group that small siblings back off to are all ids of its prefix, for every reader.

One case by hand: user 1 and 2 read the deep group "0-0" (row 1), user 3 alone in "0-1" backs off to
"0" (row 2), user 4 reads "1" (row 3). So "0" has users 1, 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.clusters.behaviour import ClusterBehaviour
from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.counting import Membership
from recbole_choir.data.cross_statistics import ItemClusters, cross_statistics
from recbole_choir.data.group_statistics import group_statistics
from recbole_choir.data.members import belongs_to, prefix_levels
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.prefix_groups import memberships, prefix_ids
from recbole_choir.semantic.frames.categories import category_pairs
from recbole_choir.semantic.groups.priors import choose_levels, group_names, group_priors

Ints = np.ndarray
READ = np.array([0, 1, 1, 2, 3])
CODES = np.array([[0, 0], [1, 1], [1, 1], [1, 2], [2, 1]])  # 0 is unknown, else the code + 1
LEVEL = np.array([0, 2, 1, 1])
BELONGS = [[0, 0], [2, 1], [2, 1], [2, 0], [3, 0]]


def events(*rows: tuple[int, int, float, int]) -> Events:
    a = np.array(rows, dtype=np.float64)
    return Events(
        a[:, 0].astype(np.int64), a[:, 1].astype(np.int64), a[:, 2], a[:, 3].astype(np.float32)
    )


def a_side(tail: list[bool]) -> ClusterSide:
    none = torch.zeros(1, 5, dtype=torch.int32)
    return ClusterSide.build(
        torch.cat([none, torch.tensor(READ)[None]]).int(),
        torch.cat([torch.zeros(1, 5, 2), torch.tensor(CODES)[None]]).int(),
        4,
        torch.zeros(2, 5, 1),
        np.array([0, 4, 9, 1, 1]),
        np.array(tail),
        LEVEL,
    )


class TestRule:
    def test_by_hand(self) -> None:
        assert belongs_to(READ, CODES, LEVEL).tolist() == BELONGS
        assert belongs_to(READ, CODES, None).tolist() == READ[:, None].tolist()

    def test_a_group_that_is_no_prefix_has_its_readers(self) -> None:
        got = belongs_to(READ, CODES, np.array([0, 2, 0, 1]))  # row 2 is of another tool
        assert [sorted(set(row) - {0}) for row in got.tolist()] == [[], [1], [1], [2], [3]]

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30),
        st.integers(1, 6),
        st.integers(0, 3),
    )
    def test_groups_are_whole_prefixes(
        self, codes: list[tuple[int, ...]], least: int, unknown: int
    ) -> None:
        c = np.array(codes)
        c[:unknown] = -1
        level = choose_levels(prefix_ids(c), least, "backoff")
        names = group_names(c, level)
        read = np.array([-1 if n is None else sorted(set(names) - {None}).index(n) for n in names])
        belongs = memberships(c, read, level)
        for n, row in enumerate(belongs.tolist()):
            want = {
                int(read[k])
                for k in range(len(c))
                if level[k] and c[n, 0] >= 0 and (c[n, : level[k]] == c[k, : level[k]]).all()
            }
            assert sorted(set(row) - {-1}) == sorted(want)
            assert len([g for g in row if g >= 0]) == len(want)  # each in one column

    def test_levels_are_read_off_names(self) -> None:
        names = pa.array(["0-0", "0", "7", "west", "0-0-0", "-1", None])
        codes = np.array([[0, 0], [0, 1], [0, 1], [1, 1], [-1, -1]])
        read = np.array([0, 1, 2, 3, -1])
        # "7" is no prefix of its reader's codes, "0-0-0" is longer than they are
        assert prefix_levels(names, read, codes).tolist() == [2, 1, 0, 0, 0, 0, 0]


class TestTable:
    """What groups.parquet says of a group, and what is counted for it, are of the same members."""

    def test_size_is_the_number_of_members(self, write_table: Callable[..., Path]) -> None:
        folder = write_table(
            users={
                "snapshot": [1] * 4,
                "user_id": ["u1", "u2", "u3", "u4"],
                "code_1": [0, 0, 0, 1],
                "code_2": [0, 0, 1, 0],
                "group_id": ["0-0", "0-0", "0", "1"],
            },
            groups={
                "snapshot": [1] * 3,
                "group_id": ["0", "0-0", "1"],
                "size": [3, 2, 1],
            },
        )
        table = SemanticTable.load(folder)
        groups = GroupTables.join(
            table,
            np.array(["[PAD]", "u4", "u3", "u2", "u1"]),
            np.array(["[PAD]", "i1", "i2", "i3"]),
        )
        index = groups.membership(1).index
        members = [int((index == g).sum()) for g in range(1, groups.n_groups)]
        assert members == groups.group_size[1:].tolist() == [3, 2, 1]

    def test_priors_and_readers_agree(self) -> None:
        # a, b in "0-0"; c backs off to "0": mode, mean, size and sequence are of a, b and c
        import pandas as pd

        users = pd.DataFrame(
            {"user_id": list("abc"), "city": ["rome", "rome", "oslo"], "age": [20.0, 30.0, 70.0]}
        )
        codes = np.array([[0, 0], [0, 0], [0, 1]])
        positives = pd.DataFrame(
            {"user_id": list("abc"), "item_id": list("xyz"), "timestamp": [1.0, 2.0, 3.0]}
        )
        pairs = category_pairs(pd.DataFrame({"item_id": list("xyz"), "category": [["k"]] * 3}))
        kinds = {"city": "token", "age": "float"}
        level = choose_levels(prefix_ids(codes), 2, "backoff")
        assert level.tolist() == [2, 2, 1]
        priors = group_priors(positives, users, codes, pairs, kinds).set_index("group_id")  # type: ignore[arg-type]
        top = priors.loc["0"]
        assert (top["size"], top["n_events"], top["attr_city"], top["attr_age"]) == (
            3, 3, "rome", 40.0,
        )  # fmt: skip
        assert top["sequence"] == ["x", "y", "z"]
        belongs = memberships(codes, np.array([1, 1, 0]), level)
        assert int((belongs == 0).sum()) == top["size"]


class TestStatistics:
    def test_a_deep_member_counts_for_the_prefix_of_its_sibling(self) -> None:
        past = [(1, 1, 1.0, 1), (2, 1, 2.0, 0), (3, 1, 3.0, 1), (4, 1, 4.0, 1)]
        asked = events((3, 1, 9.0, 0), (1, 1, 9.0, 0), (4, 1, 9.0, 0))
        stats = group_statistics(
            events(*past),
            asked,
            np.array([1, 1, 1]),
            lambda s: Membership.nested(belongs_to(READ, CODES, LEVEL), READ),
        )
        # user 3 sees users 1 and 2 (not itself); user 1 its own deep group alone: user 2
        expected = [[math.log(3), math.log(2)], [math.log(2), 0.0], [0.0, 0.0]]
        assert stats.values[:, :2] == pytest.approx(np.array(expected))

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 7), st.integers(0, 1)),
            min_size=1,
            max_size=20,
        )
    )
    def test_equal_a_double_loop(self, rows: list[tuple[int, int, int, int]]) -> None:
        done = events(*[(u, i, float(t), y) for u, i, t, y in rows])
        items = ItemClusters(
            np.array([[0] * 4, [0, 1, 1, 2]]),
            np.array([[[0, 0]] * 4, [[0, 0], [1, 1], [1, 1], [1, 2]]]),
            np.array([0, 2, 1]),
        )
        of_item = {1: {1, 2}, 2: {1, 2}, 3: {2}}
        of_user = {u: set(row) - {0} for u, row in enumerate(BELONGS)}
        snapshot = np.ones(len(rows), np.int64)
        nested = Membership.nested(belongs_to(READ, CODES, LEVEL), READ)
        got = cross_statistics(done, done, snapshot, lambda s: nested, items)
        for n, (u, i, t, _) in enumerate(rows):
            cluster = int(items.cluster[1, i])
            about = [r for r in rows if r[2] < t and cluster in of_item[r[1]]]
            mine = [r for r in about if r[0] == u]
            group = [r for r in about if r[0] != u and int(READ[u]) in of_user[r[0]]]
            value = dict(zip(got.names, got.values[n]))
            assert value["cross_cluster_log_exposures"] == pytest.approx(math.log1p(len(group)))
            positives = math.log1p(sum(r[3] for r in group))
            assert value["cross_cluster_log_positives"] == pytest.approx(positives)
            assert value["cross_own_cluster_log_exposures"] == pytest.approx(math.log1p(len(mine)))


class TestClusters:
    def test_partners_come_from_all_members(self) -> None:
        s = a_side([False, False, False, True, True])  # 1 and 2 are heads, 3 is a tail
        lists = [
            s.partner_ids[a:b].tolist()
            for a, b in zip(s.partner_start.tolist(), s.partner_end.tolist())
        ]
        # the tail in "0" finds the heads, which read "0-0"; these have no tail in "0-0"
        assert lists == [[], [], [], [1, 2], []]
        assert s.belongs[1].tolist() == BELONGS

    def test_behaviour_is_that_of_all_members(self) -> None:
        positives = events((1, 1, 1.0, 1), (2, 1, 2.0, 1), (3, 1, 3.0, 1), (4, 2, 4.0, 1))
        belongs = np.stack([np.zeros((5, 2), np.int64), np.array(BELONGS)])
        behaviour = ClusterBehaviour.build(
            positives,
            belongs,
            np.array([[0, 0, 0], [0, 1, 1]]),
            np.array([9.0]),
            4,
            1,
            min_support=3,
        )
        # three members of "0" chose item 1; of "0-0" two did
        found = behaviour.gather(torch.tensor([2, 1]), torch.tensor([1, 1]))
        assert found.tolist() == [[1], [0]]
