from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.evaluator import SEGMENT_COLUMNS, SEGMENT_NAMES, Segments, gauc

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
    masks = fit().masks(rng.integers(1, 7, 300), rng.integers(1, 5, 300))
    assert tuple(masks) == SEGMENT_NAMES
    assert not (masks["low"] ^ ~masks["rest"]).any()
    assert not (masks["head_users"] ^ ~masks["tail_users"]).any()
    assert (sum(masks[f"level_{k}"].astype(int) for k in range(1, 6)) == 1).all()
    np.testing.assert_array_equal(masks["tail_sample"], masks["tail_users"] | masks["tail_items"])


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
