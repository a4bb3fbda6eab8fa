from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.utils import ModelType
from tiny import TinyLoader, tiny_rows

from recbole_choir.errors import CheckpointError, ConfigError, DataError
from recbole_choir.evaluator import auc, gauc, logloss
from recbole_choir.integration.tree_trainer import TREE_TRAINERS, feature_matrix, feature_names

PARAMS = {
    "LightGBM": {
        "lgb_params": {"objective": "binary", "metric": ["auc"], "min_data_in_leaf": 2},
        "lgb_num_boost_round": 20,
    },
    "XGBoost": {
        "xgb_params": {"objective": "binary:logistic", "eval_metric": ["auc"], "max_depth": 3},
        "xgb_num_boost_round": 20,
    },
}
STOPPING = {"LightGBM": "lgb_early_stopping_rounds", "XGBoost": "xgb_early_stopping_rounds"}


def loader(n, seed, **kwargs):
    rows = tiny_rows(n, seed)
    del rows["x"]
    rows["genre"] = torch.stack([rows["item_id"] % 3, rows["item_id"] % 2], dim=1)
    rows["stats"] = torch.stack([rows["user_id"] / 9, rows["item_id"] / 13], dim=1)
    return TinyLoader(rows, batch_size=16, **kwargs)


@pytest.fixture(params=["LightGBM", "XGBoost"])
def make_trainer(request, make_config):
    def make(**values):
        name = request.param
        settings = {"model": name, "MODEL_TYPE": ModelType.DECISIONTREE, **PARAMS[name], **values}
        return TREE_TRAINERS[name](make_config(**settings), None)

    return make


def test_fit_evaluate_and_gauc(make_trainer):
    trainer = make_trainer()
    train, valid = loader(400, 0, shuffle=True), loader(150, 1)
    score, best = trainer.fit(train, valid)
    result = trainer.evaluate(valid)
    p = trainer.predictions
    np.testing.assert_array_equal(p.users, valid.rows["user_id"].numpy())
    np.testing.assert_array_equal(p.labels, valid.rows["label"].numpy())
    assert result == {
        "auc": pytest.approx(auc(p.labels, p.scores), abs=1e-6),
        "gauc": pytest.approx(gauc(p.labels, p.scores, p.users), abs=1e-6),
        "logloss": pytest.approx(logloss(p.labels, p.scores), abs=1e-6),
    }
    assert result == best
    assert score == best["gauc"]
    assert result["auc"] > 0.7
    assert trainer.history[0]["diagnostics"] == {"trees": 20.0}
    json.dumps(trainer.history)


def test_an_auc_near_chance_is_said(make_trainer, caplog):
    train, valid = loader(200, 0), loader(60, 1)
    make_trainer().fit(train, valid, verbose=False)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    coin = torch.Generator().manual_seed(1)
    for part in (train, valid):
        part.rows["label"] = torch.randint(0, 2, part.rows["label"].shape, generator=coin).float()
    make_trainer(valid_metric="AUC").fit(train, valid, verbose=False)
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "within 2 standard errors of chance" in line


def test_the_saved_booster_alone_is_enough(make_trainer):
    first = make_trainer()
    valid = loader(150, 1)
    first.fit(loader(400, 0, shuffle=True), valid)
    expected = first.evaluate(valid)
    assert os.listdir("saved") == [Path(first.saved_model_file).name]
    text = Path(first.saved_model_file).read_text()  # text or JSON, not a pickle
    assert "genre=1" in text
    second = make_trainer()
    assert second.evaluate(valid, model_file=first.saved_model_file) == expected
    np.testing.assert_array_equal(second.predictions.scores, first.predictions.scores)


def test_same_seed_same_scores(make_trainer):
    valid = loader(150, 1)
    scores = []
    for _ in range(2):
        trainer = make_trainer()
        trainer.fit(loader(400, 0, shuffle=True), valid, saved=False)
        scores.append(trainer.predict(valid).scores)
    np.testing.assert_array_equal(*scores)
    assert os.listdir(".") == []


def test_early_stopping_predicts_with_the_best_round(make_trainer):
    values = dict.fromkeys(("lgb_num_boost_round", "xgb_num_boost_round"), 300)
    trainer = make_trainer(**values, **dict.fromkeys(STOPPING.values(), 3))
    valid = loader(60, 1)
    _, best = trainer.fit(loader(400, 0, shuffle=True), valid)
    assert trainer.history[0]["diagnostics"]["trees"] < 290
    assert trainer.evaluate(valid) == best  # also from the file


def test_without_validation(make_trainer):
    trainer = make_trainer()
    score, best = trainer.fit(loader(400, 0), None, verbose=False)
    assert np.isnan(score)
    assert best is None
    assert trainer.evaluate(loader(150, 1))["auc"] > 0.7


def test_missing_and_damaged_files(make_trainer, tmp_path):
    valid = loader(60, 1)
    with pytest.raises(CheckpointError, match="no such file"):
        make_trainer().evaluate(valid)
    broken = tmp_path / "broken.json"
    broken.write_text("{nonsense")
    with pytest.raises(CheckpointError, match="damaged") as error:
        make_trainer().evaluate(valid, model_file=str(broken))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rounds", [0, None, True, "many"])
def test_impossible_numbers_of_rounds(make_trainer, rounds):
    trainer = make_trainer(lgb_num_boost_round=rounds, xgb_num_boost_round=rounds)
    with pytest.raises(ConfigError, match="num_boost_round: expected a whole number from 1"):
        trainer.fit(loader(60, 0))


def test_features_by_hand():
    columns = {
        "user_id": np.array([1, 2]),
        "label": np.array([0.0, 1.0]),
        "genre": np.array([[1, 3], [2, 0]]),
        "stats": np.array([[0.5, 0.25], [1.5, 2.5]]),
        "words": np.array([[70, 1], [2, 0]]),
    }
    names = feature_names(columns, exclude=("label",))
    assert names == [
        "user_id", "genre=1", "genre=2", "genre=3", "stats@0", "stats@1", "words@0",
    ]  # fmt: skip
    np.testing.assert_array_equal(
        feature_matrix(columns, names),
        np.array([[1, 1, 0, 1, 0.5, 0.25, 70], [2, 0, 1, 0, 1.5, 2.5, 2]], dtype=np.float32),
    )


def test_features_without_the_label():
    rng = np.random.default_rng(0)
    columns = {"user_id": np.arange(5), "label": rng.integers(0, 2, 5)}
    names = feature_names(columns, exclude=("label",))
    flipped = {**columns, "label": 1 - columns["label"]}
    np.testing.assert_array_equal(feature_matrix(columns, names), feature_matrix(flipped, names))
    with pytest.raises(DataError, match="besides the label"):
        feature_names({"label": columns["label"]}, exclude=("label",))
    with pytest.raises(DataError, match="expected the field 'age'"):
        feature_matrix(columns, ["age"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lgb_params": {"num_leaves": -3}}, "lgb_params: lightgbm refuses {'num_leaves': -3}: "),
        ({"lgb_params": {"num_leafs": 4}}, "lgb_params: no parameter 'num_leafs' (did you mean "),
        ({"lgb_params": {"objective": 7}}, "Unknown objective type name: 7"),
        ({"xgb_params": {"max_depth": -3}}, "xgb_params: xgboost refuses {'max_depth': -3}: value"),
        ({"xgb_params": {"eta": "x"}}, "Invalid Parameter format for learning_rate"),
    ],
)
def test_a_parameter_that_the_library_refuses_is_one_line(make_config, values, said):
    name = "LightGBM" if "lgb_params" in values else "XGBoost"
    settings = {"model": name, "MODEL_TYPE": ModelType.DECISIONTREE, **PARAMS[name], **values}
    with pytest.raises(ConfigError) as error:
        TREE_TRAINERS[name](make_config(**settings), None).fit(loader(100, 0), loader(50, 1))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
