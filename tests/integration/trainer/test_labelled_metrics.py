from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.evaluator import metric_types, metrics_dict
from recbole.evaluator.metrics import GAUC, LogLoss
from recbole.utils import EvaluatorType
from sklearn.metrics import log_loss, roc_auc_score

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.evaluator import auc, gauc, logloss
from recbole_choir.integration import predictions as predictions_module
from recbole_choir.integration.metrics import LabelledEvaluator, data_struct
from recbole_choir.integration.predictions import Predictions, predict_rows


def some_predictions(n=500, digits=2):
    rng = np.random.default_rng(0)
    return Predictions(
        np.round(rng.random(n), digits).astype(np.float32),
        rng.integers(0, 2, n).astype(np.float32),
        rng.integers(1, 30, n),
        rng.integers(1, 30, n),
    )


def test_the_three_metrics_and_their_rounding(make_config):
    p = some_predictions()
    result = LabelledEvaluator(make_config(metric_decimal_place=4)).evaluate(data_struct(p))
    assert list(result) == ["auc", "gauc", "logloss"]
    assert result["auc"] == round(roc_auc_score(p.labels, p.scores), 4)
    assert result["gauc"] == round(gauc(p.labels, p.scores, p.users), 4)
    clipped = np.clip(p.scores.astype(np.float64), 1e-15, 1 - 1e-15)
    assert result["logloss"] == round(log_loss(p.labels, clipped), 4)


def test_recboles_metrics_and_ours_agree_on_ties(make_config):
    p = some_predictions(3_000, digits=1)
    theirs = LogLoss(make_config(metric_decimal_place=12)).calculate_metric(data_struct(p))
    config = make_config(metric_decimal_place=12, metrics=["AUC", "LogLoss"])
    result = LabelledEvaluator(config).evaluate(data_struct(p))
    assert result["auc"] == pytest.approx(auc(p.labels, p.scores), abs=1e-11)
    assert result["logloss"] == pytest.approx(theirs["logloss"], abs=1e-11)
    assert result["logloss"] == pytest.approx(logloss(p.labels, p.scores), abs=1e-11)


@pytest.mark.parametrize("weighting", ["impressions", "positives", "uniform"])
def test_weighting_comes_from_the_config(make_config, weighting):
    p = some_predictions()
    config = make_config(metric_decimal_place=12, gauc_weighting=weighting)
    result = LabelledEvaluator(config).evaluate(data_struct(p))
    assert result["gauc"] == pytest.approx(gauc(p.labels, p.scores, p.users, weighting), abs=1e-11)


def test_recboles_own_gauc_is_left_alone(make_config):
    before = dict(metrics_dict), dict(metric_types)
    LabelledEvaluator(make_config())
    assert metrics_dict["gauc"] is GAUC
    assert metric_types["gauc"] == EvaluatorType.RANKING
    assert (dict(metrics_dict), dict(metric_types)) == before


def test_a_single_row(make_config):
    p = Predictions(*(a[:1] for a in some_predictions()))
    result = LabelledEvaluator(make_config(metrics=["LogLoss"])).evaluate(data_struct(p))
    assert result["logloss"] == pytest.approx(logloss(p.labels, p.scores), abs=1e-6)


def test_ranking_metrics_are_refused(make_config):
    with pytest.raises(ConfigError, match="got 'recall'"):
        LabelledEvaluator(make_config(metrics=["AUC", "Recall"]))
    with pytest.raises(ConfigError, match="did you mean 'gauc'"):
        LabelledEvaluator(make_config(metrics=["GAUCC"]))


def test_scores_that_are_not_finite_are_refused():
    p = some_predictions()
    p.scores[3] = np.nan
    with pytest.raises(DataError, match="1 of 500 that are not, the first in row 3"):
        data_struct(p)


def test_collection_joins_once_whatever_the_number_of_batches(make_config, valid, monkeypatch):
    calls = []
    real = torch.cat
    monkeypatch.setattr(
        predictions_module.torch, "cat", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    counts = []
    for batch_size in (1, 60):
        valid.batch_size = batch_size
        calls.clear()
        p = predict_rows(lambda b: b["x"], valid, make_config(), torch.device("cpu"))
        counts.append(len(calls))
        np.testing.assert_array_equal(p.scores, valid.rows["x"].numpy())
        np.testing.assert_array_equal(p.users, valid.rows["user_id"].numpy())
        np.testing.assert_array_equal(p.items, valid.rows["item_id"].numpy())
    assert counts == [4, 4]


def test_rows_without_labels_can_be_scored(make_config, valid):
    del valid.rows["label"]
    p = predict_rows(lambda b: b["x"].unsqueeze(-1), valid, make_config(), torch.device("cpu"))
    assert np.isnan(p.labels).all()
    assert p.scores.shape == (60,)


def test_a_wrong_number_of_scores_is_refused(make_config, valid):
    with pytest.raises(DataError, match="expected 16 scores for a batch, got 1"):
        predict_rows(lambda b: b["x"][:1], valid, make_config(), torch.device("cpu"))
