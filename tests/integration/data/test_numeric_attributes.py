"""Token attributes that are plain numbers: read as floats, for users and groups alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.integration import create_dataset, create_model, data_preparation
from recbole_choir.integration.dataset import ChoirDataset
from recbole_choir.semantic.groups.priors import attribute_kinds, group_priors


@pytest.fixture
def aged(toy: Path) -> Path:
    """`toy` with a token ``age`` of users: u1 to u7 are 21 to 27, u9's is missing."""
    path = toy / "toy" / "toy.user"
    head, *rows = path.read_text().splitlines()
    ages = ["21", "22", "23", "24", "25", "26", "27", ""]
    lines = [f"{head}\tage:token", *(f"{r}\t{a}" for r, a in zip(rows, ages, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def of_users(make_config: Callable[..., Any], fields: list[str], **more: Any) -> ChoirDataset:
    load = {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", *fields],
        "item": ["item_id", "genre", "maker"],
    }
    return ChoirDataset(make_config(load_col=load, **more))


def test_age_is_a_number_in_every_place(make_config: Callable[..., Any], aged: Path) -> None:
    dataset = of_users(make_config, ["gender", "age"], numeric_attr_fields=["age"])
    dataset.build_splits()
    fields = {f.name: f for f in dataset.model_inputs.schema.user_attrs}
    assert fields["age"].kind == "float"
    assert fields["gender"].kind == "token"
    # the table's side: texts and a mean
    _, users, _ = dataset.semantic_frames()
    age = users.set_index("user_id")["age"]
    assert age["u3"] == 23.0
    assert np.isnan(age["u8"])
    assert attribute_kinds(users)["age"] == "float"
    # the model's side: standardised, 0 (the mean) where missing
    values = dataset.model_inputs.user_features["age"]
    assert values.dtype == torch.float32
    at = {u: dataset.token2id("user_id", u) for u in ("u1", "u3", "u5", "u8")}
    assert values[at["u8"]] == 0
    step = values[at["u3"]] - values[at["u1"]]
    torch.testing.assert_close(values[at["u5"]] - values[at["u3"]], step)
    assert step > 0


def test_recboles_models_do_not_lose_the_field(make_config: Callable[..., Any], aged: Path) -> None:
    load = {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age"],
        "item": ["item_id", "genre"],
    }
    config = make_config("DeepFM", load_col=load, numeric_attr_fields=["age"])
    dataset = create_dataset(config)
    assert config["numerical_features"] == ["age"]
    dataset.build_splits()
    assert create_model(config, dataset).float_field_names == ["age"]
    # what such a model is given: a number from 0 (21) to 1 (27), and 1
    train, _, _ = data_preparation(config, dataset)
    pairs = next(iter(train))["age"]
    assert pairs.shape[-1] == 2
    assert (pairs[..., 1] == 1).all()
    assert (pairs[..., 0].min(), pairs[..., 0].max()) == (0, 1)
    own = dataset.model_inputs.user_features["age"]
    assert own.abs().max() > 1.2  # ours is standardised


def test_whole_numbers_without_a_gap_are_floats_too(
    make_config: Callable[..., Any], aged: Path
) -> None:
    aged.write_text("\n".join(line for line in aged.read_text().splitlines() if "u9" not in line))
    settings = {"numeric_attr_fields": ["age"], "filter_inter_by_user_or_item": True}
    dataset = of_users(make_config, ["age"], **settings)
    dataset.build_splits()
    _, users, _ = dataset.semantic_frames()
    assert sorted(users["age"]) == [21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0]
    assert attribute_kinds(users) == {"age": "float"}


def test_without_the_key_it_stays_a_token(make_config: Callable[..., Any], aged: Path) -> None:
    dataset = of_users(make_config, ["age"])
    _ = dataset.build_splits()
    assert [f.kind for f in dataset.model_inputs.schema.user_attrs] == ["token"]


def test_a_groups_age_is_the_mean_of_its_members() -> None:
    import pandas as pd

    users = pd.DataFrame({"user_id": list("abcd"), "age": [20.0, 30.0, 70.0, np.nan]})
    none = pd.DataFrame({"user_id": [], "item_id": [], "timestamp": []}, dtype=object)
    pairs = pd.DataFrame({"item_id": [], "category": []}, dtype=object)
    codes = np.array([[0], [0], [0], [0]])
    priors = group_priors(none, users, codes, pairs, attribute_kinds(users))
    assert priors["attr_age"].tolist() == [40.0]


@pytest.mark.parametrize(
    ("fields", "wanted", "error", "message"),
    [
        (["gender"], "gander", ConfigError, r"got 'gander'.*\(did you mean 'gender'\?\)"),
        (["tags"], "tags", ConfigError, "expected a token field, got 'tags' of type token_seq"),
        (["gender"], "gender", DataError, "expected numbers in 'gender', got 'F'"),
    ],
)
def test_what_is_no_number_is_refused(
    make_config: Callable[..., Any], fields: list[str], wanted: str, error: type, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        of_users(make_config, fields, numeric_attr_fields=[wanted])
    assert "\n" not in str(caught.value)


def test_a_field_that_is_not_loaded_is_passed_over(
    make_config: Callable[..., Any], aged: Path
) -> None:
    dataset = of_users(make_config, ["gender"], numeric_attr_fields=["age"])
    assert "age" not in dataset.field2type
    assert dataset.config["numerical_features"] == []
