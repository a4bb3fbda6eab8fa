from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.evaluator import (
    ASOF_NAMES,
    SEGMENT_COLUMNS,
    SEGMENT_NAMES,
    Segments,
    gauc,
    segment_metrics,
)

# Users 1..6 (0 is padding); training rows: user 1 x4, 2 x3, 3 x2, 4 x1, 5 and 6 none.
TRAIN_USERS = [1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
TRAIN_ITEMS = [1, 1, 1, 2, 1, 2, 3, 1, 2, 1]
TRAIN_LABELS = [1, 0, 0, 1, 0, 0, 0, 1, 0, 1]


def fit(**kwargs):
    rules = {"low_share": 0.5, "tail_user": {"count": 3}, "tail_item": {"count": 2}}
    return Segments.fit(
        TRAIN_USERS, TRAIN_ITEMS, TRAIN_LABELS, n_users=7, n_items=5, **{**rules, **kwargs}
    )


def ids(mask):
    return np.flatnonzero(mask)[1:].tolist() if mask[0] else np.flatnonzero(mask).tolist()


def test_definitions_by_hand():
    s = fit()
    assert s.user_positives.tolist() == [0, 2, 0, 1, 1, 0, 0]
    assert ids(s.low) == [3, 4, 5, 6]  # half of the four seen, and the two new ones
    assert ids(s.tail_user) == [3, 4, 5, 6]  # fewer than 3 rows
    assert ids(s.tail_item) == [3, 4]  # item 3 once, item 4 never
    assert ids(s.new_user) == [5, 6]
    assert ids(s.new_item) == [4]


def test_quantile_rules_by_hand():
    s = fit(tail_user={"quantile": 0.25}, tail_item={"quantile": 2 / 3})
    assert ids(s.tail_user) == [4, 5, 6]
    assert ids(s.tail_item) == [2, 3, 4]


@pytest.mark.parametrize(("share", "low"), [(0.0, [5, 6]), (1.0, [1, 2, 3, 4, 5, 6])])
def test_extreme_shares(share, low):
    assert ids(fit(low_share=share).low) == low


def test_equal_counts_are_cut_in_order_of_id():
    s = Segments.fit([1, 2, 3, 4], [1, 1, 1, 1], [1, 0, 1, 0], 5, 2, low_share=0.5)
    assert ids(s.low) == [1, 2]


def test_default_rules_are_the_papers():
    users = np.repeat([1, 2], [4, 5])
    items = np.array([1] * 9)
    s = Segments.fit(users, items, np.ones(9, dtype=int), 3, 3)
    assert ids(s.tail_user) == [1]  # fewer than 5
    assert ids(s.tail_item) == [1, 2]  # fewer than 10


def test_levels_by_hand():
    # training positives: user 1: 2, 3: 1, 4: 1, others 0 -> order 2, 5, 6, 3, 4, 1
    assert fit().levels([1, 2, 3, 4, 5, 6]) == {2: 1, 5: 1, 6: 2, 3: 3, 4: 4, 1: 5}
    assert fit().levels([4, 1, 1, 2]) == {2: 1, 4: 2, 1: 4}


@pytest.mark.parametrize("n", [1, 2, 5, 7, 23, 100])
def test_level_sizes_differ_by_at_most_one(n):
    rng = np.random.default_rng(n)
    users = rng.integers(1, n + 1, 3 * n)
    s = Segments.fit(users, users, rng.integers(0, 2, 3 * n), n + 1, n + 1)
    level = s.levels(np.arange(1, n + 1))
    sizes = np.bincount(list(level.values()), minlength=6)[1:]
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1
    ranked = sorted(level, key=lambda u: (s.user_positives[u], u))
    assert [level[u] for u in ranked] == sorted(level.values())


def test_report_by_hand():
    users = [1, 1, 3, 3, 5, 5, 2]
    items = [1, 4, 1, 3, 2, 2, 1]
    labels = [1, 0, 0, 1, 1, 0, 0]
    scores = [0.9, 0.2, 0.6, 0.4, 0.7, 0.1, 0.5]
    report = fit().report(users, items, labels, scores)
    assert list(report)[:3] == ["all", "low", "rest"]
    assert all(tuple(row) == SEGMENT_COLUMNS for row in report.values())

    everything = report["all"]
    assert everything["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert everything["gauc"] == pytest.approx((1 + 0 + 1) / 3)
    assert (everything["rows"], everything["users"]) == (7, 4)
    assert everything["users_one_class"] == 1
    assert everything["positive_share"] == pytest.approx(3 / 7)

    low = report["low"]  # users 3 and 5: positives .4, .7 against negatives .6, .1
    assert low["auc"] == pytest.approx(3 / 4)
    assert low["gauc"] == pytest.approx(0.5)
    assert (low["rows"], low["users"], low["positive_share"]) == (4, 2, 0.5)
    rest = report["rest"]  # users 1 and 2
    assert (rest["rows"], rest["users"], rest["users_one_class"]) == (3, 2, 1)
    assert rest["gauc"] == 1.0
    assert report["head_users"]["rows"] == 3
    assert report["tail_users"]["rows"] == 4
    assert report["tail_items"]["rows"] == 2  # rows with item 4 and item 3
    assert report["head_items"]["rows"] == 5
    assert report["tail_sample"]["rows"] == 5  # users 3, 5 and the row of user 1 with item 4
    assert report["new_users"]["rows"] == 2
    new_items = report["new_items"]
    assert new_items["rows"] == new_items["users_one_class"] == 1
    assert np.isnan(new_items["auc"])
    # levels of users 5, 2 (0 positives), 3 (1), 1 (2): by (positives, id) 2, 5, 3, 1
    assert [report[f"level_{k}"]["rows"] for k in range(1, 6)] == [1, 2, 2, 2, 0]
    assert np.isnan(report["level_5"]["gauc"])
    assert report["level_5"]["users"] == 0


def test_weighting_reaches_gauc_only():
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 7, 400), rng.integers(1, 5, 400)
    labels, scores = rng.integers(0, 2, 400), rng.random(400)
    row = fit().report(users, items, labels, scores, "positives")["all"]
    assert row["gauc"] == gauc(labels, scores, users, "positives")
    assert row["gauc_uniform"] == gauc(labels, scores, users, "uniform")


def test_complements_cover_every_row_once():
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 7, 300), rng.integers(1, 5, 300)
    masks = fit().masks(users, items, rng.integers(0, 9, 300))
    assert tuple(masks) == SEGMENT_NAMES
    assert tuple(fit().masks(users, items)) == tuple(
        n for n in SEGMENT_NAMES if n not in ASOF_NAMES
    )
    assert (sum(masks[f"asof_{k}"].astype(int) for k in range(1, 6)) == 1).all()
    assert not (masks["low"] ^ ~masks["rest"]).any()
    assert not (masks["head_users"] ^ ~masks["tail_users"]).any()
    assert (sum(masks[f"level_{k}"].astype(int) for k in range(1, 6)) == 1).all()
    np.testing.assert_array_equal(masks["tail_sample"], masks["tail_users"] | masks["tail_items"])


def fifths(n_buy):
    users = np.ones(len(n_buy), dtype=int)
    masks = fit().masks(users, users, n_buy)
    return sum(k * masks[f"asof_{k}"].astype(int) for k in range(1, 6)).tolist()


def test_asof_fifths_by_hand():
    # Shares with fewer: 0 of 10; 4 of 10 (the four zeros); 5; 6, 6 (both sevens); 8; 9 of 10
    assert fifths([0, 7, 0, 3, 0, 7, 0, 5, 9, 40]) == [1, 4, 1, 3, 1, 4, 1, 3, 5, 5]
    assert fifths([5, 4, 3, 2, 1]) == [5, 4, 3, 2, 1], "without ties: fifths of equal size"
    assert fifths([3, 3, 3]) == [1, 1, 1], "ties stay together, in the least"
    assert fifths([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]) == [1] * 9 + [5]
    masks = fit().masks([1, 1, 1], [1, 1, 1], [4, 5, 0])
    assert masks["n_buy_lt_5"].tolist() == [True, False, True]


@pytest.mark.parametrize("n", [1, 7, 100])
def test_asof_fifths_keep_order_and_equal_numbers_together(n):
    n_buy = np.random.default_rng(n).integers(0, 30, n)
    fifth = np.array(fifths(n_buy))
    order = np.argsort(n_buy, kind="stable")
    assert (np.diff(fifth[order]) >= 0).all()
    assert all(len(set(fifth[n_buy == v])) == 1 for v in set(n_buy))
    assert fifth.min() == 1
    assert (fifth == 1).sum() >= n // 5
    np.testing.assert_array_equal(fifths(n_buy * 3 + 1), fifth)  # the order alone counts


def test_a_user_active_only_late_is_in_both_ends():
    """User 6, new to training, buys ten times in the test rows: low, yet not as of the row."""
    users = [6] * 10
    masks = fit().masks(users, [1] * 10, np.arange(10))
    assert masks["low"].all()
    assert masks["new_users"].all()
    assert masks["level_1"].all()
    assert np.flatnonzero(masks["asof_1"]).tolist() == [0, 1]
    assert np.flatnonzero(masks["asof_5"]).tolist() == [8, 9]
    assert np.flatnonzero(masks["n_buy_lt_5"]).tolist() == [0, 1, 2, 3, 4]


def test_gauc_of_an_asof_segment_is_over_its_rows_alone():
    # User 1 has 1, 2, 8, 9 positives before its rows, user 2 has 1, 2, 3, 9
    users, n_buy = [1, 1, 1, 1, 2, 2, 2, 2], [1, 2, 8, 9, 1, 2, 3, 9]
    labels, scores = [1, 0, 1, 0, 0, 1, 1, 1], [0.9, 0.1, 0.2, 0.8, 0.3, 0.6, 0.2, 0.7]
    report = fit().report(users, [1] * 8, labels, scores, n_buy=n_buy)
    few = report["n_buy_lt_5"]  # user 1: right; user 2: .6 > .3 > .2, half; weights 2 and 3
    assert few["gauc"] == pytest.approx((2 * 1 + 3 * 0.5) / 5)
    assert few["gauc_uniform"] == pytest.approx(0.75)
    assert (few["rows"], few["users"], few["users_one_class"]) == (5, 2, 0)
    most = report["asof_5"]  # nobody: shares with fewer are at most 6 of 8, the nines
    assert most["rows"] == 0
    fourth = report["asof_4"]  # 8 (5 of 8 have fewer), 9, 9: user 1 wrong, user 2 of one class
    assert (fourth["rows"], fourth["users"], fourth["users_one_class"]) == (3, 2, 1)
    assert fourth["gauc"] == 0.0


def test_bad_numbers_of_positives():
    with pytest.raises(DataError, match="n_buy: expected 2 rows as in users, got 3"):
        fit().masks([1, 2], [1, 1], [0, 1, 2])
    with pytest.raises(DataError, match="n_buy: expected numbers from 0, got -1 in row 1"):
        fit().masks([1, 2], [1, 1], [0, -1])
    with pytest.raises(DataError, match="n_buy: expected numbers from 0, got nan in row 0"):
        fit().masks([1, 2], [1, 1], [np.nan, 1.0])
    with pytest.raises(DataError, match="n_buy: expected numbers from 0, got values of type"):
        fit().masks([1, 2], [1, 1], ["a", "b"])


def test_logloss_of_a_segment_by_hand():
    users, labels = np.array([1, 1, 2]), np.array([True, False, True])
    row = segment_metrics(users, labels, np.array([0.5, 0.25, 0.25]), "impressions")
    assert row["logloss"] == pytest.approx(-np.log([0.5, 0.75, 0.25]).mean())
    assert np.isnan(
        segment_metrics(users, labels, np.array([0.5, -3.0, 2.0]), "uniform")["logloss"]
    )


def test_evaluated_rows_do_not_move_the_definitions():
    s = fit()
    few = s.masks([1, 3], [1, 1])
    many = s.masks([1, 3] + [5] * 50, [1, 1] + [4] * 50)
    for name in ("low", "tail_users", "tail_items", "tail_sample", "new_users"):
        np.testing.assert_array_equal(few[name], many[name][:2])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"low_share": 1.2}, "low_activity_share: expected 0 to 1, got 1.2"),
        ({"tail_user": {"cout": 3}}, "tail_user: expected"),
        ({"tail_item": {"quantile": 1.5}}, "tail_item: expected quantile 0 to 1, got 1.5"),
        ({"tail_item": {"count": -1}}, "tail_item: expected count at least 0"),
        ({"tail_item": {"count": 1, "quantile": 0.5}}, "tail_item: expected"),
    ],
)
def test_bad_rules(kwargs, message):
    with pytest.raises(ConfigError) as error:
        fit(**kwargs)
    assert message in str(error.value)


def test_ids_outside_the_vocabulary():
    with pytest.raises(DataError, match="users: expected ids from 0 to 6, got 1 to 7"):
        fit().report([1, 7], [1, 1], [0, 1], [0.1, 0.2])
    with pytest.raises(DataError, match="expected internal integer ids"):
        fit().report(["a", "b"], [1, 1], [0, 1], [0.1, 0.2])
