"""What a comparison consists of, and what it refuses before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recbole_choir.errors import ConfigError
from recbole_choir.experiments.overrides import common_settings, nested, sets
from recbole_choir.experiments.plan import load_rows, parse_seeds, rows_dir
from recbole_choir.experiments.search_spaces import Dimension, defaults, load_space, search_dir
from recbole_choir.integration import ChoirConfig, known_models
from recbole_choir.settings.layers import Merge, merged

MODELS = sorted(known_models())


def test_controls_and_the_reference_are_rows_without_being_asked_for(fakes: Any) -> None:
    plan = fakes.plan_of("AKTRec", "ChoirRec")
    assert plan.rows("ml-100k") == [
        *("Base", "two Base seeds averaged", "AKTRec", "AKTRec, random ids"),
        *("ChoirRec", "ChoirRec, random groups"),
    ]
    assert plan.pairs("ml-100k") == [
        ("two Base seeds averaged", "Base"),
        *(("AKTRec", "Base"), ("AKTRec", "AKTRec, random ids"), ("AKTRec, random ids", "Base")),
        *(("ChoirRec", "Base"), ("ChoirRec", "ChoirRec, random groups")),
        ("ChoirRec, random groups", "Base"),
    ]
    control = next(c for c in plan.cells if c.name == "AKTRec, random ids")
    assert control.config == {"semantic": {"input": "random", "items": {"input": "random"}}}


def test_every_row_but_a_sweep_has_the_same_number_of_trials(fakes: Any) -> None:
    plan = fakes.plan_of("POSO", ablation=["ChoirRec"], sweep=["K", "lambda"], trials=7)
    trials = {(c.kind, plan.trials_of(c)) for c in plan.cells}
    assert trials == {("model", 7), ("control", 7), ("ablation", 7), ("sweep", 0)}
    assert {c.point_of for c in plan.cells if c.kind == "sweep"} == {"ChoirRec"}
    assert sum(c.kind == "ablation" for c in plan.cells) == 9, "the rows of Table 2"
    assert [c.part for c in plan.cells if c.kind == "sweep"][-1] == ("lambda", "0.05")


def test_variants_are_rows_with_controls_of_their_own(fakes: Any) -> None:
    plan = fakes.plan_of("ChoirRec", variants=["ChoirRec", "Base"], trials=7)
    assert plan.rows("ml-100k") == [
        *("Base", "two Base seeds averaged", "Base own SVD score"),
        *("ChoirRec", "ChoirRec, random groups", "ChoirRec soft", "ChoirRec soft, permuted"),
        "ChoirRec soft with own scores",
    ]
    pairs = plan.pairs("ml-100k")
    assert ("Base own SVD score", "Base") in pairs
    assert ("ChoirRec soft", "Base") in pairs
    assert ("ChoirRec soft", "ChoirRec soft, permuted") in pairs
    assert ("ChoirRec soft, permuted", "Base") in pairs
    assert {plan.trials_of(cell) for cell in plan.cells} == {7}
    permuted = next(c for c in plan.cells if c.name == "ChoirRec soft, permuted")
    assert permuted.config == {
        "variant": "soft",
        "semantic_recipe": "soft",
        "semantic": {"soft": {"control": "permuted"}},
    }


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"setting": {"x": 1}}}, "variants.a: unknown key 'setting', expected settings and"),
        ({"a": {"controls": {}}}, "variants.a.settings: expected settings {key: value}, got None"),
        ({"a": {"settings": {"x": 1}, "controls": {"c": 3}}}, "a.controls.c: expected settings"),
    ],
)
def test_variants_are_read_strictly(tmp_path: Path, variants: dict, message: str) -> None:
    (tmp_path / "M.yaml").write_text(yaml.safe_dump({"variants": variants}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_rows("M", tmp_path)


def test_what_a_row_sets_is_not_searched_and_wins_over_a_point(fakes: Any) -> None:
    plan = fakes.plan_of("ChoirRec", sweep=["lambda"], common={"dropout_prob": 0.2})
    model = next(c for c in plan.cells if c.name == "ChoirRec")
    assert "dropout_prob" not in model.space
    assert "kd_lambda" in model.space
    swept = next(c for c in plan.cells if c.part == ("lambda", "0.05"))
    run = swept.run(11, {"kd_lambda": 0.001, "learning_rate": 0.01}, "seed")
    assert run.config == {"dropout_prob": 0.2, "kd_lambda": 0.05, "learning_rate": 0.01}


def test_a_control_keeps_the_common_settings_of_the_table(fakes: Any) -> None:
    plan = fakes.plan_of(
        "ChoirRec", common={"semantic": {"n_snapshots": 2, "items": {"input": "text"}}}
    )
    control = next(c for c in plan.cells if c.kind == "control")
    wanted = {"n_snapshots": 2, "items": {"input": "text"}, "input": "random"}
    assert control.config["semantic"] == wanted


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (["ChoirRek"], {}, r"no context-aware model named 'ChoirRek' \(did you mean 'ChoirRec'"),
        (["Base"], {"datasets": ["ml-100"]}, "did you mean 'ml-100k'"),
        (["Base"], {"common": {"epoch": 3}}, r"epoch: no such configuration key.*'epochs'"),
        (["DeepFM"], {"common": {"kd_lambda": 0.1}}, "Base does not read this key, only ChoirRec"),
        (["Base"], {"common": {"epochs": "many"}}, "epochs: expected"),
        (["Base", "Base"], {}, "--models: expected names, all different"),
        (["Base"], {"ablation": ["POSO"]}, "--ablation: POSO has no rows; known: AKTRec, Choir"),
        (["ChoirRec"], {"sweep": ["lamda"]}, r"figure 'lamda' \(did you mean 'lambda'"),
        (["Base"], {"seeds": (1, 2)}, "--seeds: 1 is the seed of the trials"),
        (["Base"], {"trials": -1}, "--tune: expected a number from 0, got -1"),
    ],
)
def test_mistakes_are_one_line(models: list[str], options: dict, message: str) -> None:
    from recbole_choir.experiments.plan import make_plan

    given = {"datasets": ["ml-100k"], "seeds": (11,), "trials": 1, **options}
    fixed = [given.pop(key) for key in ("datasets", "seeds", "trials")]
    with pytest.raises(ConfigError, match=message) as error:
        make_plan(models, *fixed, **given)
    assert "\n" not in str(error.value)


def test_seeds_are_a_number_or_a_list() -> None:
    assert parse_seeds("3") == (2020, 2021, 2022)
    assert parse_seeds("7,9") == (7, 9)
    assert parse_seeds("7,") == (7,)
    for text in ("", "0", "7,7", "a", "-1"):
        with pytest.raises(ConfigError, match="--seeds: expected"):
            parse_seeds(text)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_space_of_keys_that_it_reads_and_that_holds_its_defaults(
    model: str,
) -> None:
    if model in ("LightGBM", "XGBoost"):
        pytest.importorskip("lightgbm")
        pytest.importorskip("xgboost")
    config = ChoirConfig(model=model, dataset="ml-100k").final_config_dict
    space = load_space(model, search_dir(), config)
    assert space
    first = defaults(space, config)
    assert first.keys() == space.keys(), "the first trial is the model's defaults"
    ChoirConfig(model=model, dataset="ml-100k", config_dict=nested(first))
    assert ("learning_rate" in space) == (model not in ("LightGBM", "XGBoost"))


@pytest.mark.parametrize("path", sorted(rows_dir().glob("*.yaml")), ids=lambda p: p.stem)
def test_every_row_of_a_model_is_read_by_it(path: Path) -> None:
    rows = load_rows(path.stem, rows_dir())
    settings = [*rows.controls.values(), *rows.ablation.values()]
    settings += [s for values in rows.sweep.values() for s in values.values()]
    settings += [variant.settings for variant in rows.variants.values()]
    settings += [merged(v.settings, c) for v in rows.variants.values() for c in v.controls.values()]
    assert settings
    for one in settings:
        ChoirConfig(model=path.stem, dataset="ml-100k", config_dict=one)


def test_spaces_are_read_strictly(tmp_path: Path) -> None:
    def space(**content: object) -> dict[str, Dimension]:
        (tmp_path / "default.yaml").write_text(yaml.safe_dump(content))
        return load_space("M", tmp_path, {"x": 1})

    good = space(x={"low": 1, "high": 8, "log": True}, other={"choices": [1]})
    assert list(good) == ["x"], "a key of the default that the model lacks is left out"
    assert good["x"].whole
    for content, message in (
        ({"low": 2, "high": 1}, "expected low < high, got 2, 1"),
        ({"low": 0, "high": 1, "log": True}, "expected 0 < low < high"),
        ({"choices": []}, "expected a list with an entry"),
        ({"choices": [[1]]}, "expected numbers or texts"),
        ({"choices": [1], "low": 0}, "expected {choices"),
        ({"low": 0, "hihg": 1}, r"unknown field 'hihg' \(did you mean 'high'"),
        ({"low": 0, "high": 1, "step": 0}, "step: expected a number above 0"),
        ({"low": "a", "high": 1}, "expected numbers for low and high"),
        (3, "expected {choices"),
        ({"low": 1, "high": 2, "zero": 0.1}, "zero: expected a chance below 1 of a log range"),
        ({"low": 1, "high": 2, "log": True, "zero": 1}, "zero: expected a chance below 1"),
        ({"low": 1, "high": 2, "log": True, "zero": -0.1}, "zero: expected a chance below 1"),
        ({"choices": [1], "zero": 0.1}, "zero: expected a log range, got choices"),
    ):
        with pytest.raises(ConfigError, match=message):
            space(x=content)


def test_a_models_own_space_adds_and_takes_away(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_text("a: {choices: [1]}\nb: {choices: [1]}\n")
    (tmp_path / "M.yaml").write_text("a: ~\nc: {low: 0.0, high: 1.0, step: 0.25}\n")
    space = load_space("M", tmp_path, {"a": 1, "b": 1})
    assert list(space) == ["b", "c"]
    assert space["c"].contains(0.75)
    assert not space["c"].contains(0.8)
    assert space["c"].rounded(0.30000000000000004) == 0.3
    assert not space["b"].contains(True), "True is no 1"


def test_a_log_range_with_an_exact_zero(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_text("x: {low: 1.0e-8, high: 1.0, log: true, zero: 0.2}\n")
    x = load_space("M", tmp_path, {"x": 0.0})["x"]
    # below low lies a quarter of eight powers of ten: 2 of 10 are the share .2
    assert x.lowest == pytest.approx(1e-10)
    assert x.rounded(9.9e-9) == 0.0
    assert x.rounded(1e-8) == 1e-8
    assert x.rounded(0.0123456789) == 0.0123457
    assert x.stored(0.0) == pytest.approx(1e-9)
    assert x.rounded(x.stored(0.0)) == 0.0
    assert x.contains(0.0)
    assert x.contains(0)
    assert not x.contains(1e-9)
    assert x.text() == "0 or 1e-08 to 1.0 log"
    assert defaults({"x": x}, {"x": 0.0}) == {"x": 0.0}
    assert repr(x) == repr(Dimension(low=1e-8, high=1.0, log=True)), "older searches are found"


def test_zero_is_drawn_as_often_as_it_says_and_is_the_first_trial(
    fakes: Any, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    from recbole_choir.experiments.tuning import Tuning, open_storage

    text = "weight_decay: {low: 1.0e-8, high: 1.0, log: true, zero: 0.3}\n"
    (tmp_path / "default.yaml").write_text(text)
    cell = fakes.plan_of("Base", search=tmp_path).cells[0]
    tuning = Tuning(cell, 400, 1, open_storage(tmp_path))
    points = [tuning.propose().point["weight_decay"] for _ in range(10)]
    assert points[0] == 0.0, "the default"
    assert all(p == 0.0 or 1e-8 <= p <= 1.0 for p in points)
    draws = np.exp(
        np.random.default_rng(0).uniform(*np.log([cell.space["weight_decay"].lowest, 1]), 9999)
    )
    share = np.mean([cell.space["weight_decay"].rounded(float(d)) == 0 for d in draws])
    assert share == pytest.approx(0.3, abs=0.02)


def test_settings_are_merged_as_the_layers_of_a_run_are(tmp_path: Path) -> None:
    assert merged({"load_col": {"a": 1}}, {"load_col": {"b": 2}}) == {"load_col": {"b": 2}}
    below = {"semantic": {"a": 1, "items": {"x": 1}}}
    above = {"semantic": {"items": {"y": 2}}}
    assert merged(below, above) == {"semantic": {"a": 1, "items": {"x": 1, "y": 2}}}
    assert nested({"p.q": 1, "r": 2}) == {"p": {"q": 1}, "r": 2}
    assert isinstance(nested({"p.q": 1})["p"], Merge), "other entries of the mapping stay"
    assert sets({"p": {"q": 1}}, "p.q")
    assert not sets({"p": {"q": 1}}, "p.r")
    file = tmp_path / "c.yaml"
    file.write_text("epochs: 3\nsemantic: {input: behaviour}\n")
    assert common_settings([file], ["--epochs=4", "--semantic.n_levels=2"]) == {
        "epochs": 4,
        "semantic": {"input": "behaviour", "n_levels": 2},
    }
    with pytest.raises(ConfigError, match=r"seed: compare sets it.*--seeds"):
        common_settings([], ["--seed=3"])
