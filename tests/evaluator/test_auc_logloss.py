from __future__ import annotations

import logging

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recbole_choir.errors import DataError
from recbole_choir.evaluator import auc, logloss


def test_auc_by_hand():
    # positives .8, .4; negatives .4, .1: pairs 1, 1, .5, 1
    assert auc([1, 1, 0, 0], [0.8, 0.4, 0.4, 0.1]) == 3.5 / 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_equals_sklearn_with_ties(dtype):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 5_000)
    s = np.round(rng.normal(size=5_000), 1).astype(dtype)
    assert abs(auc(y, s) - roc_auc_score(y, s)) < 1e-12


def test_auc_of_one_class(caplog):
    with caplog.at_level(logging.WARNING):
        assert np.isnan(auc([1, 1], [0.1, 0.2]))
    assert "all 2 labels are equal" in caplog.text


def test_logloss_by_hand():
    assert logloss([1, 0], [0.5, 0.25]) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)


def test_logloss_equals_sklearn():
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, 1_000), rng.random(1_000)
    assert logloss(y, p) == pytest.approx(log_loss(y, p), abs=1e-12)


def test_logloss_is_clipped_in_double_precision():
    # a single-precision 1.0 for a negative row costs -log(1e-15), not infinity
    assert logloss([0], np.array([1.0], dtype=np.float32)) == pytest.approx(
        -np.log(1e-15), rel=1e-2
    )
    assert logloss([1], [0.0]) == pytest.approx(-np.log(1e-15), rel=1e-9)


def test_logloss_refuses_nan():
    with pytest.raises(DataError, match="NaN in row 0"):
        logloss([1], [np.nan])
