"""A semantic table joined to a dataset, and its fields given to RecBole's own models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import get_model

from recbole_choir.data.schema import Field
from recbole_choir.errors import ConfigError, TableError
from recbole_choir.integration.dataloader import data_preparation
from recbole_choir.integration.dataset import ChoirDataset, create_dataset

ALL = ["group_id", "group_attr", "group_seq", "group_stats", "activity"]


def attached(config: Any, table: Path) -> ChoirDataset:
    dataset = create_dataset(config)
    dataset.build()
    dataset.attach_semantic_table(table)
    return dataset


def test_groups_come_in_the_datasets_own_ids_and_scale(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    dataset = attached(make_config(group_stats=True), write_table())
    inputs = dataset.model_inputs
    assert inputs.groups is not None
    genders = dataset.field2id_token["gender"]
    assert [genders[g] for g in inputs.groups.group_attr["gender"]] == [
        "[PAD]", "F", "[PAD]", "F", "[PAD]",
    ]  # fmt: skip
    users = dataset.field2token_id["user_id"]
    # 155 is the height of u5: the group's mean stands on the same scale as the users' own values.
    assert inputs.groups.group_attr["height"][1].item() == pytest.approx(
        inputs.user_features["height"][users["u5"]].item(), rel=1e-5
    )
    assert "tags" not in inputs.groups.group_attr
    items = dataset.field2id_token["item_id"]
    assert items[inputs.groups.group_seq[3]].tolist() == ["i2", "i5", "i7"]
    assert inputs.groups.user_group[:, users["u9"]].tolist() == [0, 0, 0]
    assert inputs.schema.group_stat_names[:3] == (
        "item_log_exposures", "item_log_positives", "item_lift",
    )  # fmt: skip
    assert dataset.row_inputs.columns["group_stats"].shape == (240, 6)


def test_group_statistics_only_where_they_are_asked_for(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    dataset = attached(make_config(), write_table())
    assert "group_stats" not in dataset.row_inputs.columns
    assert dataset.model_inputs.schema.group_stat_names == ()


def test_a_snapshot_inside_validation_is_refused(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    with pytest.raises(TableError, match="later than the first validation row"):
        attached(make_config(), write_table((0.2, 0.95)))


def test_a_table_of_another_dataset_is_refused(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    config = make_config(val_interval={"user_id": ["u1", "u2", "u9"]})
    with pytest.raises(
        TableError, match="6 users of the table are not among the dataset's 3, such as 'u3'"
    ):
        attached(config, write_table())


@pytest.mark.parametrize(
    ("model", "values", "needs"),
    [
        ("Base", {}, False),
        ("Base", {"group_stats": True}, True),
        ("ChoirRec", {}, True),
        ("DeepFM", {}, False),
        ("DeepFM", {"inject": ["activity"]}, False),
        ("DeepFM", {"inject": ["group_seq"]}, True),
        ("DeepFM", {"inject": ["group_stats"]}, True),
    ],
)
def test_what_needs_a_table(
    make_config: Callable[..., Any], model: str, values: dict[str, Any], needs: bool
) -> None:
    assert create_dataset(make_config(model, **values)).needs_semantic_table() is needs


def test_injected_fields_reach_recboles_own_model(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    config = make_config("DeepFM", inject=ALL)
    dataset = attached(config, write_table())
    train, valid, _ = data_preparation(config, dataset)
    model = get_model("DeepFM")(config, train.dataset)
    assert {"group_id_1", "group_id_2", "group_attr_gender"} <= set(model.token_field_names)
    assert model.token_seq_field_names == ["tags", "genre", "group_seq"]
    assert len(model.float_field_names) == 1 + 6 + 6 + 4  # height of the group, statistics
    assert dataset.num("group_id_1") == 3
    assert dataset.num("group_id_2") == 4
    assert dataset.num("group_attr_gender") == dataset.num("gender")
    assert dataset.num("group_seq") == dataset.item_num
    batch = next(iter(train))
    loss = model.calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    out = model.predict(next(iter(valid))[0])
    assert out.shape == (min(50, len(valid.dataset)),)


def test_injected_values_are_those_of_the_tables(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    config = make_config("DeepFM", inject=ALL, shuffle=False)
    dataset = attached(config, write_table())
    train, _, _ = data_preparation(config, dataset)
    groups, rows = dataset.model_inputs.groups, dataset.row_inputs
    assert groups is not None
    at = 0
    for batch in train:
        part = rows.parts[0][at : at + len(batch)]
        at += len(batch)
        snapshot = torch.as_tensor(rows.columns["snapshot"][part])
        row = groups.group_of(snapshot, batch["user_id"])
        codes = groups.codes_of(snapshot, batch["user_id"])
        assert torch.equal(batch["group_id_2"], codes[:, 1])
        assert torch.equal(batch["group_seq"], groups.group_seq[row].long())
        assert torch.equal(batch["group_attr_height"][:, 0], groups.group_attr["height"][row])
        assert (batch["group_attr_height"][:, 1] == 1).all()
        for column, name in enumerate(dataset.model_inputs.schema.group_stat_names):
            want = torch.as_tensor(rows.columns["group_stats"][part, column])
            assert torch.equal(batch[f"group_stats_{name}"][:, 0], want)
        assert not {"snapshot", "group_stats", "user_stats", "item_stats"} & set(batch.columns)
    assert at == len(rows.parts[0])


def test_trees_get_plain_numbers(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    config = make_config("LightGBM", inject=["activity", "group_attr"])
    dataset = attached(config, write_table())
    train, _, _ = data_preparation(config, dataset)
    batch = next(iter(train))
    assert batch["user_stats_log_exposures"].shape == (32,)
    assert batch["group_attr_height"].shape == (32,)


def test_injection_without_a_table_is_one_line(make_config: Callable[..., Any]) -> None:
    config = make_config("DeepFM", inject=["activity", "group_id", "group_seq"])
    with pytest.raises(ConfigError, match="inject: group_id, group_seq expects a semantic table"):
        data_preparation(config, create_dataset(config))


def test_a_config_can_be_used_again(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    config = make_config("DeepFM", inject=ALL)
    table = write_table()
    first = attached(config, table)
    names = list(config["numerical_features"])
    second = attached(config, table)
    assert config["numerical_features"] == names
    assert list(second.field2type) == list(first.field2type)


def test_models_that_read_tables_are_given_nothing_twice(
    make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "recbole_choir"):
        dataset = create_dataset(make_config("Base", inject=["activity"]))
        dataset.build()
    assert dataset.zoo_fields is None
    assert "inject: Base reads the tables itself" in caplog.text
    assert Field("user_stats_is_new", "float", 1).name not in dataset.field2type


def test_group_arrays_are_not_copied_per_row(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    config = make_config("ChoirRec")
    dataset = attached(config, write_table())
    groups = dataset.model_inputs.groups
    loaders = data_preparation(config, dataset)
    assert groups is not None
    assert groups.group_seq.shape == (5, 3)
    for loader in loaders:
        assert loader.inputs.groups is not None
        assert loader.inputs.groups.group_seq.data_ptr() == groups.group_seq.data_ptr()
        stored = sum(m.numel() * m.element_size() for m, _ in loader._columns._groups)
        # ids 16, pointers 16, snapshot 8, label 4, statistics 44: nothing per slot or per group.
        assert stored == len(loader.dataset) * (16 + 16 + 8 + 4 + 44)
    assert np.isfinite(dataset.row_inputs.columns["user_stats"]).all()
