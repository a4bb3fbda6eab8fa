"""What rows know of the past, put together: scope, thresholds, snapshots, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_choir.data.fields import GROUP_STATS, ITEM_STATS, N_BUY, SNAPSHOT, USER_STATS
from recbole_choir.data.rows import HIST_END, HIST_START, RowInputs
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import ConfigError, DataError

CATEGORIES = np.array([[0, 0], [1, 0], [1, 2], [3, 0]])


def events(n: int = 60, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    return Events(
        rng.integers(1, 4, n),
        rng.integers(1, 4, n),
        np.sort(rng.integers(0, 30, n)).astype(np.float64),
        rng.integers(0, 2, n).astype(np.float32),
    )


def time_parts(rows: Events, cuts: tuple[float, float] = (18.0, 24.0)) -> list[np.ndarray]:
    part = np.searchsorted(cuts, rows.time, "right")
    return [np.flatnonzero(part == p) for p in range(3)]


def inputs_of(
    rows: Events, parts: list[np.ndarray], groups: GroupTables | None = None
) -> RowInputs:
    out = RowInputs.build(rows, parts, categories=CATEGORIES, labelled_history=True)
    if groups is not None:
        out.attach_snapshots(groups)
        out.attach_group_statistics(groups, CATEGORIES, 2.0)
    return out


def row_values(inputs: RowInputs, row: int) -> list[list[float]]:
    """Everything a model could read of a row."""
    c = inputs.columns
    start, end = (torch.from_numpy(c[n][row : row + 1]) for n in (HIST_START, HIST_END))
    out = [inputs.history.gather(start, end, 8)[0].tolist()]
    assert inputs.labelled is not None
    at = [torch.from_numpy(c[n][row : row + 1]) for n in ("labelled_start", "labelled_end")]
    out += [inputs.labelled.gather(*at, 8)[0].tolist()]
    out += [inputs.labelled.gather_labels(*at, 8)[0].tolist()]
    out += [c[n][row].tolist() for n in (USER_STATS, ITEM_STATS)] + [[float(c[N_BUY][row])]]
    if GROUP_STATS in c:
        out += [[int(c[SNAPSHOT][row])], c[GROUP_STATS][row].tolist()]
    return out


@pytest.fixture
def groups(write_table: Callable[..., Path]) -> GroupTables:
    tokens = np.array(["[PAD]", "u1", "u2", "u3"])
    items = np.array(["[PAD]", "i1", "i2", "i3"])
    return GroupTables.join(SemanticTable.load(write_table()), tokens, items)


def test_held_out_labels_and_later_rows_reach_no_earlier_or_equal_row(groups: GroupTables) -> None:
    rows = events()
    parts = time_parts(rows)
    whole = inputs_of(rows, parts, groups)
    held_out = np.concatenate(parts[1:])
    for row in held_out:
        up_to = np.flatnonzero(rows.time <= rows.time[row])
        before = [row_values(whole, r) for r in up_to]
        # Flip the row's label, and shuffle all later ones.
        label = rows.label.copy()
        later = rows.time > rows.time[row]
        label[later] = np.random.default_rng(1).permutation(label[later])
        label[row] = 1 - label[row]
        changed = Events(rows.user, rows.item, rows.time, label)
        flipped = inputs_of(changed, parts, groups)
        assert [row_values(flipped, r) for r in up_to] == before
        # Delete all later rows.
        kept = rows.take(up_to)
        shorter = inputs_of(kept, [p[np.isin(p, up_to)] for p in parts], groups)
        assert [row_values(shorter, r) for r in up_to] == before
        # Delete the row itself.
        rest = np.flatnonzero(np.arange(len(rows)) != row)
        position = {int(r): i for i, r in enumerate(rest)}
        without = inputs_of(
            rows.take(rest), [np.array([position[r] for r in p if r != row], int) for p in parts],
            groups,
        )  # fmt: skip
        others = [r for r in up_to if r != row]
        assert [row_values(without, position[int(r)]) for r in others] == [
            row_values(whole, r) for r in others
        ]


def test_group_statistics_change_where_they_may(groups: GroupTables) -> None:
    rows = events()
    columns = inputs_of(rows, time_parts(rows), groups).columns
    assert columns[GROUP_STATS].shape == (60, 6)
    assert columns[GROUP_STATS].any()
    assert not columns[GROUP_STATS][columns[SNAPSHOT] == 0].any()


def test_all_statistics_of_all_parts_are_clipped_and_a_limit_reaches_them(
    groups: GroupTables,
) -> None:
    """Fitted on training rows, clipped on those and on the held-out ones alike."""
    rows = events()
    parts = time_parts(rows, (24.0, 27.0))

    def columns(clip: float | None) -> dict[str, np.ndarray]:
        out = RowInputs.build(rows, parts, categories=CATEGORIES, stats_clip=clip)
        out.attach_snapshots(groups)
        out.attach_group_statistics(groups, CATEGORIES, 2.0)
        # The flag is no standardised value.
        out.columns[USER_STATS] = np.delete(out.columns[USER_STATS], 5, axis=1)
        return out.columns

    free, tight = columns(None), columns(0.75)
    for name in (USER_STATS, ITEM_STATS, GROUP_STATS):
        assert np.array_equal(tight[name], np.clip(free[name], -0.75, 0.75)), name
        for part in parts:
            assert np.abs(free[name][part]).max() > 0.75, name
            assert np.abs(tight[name][part]).max() == 0.75, name
    assert np.array_equal(columns(4.0)[USER_STATS], np.clip(free[USER_STATS], -4, 4))


def test_a_random_split_counts_training_rows_only() -> None:
    rows = events()
    shuffled = np.random.default_rng(0).permutation(60)
    parts = [shuffled[:40], shuffled[40:50], shuffled[50:]]
    inputs = RowInputs.build(rows, parts, categories=CATEGORIES)
    assert inputs.scope == "train"
    assert inputs.first_validation_time is None
    label = rows.label.copy()
    label[shuffled[40:]] = 1 - label[shuffled[40:]]
    other = RowInputs.build(
        Events(rows.user, rows.item, rows.time, label), parts, "train", CATEGORIES
    )
    for name, values in inputs.columns.items():
        assert np.array_equal(values, other.columns[name]), name
    assert torch.equal(inputs.history.items, other.history.items)
    with pytest.raises(ConfigError, match=r"history_scope: .* got all"):
        RowInputs.build(rows, parts, "all")


def test_a_time_split_sees_all_earlier_rows_unless_told_otherwise() -> None:
    rows = events()
    parts = time_parts(rows)
    wide, narrow = RowInputs.build(rows, parts), RowInputs.build(rows, parts, "train")
    assert (wide.scope, narrow.scope) == ("all", "train")
    assert wide.first_validation_time == 18.0
    last = parts[2][-1]
    assert wide.columns[N_BUY][last] > narrow.columns[N_BUY][last]
    for name in (USER_STATS, ITEM_STATS, N_BUY):
        assert np.array_equal(wide.columns[name][parts[0]], narrow.columns[name][parts[0]])


def test_activity_threshold_is_the_80th_percentile_of_training_positives() -> None:
    user = np.repeat([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    rows = Events(user, np.ones(15, int), np.arange(15.0), np.ones(15, np.float32))
    inputs = RowInputs.build(rows, [np.arange(15), np.array([], int), np.array([], int)])
    assert inputs.theta_act == pytest.approx(np.percentile([1, 2, 3, 4, 5], 80))


def test_nothing_is_stored_per_slot_and_pointers_cost_16_bytes() -> None:
    rows = events(1000)
    inputs = inputs_of(rows, time_parts(rows))
    c = inputs.columns
    assert (c[HIST_START].nbytes + c[HIST_END].nbytes) / 1000 == 16
    assert sum(v.nbytes for v in c.values()) / 1000 <= 16 + 16 + 4 * (6 + 4 + 1)
    assert inputs.of_part(0)[USER_STATS].base is not None  # a part in a row is a view


def test_parts_keep_their_own_order() -> None:
    rows = events()
    at = np.array([5, 3, 40])
    inputs = RowInputs.build(rows, [np.arange(41), at, np.arange(41, 60)])
    assert np.array_equal(inputs.of_part(1)[N_BUY], inputs.columns[N_BUY][at])


def test_rows_out_of_order_and_empty_training() -> None:
    rows = events()
    with pytest.raises(DataError, match="order of time"):
        RowInputs.build(rows.take(np.arange(60)[::-1]), time_parts(rows))
    none = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match="training rows, got none of 60"):
        RowInputs.build(rows, [none, np.arange(30), np.arange(30, 60)])
