from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.evaluator import WEIGHTINGS, gauc, gauc_report, user_auc


def sklearn_gauc(y, s, g, weighting):
    """The definition, one user at a time."""
    values, weights, one_class = [], [], 0
    for user in sorted(set(g)):
        mine = np.asarray(g) == user
        yu, su = np.asarray(y)[mine], np.asarray(s)[mine]
        if len(set(yu)) < 2:
            one_class += 1
            continue
        values.append(roc_auc_score(yu, su))
        weights.append({"impressions": len(yu), "positives": yu.sum(), "uniform": 1}[weighting])
    value = np.average(values, weights=weights) if values else float("nan")
    return value, one_class


# User 1: positives .9, .3 against negatives .5, .3 -> pairs 1, 1, 0, .5 -> 2.5/4
# User 2: positive .2 against negative .8 -> 0. User 3: positives only -> left out.
LABELS = [1, 0, 1, 0, 0, 1, 1, 1]
SCORES = [0.9, 0.5, 0.3, 0.3, 0.8, 0.2, 0.1, 0.7]
USERS = [1, 1, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("impressions", (4 * 0.625 + 2 * 0.0) / 6),
        ("positives", (2 * 0.625 + 1 * 0.0) / 3),
        ("uniform", (0.625 + 0.0) / 2),
    ],
)
def test_hand_computed(weighting, expected):
    report = gauc_report(LABELS, SCORES, USERS, weighting)
    assert report.value == pytest.approx(expected, abs=1e-15)
    assert (report.n_users, report.n_one_class, report.n_rows_used) == (3, 1, 6)


def test_user_auc_by_hand():
    counts = user_auc(LABELS, SCORES, USERS)
    assert counts.groups.tolist() == [1, 2, 3]
    assert counts.positives.tolist() == [2, 1, 2]
    assert counts.negatives.tolist() == [2, 1, 0]
    assert counts.twice_concordant.tolist() == [5, 0, 0]
    np.testing.assert_array_equal(counts.auc, [0.625, 0.0, np.nan])


score_values = st.one_of(
    st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1e-45, 0.1, 0.5, 0.5000000001, 1e300]),
    st.floats(-5, 5),
)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), score_values, st.integers(-3, 6)), min_size=1, max_size=60
    ),
    weighting=st.sampled_from(WEIGHTINGS),
    single=st.booleans(),
)
def test_equals_a_loop_of_sklearn(rows, weighting, single):
    y, s, g = (np.array(c) for c in zip(*rows))
    s = np.clip(s.astype(np.float64), -1e300, 1e300)  # sklearn refuses infinities
    if single:
        s = np.clip(s, -1e30, 1e30).astype(np.float32)
    expected, one_class = sklearn_gauc(y, s, g, weighting)
    report = gauc_report(y, s, g, weighting)
    np.testing.assert_allclose(report.value, expected, rtol=0, atol=1e-12)
    assert report.n_one_class == one_class


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equals_sklearn_on_many_rows(dtype, weighting):
    rng = np.random.default_rng(3)
    n = 6_000
    g = rng.integers(0, 300, n)
    s = np.round(rng.normal(size=n), 2).astype(dtype)  # many ties
    y = (rng.random(n) < 0.2).astype(np.float32)
    expected, one_class = sklearn_gauc(y, s, g, weighting)
    report = gauc_report(y, s, g, weighting)
    assert abs(report.value - expected) < 1e-12
    assert report.n_one_class == one_class > 0


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    y, s, g = rng.integers(0, 2, 500), rng.random(500), rng.integers(0, 20, 500)
    p = rng.permutation(500)
    assert gauc(y, s, g) == gauc(y[p], s[p], g[p])


def test_a_monotone_map_of_scores_changes_nothing():
    rng = np.random.default_rng(0)
    y, s, g = rng.integers(0, 2, 500), rng.integers(-9, 9, 500), rng.integers(0, 20, 500)
    assert gauc(y, s, g) == gauc(y, s.astype(np.float64) ** 3 * 1e9, g)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([7, 7, 9, 9], dtype=np.int32),
        np.array([-128, -128, 127, 127], dtype=np.int8),
        np.array([2**63, 2**63, 2**63 + 1, 2**63 + 1], dtype=np.uint64),
        np.array([5, 5, 10**15, 10**15]),
        np.array(["a", "a", "b", "b"]),
        np.array(["a", "a", "b", "b"], dtype=object),
    ],
)
def test_any_kind_of_id(ids):
    assert gauc([1, 0, 0, 1], [0.9, 0.1, 0.9, 0.1], ids) == 0.5
    assert user_auc([1, 0, 0, 1], [0.9, 0.1, 0.9, 0.1], ids).groups.tolist() == [ids[0], ids[2]]


def test_ties_count_half_and_zero_has_one_sign():
    assert gauc([1, 0], [0.3, 0.3], [1, 1]) == 0.5
    assert gauc([1, 0], np.array([-0.0, 0.0], dtype=np.float32), [1, 1]) == 0.5
    assert gauc([1, 0], np.array([-0.0, 0.0]), [1, 1]) == 0.5


def test_double_precision_is_not_rounded_to_single():
    assert gauc([1, 0], [1.0 + 1e-12, 1.0], [1, 1]) == 1.0


def test_infinities_have_a_rank():
    assert gauc([1, 0, 0], [np.inf, 1e38, -np.inf], [1, 1, 1]) == 1.0
    assert gauc([1, 0], [np.inf, 1e200], [1, 1]) == 1.0


def test_all_users_of_one_class(caplog):
    with caplog.at_level(logging.WARNING):
        report = gauc_report([1, 1, 0], [0.1, 0.2, 0.3], [1, 1, 2])
    assert np.isnan(report.value)
    assert tuple(report[1:]) == (2, 2, 0)
    assert "each of the 2 users has labels of one class only" in caplog.text


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "message"),
    [
        ([1, 0], [0.5, np.nan], [1, 1], "NaN in row 1 (1 such rows of 2)"),
        ([1, 0], [0.5], [1, 1], "expected 2 rows as in labels, got 1"),
        ([1, 0], [0.5, 0.4], [1], "expected 2 rows as in labels, got 1"),
        ([1, 2], [0.5, 0.4], [1, 1], "got 2 in row 1"),
        ([1.0, np.nan], [0.5, 0.4], [1, 1], "got nan in row 1"),
        ([0.5, 1.0], [0.5, 0.4], [1, 1], "got 0.5 in row 0"),
        ([], [], [], "at least one row"),
        ([1, 0], [0.5, 0.4], [1.0, np.nan], "got NaN"),
        (["a", "b"], [0.5, 0.4], [1, 1], "expected 0 or 1"),
        ([1, 0], ["a", "b"], [1, 1], "expected numbers"),
        ([[1, 0], [0, 1]], [0.5, 0.4], [1, 1], "got shape (2, 2)"),
    ],
)
def test_bad_input_is_one_line(labels, scores, groups, message):
    with pytest.raises(DataError) as error:
        gauc(labels, scores, groups)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_weighting_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'positives'"):
        gauc([1, 0], [1, 0], [1, 1], weighting="positive")


def test_the_evaluator_needs_no_recbole():
    import subprocess
    import sys

    code = (
        "import sys, recbole_choir.evaluator as e; "
        "assert e.gauc([1, 0], [1, 0], [1, 1]) == 1.0; "
        "own = [m for m in sys.modules if m.startswith('recbole_choir.integration')]; "
        "import importlib, inspect; "
        "src = ''.join(inspect.getsource(importlib.import_module(f'recbole_choir.evaluator.{n}')) "
        "for n in ('checks', 'pairs', 'gauc', 'metrics', 'segments')); "
        "assert 'import recbole\\n' not in src and 'from recbole.' not in src; "
        "assert 'torch' not in src"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
