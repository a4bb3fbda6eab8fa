"""Positives that are no rows: in histories and in what users did, strictly before a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_choir.data.fields import ITEM_STATS, N_BUY, USER_STATS
from recbole_choir.data.rows import HIST_END, HIST_START, RowInputs
from recbole_choir.data.statistics import Events


def positives(user: list[int], item: list[int], time: list[float]) -> Events:
    return Events(
        np.array(user), np.array(item), np.array(time), np.ones(len(user), dtype=np.float32)
    )


#: u1 buys i1 at 2, is shown i2 at 4, buys i3 at 6; u2 is shown i1 at 5 and buys i2 at 8.
ROWS = Events(
    np.array([1, 1, 2, 1, 2]),
    np.array([1, 2, 1, 3, 2]),
    np.array([2.0, 4.0, 5.0, 6.0, 8.0]),
    np.array([1, 0, 0, 1, 1], dtype=np.float32),
)
PARTS = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
PAST = positives([1, 2, 1, 1, 2], [9, 8, 7, 6, 5], [1.0, 1.0, 4.0, 5.0, 9.0])


def history(inputs: RowInputs, row: int) -> list[int]:
    ends = (torch.from_numpy(inputs.columns[n][row : row + 1]) for n in (HIST_START, HIST_END))
    return [int(i) for i in inputs.history.gather(*ends, 6)[0] if i]


def test_histories_hold_them_strictly_before_the_row() -> None:
    inputs = RowInputs.build(ROWS, PARTS, past=PAST)
    # The row of u1 at 4 does not see the purchase of 7 at 4; the one at 6 does.
    assert [history(inputs, r) for r in range(5)] == [[9], [9, 1], [8], [9, 1, 7, 6], [8]]
    assert inputs.columns[N_BUY].tolist() == [1, 2, 1, 4, 1]


def test_items_are_counted_by_rows_alone_and_users_by_both() -> None:
    plain, inputs = RowInputs.build(ROWS, PARTS), RowInputs.build(ROWS, PARTS, past=PAST)
    assert (plain.columns[ITEM_STATS] == inputs.columns[ITEM_STATS]).all()
    assert not (plain.columns[USER_STATS] == inputs.columns[USER_STATS]).all()
    assert len(inputs.events) == 5


def test_what_comes_later_changes_nothing_earlier() -> None:
    inputs = RowInputs.build(ROWS, PARTS, past=PAST)
    for row in range(5):
        early = RowInputs.build(ROWS, PARTS, past=PAST.take(PAST.time < ROWS.time[row]))
        assert history(early, row) == history(inputs, row)
        assert early.columns[N_BUY][row] == inputs.columns[N_BUY][row]
        if row in PARTS[0]:
            continue  # scales are fitted on training rows, which the cut changes
        raw = [i.columns[USER_STATS][row] for i in (early, inputs)]
        if PAST.time.max() < ROWS.time[row] or row > 2:
            np.testing.assert_allclose(raw[0], raw[1], atol=1e-6)


def test_the_threshold_of_activity_counts_training_time_alone() -> None:
    many = positives([1] * 10, [4] * 10, [3.0] * 6 + [7.0] * 4)
    inputs = RowInputs.build(ROWS, PARTS, past=many)
    assert inputs.theta_act == pytest.approx(7)  # one row and six others up to time 4
    known = inputs.known_in_training(many)
    assert known.time.tolist() == [2.0, *[3.0] * 6, 4.0]
    assert known.label.tolist() == [1.0, *[1.0] * 6, 0.0]


def test_scope_train_takes_them_up_to_the_last_training_row() -> None:
    inputs = RowInputs.build(ROWS, PARTS, "train", past=PAST)
    assert [history(inputs, r) for r in range(5)] == [[9], [9, 1], [8], [9, 1, 7], [8]]
