"""Head, tail, partners and activity of clusters, and everything built from tables and rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.clusters.tables import Clusters
from recbole_choir.data.fields import ITEM_STATS, USER_STATS
from recbole_choir.data.rows import RowInputs
from recbole_choir.data.statistics import USER_STAT_NAMES, Events
from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.errors import DataError

# id: (cluster row in the newest snapshot, first code, second code, training rows, tail)
IDS = [
    (9, 1, 1, 99, True),  # the padding id, whatever the arrays say
    (1, 1, 1, 16, False),
    (1, 1, 1, 4, False),
    (1, 1, 1, 2, True),
    (2, 1, 2, 3, True),  # alone in its cluster ...
    (3, 1, 2, 25, False),  # ... with the same first two codes as this one
    (4, 2, 1, 1, True),  # nobody of the other class anywhere
    (4, 2, 1, 1, True),
    (1, 1, 1, 0, True),  # never seen in training
    (0, 0, 0, 9, False),  # no cluster, no codes
    (5, 2, 0, 9, False),  # a cluster, but an unknown second code
]


def side(ids: list[tuple[int, int, int, int, bool]]) -> ClusterSide:
    home, first, second, rows, tail = (np.array(c) for c in zip(*ids))
    cluster = np.stack([np.zeros_like(home), np.full_like(home, 7), home])
    codes = np.zeros((3, len(ids), 3), dtype=np.int32)
    codes[2, :, 0], codes[2, :, 1] = first, second
    return ClusterSide.build(
        torch.from_numpy(cluster.astype(np.int32)),
        torch.from_numpy(codes),
        10,
        torch.zeros(3, len(ids), 1),
        rows,
        tail,
    )


def partners(s: ClusterSide) -> list[list[int]]:
    return [
        s.partner_ids[a:b].tolist()
        for a, b in zip(s.partner_start.tolist(), s.partner_end.tolist())
    ]


def weights(s: ClusterSide, i: int) -> list[float]:
    cumulative = s.partner_cum[s.partner_start[i] : s.partner_end[i] + 1]
    return (cumulative[1:] - cumulative[:-1]).tolist()


def test_partners_by_hand() -> None:
    s = side(IDS)
    assert partners(s) == [
        [], [3], [3], [1, 2], [5], [4], [], [], [1, 2], [], [],
    ]  # fmt: skip
    assert weights(s, 3) == pytest.approx([4.0, 2.0])  # heads: square root of their rows
    assert weights(s, 1) == pytest.approx([1.0])  # tails: 1
    assert s.home.tolist() == [0, 1, 1, 1, 2, 3, 4, 4, 1, 0, 5]
    assert s.seen.tolist() == [False, *[True] * 7, False, True, True]
    assert not s.tail[0]
    assert s.tail[1:].tolist() == [i[4] for i in IDS[1:]]


def test_ids_of_one_cluster_and_class_share_a_range() -> None:
    s = side(IDS)
    assert s.partner_start[1] == s.partner_start[2]
    # Each seen id with a cluster once, and once more with its prefix.
    assert len(s.partner_ids) == 8 + 7
    assert not (s.partner_ids == 0).any()
    assert not (s.partner_ids == 8).any()


ID = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ID, min_size=1, max_size=14))
def test_partners_equal_a_double_loop(ids: list[tuple[int, int, int, int, bool]]) -> None:
    s = side(ids)
    got = partners(s)
    assert got[0] == []
    for n, (home, first, second, _, tail) in list(enumerate(ids))[1:]:
        others = [k for k in range(1, len(ids)) if ids[k][3] > 0 and ids[k][4] != tail]
        same = [k for k in others if home and ids[k][0] == home]
        prefix = [k for k in others if first and second and ids[k][1:3] == (first, second)]
        assert got[n] == (same or prefix)
        want = [1.0 if ids[k][4] else math.sqrt(ids[k][3]) for k in got[n]]
        assert weights(s, n) == pytest.approx(want)


@settings(max_examples=60, deadline=None)
@given(st.lists(ID, min_size=2, max_size=14), st.integers(0, 2**31 - 1))
def test_draws_are_partners_of_the_other_class(
    ids: list[tuple[int, int, int, int, bool]], seed: int
) -> None:
    s, lists = side(ids), partners(side(ids))
    asked = torch.arange(len(ids)).repeat(20)
    uniform = torch.rand(len(asked), generator=torch.Generator().manual_seed(seed))
    uniform[:2] = torch.tensor([0.0, 1.0 - 2**-24])
    drawn = s.draw_partners(asked, uniform)
    for i, partner in zip(asked.tolist(), drawn.tolist()):
        assert partner in (lists[i] or [0])
        if partner:
            assert s.tail[partner] != s.tail[i]
            assert s.seen[partner]


def test_draws_follow_the_weights() -> None:
    s = side(IDS)
    n = 6000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = s.draw_partners(torch.full((n,), 3), uniform)
    assert torch.bincount(drawn, minlength=3).tolist() == [0, 4000, 2000]  # 4 to 2
    assert s.draw_partners(torch.tensor([6, 0, 9]), torch.rand(3)).tolist() == [0, 0, 0]


def test_nobody_has_a_partner() -> None:
    s = side([IDS[0], (0, 0, 0, 3, False)])
    assert s.draw_partners(torch.tensor([1]), torch.tensor([0.3])).tolist() == [0]


def test_one_level_has_no_prefix() -> None:
    s = ClusterSide.build(
        torch.tensor([[0, 0, 0], [0, 1, 2]]), torch.tensor([[[0]] * 3, [[0], [1], [1]]]), 3,
        torch.zeros(2, 3, 1), np.array([0, 5, 5]), np.array([False, True, False]),
    )  # fmt: skip
    assert partners(s) == [[], [], []]


def test_arrays_of_other_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="expected arrays of 3 ids, got 3 codes"):
        ClusterSide.build(
            torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3, 1), 1, torch.zeros(2, 3, 1),
            np.ones(4), np.zeros(3, dtype=bool),
        )  # fmt: skip


# --- from tables and rows ----------------------------------------------------------------------

DAY = 86_400.0


def make_rows() -> RowInputs:
    rng = np.random.default_rng(3)
    n = 120
    time = np.sort(rng.integers(0, 60, n)).astype(np.float64) * DAY
    user, item = rng.integers(1, 6, n), rng.integers(1, 8, n)
    events = Events(user, item, time, (rng.random(n) < 0.6).astype(np.float32))
    cut = int(np.searchsorted(time, 45 * DAY))
    return RowInputs.build(
        events, [np.arange(cut), np.arange(cut, n - 5), np.arange(n - 5, n)], categories=None
    )


def make_groups(times: list[float]) -> GroupTables:
    groups = np.zeros((len(times) + 1, 6), dtype=np.int32)
    for s in range(1, len(times) + 1):
        groups[s, 1:] = [2 * s - 1, 2 * s - 1, 2 * s - 1, 2 * s, 2 * s]
    codes = np.where(groups[..., None] > 0, (groups[..., None] + 1) % 2 + 1, 0)
    n = 2 * len(times) + 1
    return GroupTables(
        user_group=torch.from_numpy(groups),
        user_codes=torch.from_numpy(codes.astype(np.int32)),
        n_codes=[2],
        group_attr={},
        group_seq=torch.zeros(n, 1, dtype=torch.int32),
        group_size=torch.zeros(n, dtype=torch.int64),
        snapshot_times=torch.tensor(times, dtype=torch.float64),
        fingerprint="",
    )


def build(
    groups: GroupTables,
    items: ItemTables,
    rows: RowInputs,
    tail_user: np.ndarray | None = None,
    min_support: int = 3,
) -> Clusters:
    tail_user = np.zeros(6, dtype=bool) if tail_user is None else tail_user
    return Clusters.build(
        groups, items, rows, tail_user, np.zeros(8, dtype=bool), min_support=min_support
    )


def make_items(n_snapshots: int) -> ItemTables:
    codes = np.zeros((n_snapshots + 1, 8, 2), dtype=np.int32)
    codes[1:, 1:, 0] = np.arange(7) % 2 + 1
    codes[1:, 1:, 1] = np.arange(7) % 3 + 1
    cluster = np.zeros((n_snapshots + 1, 8), dtype=np.int32)
    for s in range(1, n_snapshots + 1):
        cluster[s, 1:] = (s - 1) * 2 + codes[s, 1:, 0]
    return ItemTables(
        torch.from_numpy(cluster), torch.from_numpy(codes), [2, 3], 2 * n_snapshots + 1,
        torch.zeros(n_snapshots + 1, 8, dtype=torch.int32), torch.zeros(1, 4),
    )  # fmt: skip


def test_statistics_of_a_snapshot_are_the_batch_columns_of_rows_at_its_time() -> None:
    rows = make_rows()
    times = [10 * DAY, 30 * DAY]
    clusters = build(make_groups(times), make_items(2), rows)
    checked = 0
    for s, time in enumerate(times, 1):
        at = np.flatnonzero(rows.events.time == time)
        checked += len(at)
        want = rows.columns[USER_STATS][at]
        assert np.array_equal(clusters.users.stats[s].numpy()[rows.events.user[at]], want)
        want = rows.columns[ITEM_STATS][at]
        assert np.array_equal(clusters.items.stats[s].numpy()[rows.events.item[at]], want)
    assert checked >= 2
    first = rows.events.user[0], rows.events.item[0]
    assert np.array_equal(clusters.users.stats[0, first[0]], rows.columns[USER_STATS][0])
    assert np.array_equal(clusters.items.stats[0, first[1]], rows.columns[ITEM_STATS][0])
    # The padding item has no events at any time: as on the first day, but for the known rate.
    names = (0, 1, 3)
    assert torch.equal(clusters.items.stats[2, 0, names], clusters.items.stats[0, 0, names])


def test_statistics_of_a_snapshot_are_clipped_and_exposures_stay_counts() -> None:
    """A limit that nearly everything exceeds: averages by exposures must not see it."""
    rows, groups, items = make_rows(), make_groups([10 * DAY, 30 * DAY]), make_items(2)
    free = RowInputs.build(rows.events, rows.parts, stats_clip=None)
    tight = RowInputs.build(rows.events, rows.parts, stats_clip=0.5)
    wide, narrow = (build(groups, items, r) for r in (free, tight))
    flag = USER_STAT_NAMES.index("is_new")
    for name in ("users", "items"):
        one, two = getattr(wide, name), getattr(narrow, name)
        clipped = one.stats.clamp(-0.5, 0.5)
        if name == "users":
            clipped[..., flag] = one.stats[..., flag]
        assert torch.equal(two.stats, clipped)
        assert not torch.equal(one.stats, clipped)
        assert torch.equal(one.log_exposures, two.log_exposures)
    events = rows.events
    for name, ids, n in (("users", events.user, 6), ("items", events.item, 8)):
        counts = [np.zeros(n)]
        counts += [np.bincount(ids[events.time < t * DAY], minlength=n) for t in (10, 30)]
        got = getattr(narrow, name).log_exposures
        np.testing.assert_allclose(got, np.log1p(counts), rtol=1e-6)


def test_later_events_change_nothing_at_a_snapshot() -> None:
    rows = make_rows()
    groups, items = make_groups([10 * DAY, 30 * DAY]), make_items(2)
    one = build(groups, items, rows, min_support=1)
    held_out = np.flatnonzero(rows.events.time >= 45 * DAY)
    flipped = rows.events.label.copy()
    flipped[held_out] = 1 - flipped[held_out]
    events = Events(rows.events.user, rows.events.item, rows.events.time, flipped)
    two = build(groups, items, RowInputs.build(events, rows.parts), min_support=1)
    assert torch.equal(one.users.stats, two.users.stats)
    assert torch.equal(one.items.stats, two.items.stats)
    assert torch.equal(one.behaviour.items, two.behaviour.items)
    assert torch.equal(one.behaviour.offsets, two.behaviour.offsets)
    assert len(one.behaviour.items) > 10


def test_positives_alone_make_sequences_and_training_rows_alone_make_weights() -> None:
    rows = make_rows()
    tail = np.array([False, True, True, False, False, True])
    clusters = build(make_groups([30 * DAY]), make_items(1), rows, tail, 1)
    events = rows.events
    bought = (events.time < 30 * DAY) & (events.label > 0)
    members = np.isin(events.user, [1, 2, 3])
    for code in (1, 2):
        got = clusters.behaviour.gather(torch.tensor([1]), torch.tensor([code]))[0]
        want = events.item[bought & members & ((events.item - 1) % 2 + 1 == code)]
        assert sorted(i for i in got.tolist() if i) == sorted(set(want.tolist()))
    users = clusters.users
    count = np.bincount(events.user[rows.parts[0]], minlength=6)
    # Users 1 and 2 are tail, 3 is the head of their cluster.
    start, end = int(users.partner_start[1]), int(users.partner_end[1])
    assert users.partner_ids[start:end].tolist() == [3]
    weight = users.partner_cum[end] - users.partner_cum[start]
    assert weight.item() == pytest.approx(math.sqrt(count[3]))
    assert users.cluster[1].tolist() == [0, 1, 1, 1, 2, 2]


def test_with_scope_train_held_out_rows_are_not_counted() -> None:
    events = make_rows().events
    order = np.random.default_rng(0).permutation(len(events))
    parts = [order[:80], order[80:100], order[100:]]
    changed = events.label.copy()
    changed[order[80:]] = 1 - changed[order[80:]]
    other = Events(events.user, events.item, events.time, changed)
    groups, items = make_groups([30 * DAY]), make_items(1)
    built = [
        build(groups, items, RowInputs.build(e, parts), min_support=1) for e in (events, other)
    ]
    assert torch.equal(built[0].behaviour.items, built[1].behaviour.items)
    assert torch.equal(built[0].users.stats, built[1].users.stats)
    assert torch.equal(built[0].items.stats, built[1].items.stats)


def test_rows_with_a_sequence_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows, groups, items = make_rows(), make_groups([30 * DAY]), make_items(1)
    with caplog.at_level("INFO", "recbole_choir"):
        clusters = build(groups, items, rows, min_support=1)
    e = rows.events
    late = e.time > 30 * DAY
    cluster, code = np.where(e.user <= 3, 1, 2)[late], ((e.item - 1) % 2 + 1)[late]
    lists = clusters.behaviour.gather(torch.from_numpy(cluster), torch.from_numpy(code))
    length = (lists > 0).sum(1)
    mean = length.sum() / (length > 0).sum()
    assert f"{int((length > 0).sum())} of 120 rows have a sequence, of {mean:.1f}" in caplog.text


def test_moving_keeps_everything() -> None:
    clusters = build(make_groups([30 * DAY]), make_items(1), make_rows())
    moved = clusters.to("cpu")
    assert torch.equal(moved.users.stats, clusters.users.stats)
    assert moved.items.n_clusters == 3
    assert torch.equal(moved.behaviour.offsets, clusters.behaviour.offsets)
