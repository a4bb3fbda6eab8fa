"""The dataset: exact order and split, roles, gaps, frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import Dataset
from recbole.utils import init_seed

from recbole_choir.data.schema import Field
from recbole_choir.errors import ConfigError, DataError
from recbole_choir.integration.dataset import ChoirDataset, ChoirTreeDataset, create_dataset
from recbole_choir.integration.feature_arrays import in_share

Row = tuple[str, str, float, float]
START = 1_600_000_000.0


def raw_rows(dataset: ChoirDataset, part: int) -> list[tuple[str, str, float, float]]:
    """(user, item, label, time) of a part's rows, in raw ids."""
    rows = dataset.row_inputs
    at = rows.parts[part]
    users, items = (dataset.field2id_token[f] for f in ("user_id", "item_id"))
    e = rows.events.take(at)
    return list(zip(users[e.user], items[e.item], e.label.tolist(), e.time.tolist()))


# --- order and split ---------------------------------------------------------------------------


def test_forty_stamps_thirty_seconds_apart_keep_their_order(
    make_config: Callable[..., Any], write_toy: Callable[..., None]
) -> None:
    order = np.random.default_rng(5).permutation(40)
    write_toy([(f"u{k % 4}", f"i{k % 7}", 1.0 + k % 5, START + 30.0 * k) for k in order])
    dataset = create_dataset(make_config())
    parts = dataset.build()
    assert [len(p) for p in parts] == [32, 4, 4]
    want = [f"i{k % 7}" for k in range(40)]
    got = [t for p in parts for t in dataset.field2id_token["item_id"][p.inter_feat["item_id"]]]
    assert got == want
    # RecBole's own column cannot tell them apart.
    assert len(np.unique(np.float32(START + 30.0 * np.arange(40)))) < 15


def test_parts_are_in_time_and_equal_stamps_stay_together(
    make_config: Callable[..., Any], rows_of_toy: list[Row]
) -> None:
    dataset = create_dataset(make_config())
    dataset.build()
    parts = [raw_rows(dataset, p) for p in range(3)]
    assert max(r[3] for r in parts[0]) < min(r[3] for r in parts[1])
    assert max(r[3] for r in parts[1]) < min(r[3] for r in parts[2])
    got = sorted(r for p in parts for r in p)
    assert got == sorted((u, i, float(r >= 4), t) for u, i, r, t in rows_of_toy)
    assert dataset.split_sizes() == {n: len(p) for n, p in zip(("train", "valid", "test"), parts)}
    assert abs(len(parts[0]) - 192) <= 8


@pytest.mark.parametrize("group_by", ["none", "user"])
def test_a_random_split_is_recboles_own(make_config: Callable[..., Any], group_by: str) -> None:
    values = {"eval_args": {"order": "RO", "group_by": group_by}}
    init_seed(11, True)
    theirs = Dataset(make_config("LR", **values)).build()
    init_seed(11, True)
    dataset = create_dataset(make_config("LR", **values))
    ours = dataset.build()
    for mine, their in zip(ours, theirs):
        for field in ("user_id", "item_id"):
            assert torch.equal(mine.inter_feat[field], their.inter_feat[field])
        assert torch.equal(mine.inter_feat["label"], their.inter_feat["label"].float())
    # The inputs computed with them follow the same rows.
    events = dataset.row_inputs.events
    for part, mine in enumerate(ours):
        at = dataset.row_inputs.parts[part]
        assert np.array_equal(events.user[at], mine.inter_feat["user_id"].numpy())
        assert np.array_equal(events.label[at], mine.inter_feat["label"].numpy())
    assert dataset.row_inputs.scope == "train"


@pytest.mark.parametrize(
    "split", [{"RS": [0.8, 0.1, 0.1]}, {"LS": "valid_and_test"}], ids=["RS", "LS"]
)
def test_splits_per_user_are_in_exact_time(
    make_config: Callable[..., Any], split: dict[str, Any]
) -> None:
    arguments = {"split": split, "group_by": "user", "order": "TO"}
    dataset = create_dataset(make_config(eval_args=arguments))
    dataset.build()
    last: dict[str, float] = {}
    for part in range(3):
        for user, _, _, time in raw_rows(dataset, part):
            assert last.get(user, -1.0) <= time
            last[user] = time
    # Training rows of one user are later than test rows of another: their labels stay out.
    assert dataset.row_inputs.scope == "train"


def test_pre_split_files_keep_their_rows(
    make_config: Callable[..., Any], write_toy: Callable[..., None], rows_of_toy: list[Row]
) -> None:
    by_time = sorted(rows_of_toy, key=lambda r: r[3])
    for name, rows in (("a", by_time[:150]), ("b", by_time[160:180]), ("c", by_time[190:])):
        write_toy(rows, name)
    dataset = create_dataset(make_config(benchmark_filename=["a", "b", "c"]))
    dataset.build()
    assert dataset.split_sizes() == {"train": 150, "valid": 20, "test": 50}
    assert sorted((u, i, t) for u, i, _, t in raw_rows(dataset, 2)) == sorted(
        (u, i, t) for u, i, _, t in by_time[190:]
    )


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"TS": [0.8, 0.1, 0.1]}, "expected RS or LS, got TS"),
        ({"RS": [0.8, 0.2]}, "expected 3 shares"),
        ({"XS": 1}, "expected RS or LS, got 'XS'"),
    ],
)
def test_splits_that_cannot_be_exact_are_refused(
    make_config: Callable[..., Any], split: dict[str, Any], message: str
) -> None:
    arguments = {"split": split, "group_by": "user", "order": "TO"}
    with pytest.raises(ConfigError, match=message):
        create_dataset(make_config(eval_args=arguments)).build()


def test_building_twice_gives_the_same_parts(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config())
    assert dataset.build() is dataset.build_splits()


# --- roles -------------------------------------------------------------------------------------


def test_label_rating_time_and_title_are_never_features(make_config: Callable[..., Any]) -> None:
    item = ["item_id", "title", "genre", "maker"]
    load = {"inter": ["user_id", "item_id", "rating", "timestamp", "hour"], "user": ["user_id"]}
    dataset = create_dataset(make_config("DeepFM", load_col={**load, "item": item}))
    assert set(dataset.field2type) == {"user_id", "item_id", "label", "genre", "maker"}
    parts = dataset.build()
    assert set(parts[0].inter_feat.columns) == {"user_id", "item_id", "label"}
    assert set(dataset.item_feat.columns) == {"item_id", "genre", "maker"}


def test_roles_choose_the_fields(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(
        make_config(
            user_attr_fields=["gender"], item_attr_fields=[], context_fields=["hour", "price"]
        )
    )
    parts = dataset.build()
    schema = dataset.model_inputs.schema
    assert schema.user_attrs == (Field("gender", "token", 3),)
    assert schema.item_attrs == ()
    assert [(f.name, f.kind) for f in schema.contexts] == [("hour", "token"), ("price", "float")]
    assert set(parts[0].inter_feat.columns) == {"user_id", "item_id", "label", "hour", "price"}
    # The category may be known to the statistics without being a feature.
    assert dataset.item_feat.columns == ["item_id"]
    assert dataset.model_inputs.item_categories is not None


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"TIME_FIELD": "stamp"}, ConfigError, "load_col.inter: expected stamp among the columns"),
        ({"threshold": None}, ConfigError, "expected label among the columns, as LABEL_FIELD says"),
        ({"threshold": {"ratng": 4}}, ConfigError, "did you mean 'rating'"),
        (
            {"threshold": {"hour": 4}},
            DataError,
            "hour: expected the type float, got token",
        ),
        ({"threshold": {"rating": 4, "price": 1}}, ConfigError, "expected one field"),
        ({"category_field": "genr"}, ConfigError, "category_field.*did you mean 'genre'"),
        ({"user_attr_fields": ["gendr"]}, ConfigError, "user_attr_fields.*did you mean 'gender'"),
        ({"context_fields": ["rating"]}, ConfigError, "what the label is made from"),
        ({"context_fields": ["timestamp"]}, ConfigError, "it is the time"),
        ({"item_attr_fields": ["title"]}, ConfigError, "item_attr_fields: 'title' is not loaded"),
    ],
)
def test_impossible_roles(
    make_config: Callable[..., Any], values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        create_dataset(make_config(**values))
    assert "\n" not in str(caught.value)


def test_rows_without_time_or_rating_are_refused(
    make_config: Callable[..., Any], toy: Path, rows_of_toy: list[Row]
) -> None:
    path = toy / "toy" / "toy.inter"
    lines = path.read_text().splitlines()
    cells = lines[1].split("\t")
    path.write_text("\n".join([lines[0], "\t".join([*cells[:2], "", *cells[3:]]), *lines[2:]]))
    with pytest.raises(
        DataError,
        match="rating: expected a number in every row, got 1 of 240 with",
    ):
        create_dataset(make_config())
    dataset = create_dataset(make_config(val_interval={"rating": "(-inf,inf)"}))
    assert len(dataset) == 239
    path.write_text("\n".join([lines[0], "\t".join([*cells[:3], "", *cells[4:]]), *lines[2:]]))
    with pytest.raises(DataError, match="timestamp: expected a number in every row"):
        create_dataset(make_config())


def test_labels_must_be_zero_or_one(make_config: Callable[..., Any]) -> None:
    config = make_config(threshold=None, LABEL_FIELD="rating")
    with pytest.raises(DataError, match="rating: expected labels 0 and 1, got"):
        create_dataset(config)


def test_normalising_leaves_label_and_time_alone(
    make_config: Callable[..., Any], rows_of_toy: list[Row]
) -> None:
    config = make_config(
        normalize_all=True, threshold={"rating": 9}, val_interval={"rating": "(-inf,inf)"}
    )
    dataset = create_dataset(config)
    dataset.build()
    assert not dataset.row_inputs.events.label.any()  # RecBole turns a constant column into ones
    assert dataset.row_inputs.events.time.min() == min(r[3] for r in rows_of_toy)


# --- gaps --------------------------------------------------------------------------------------


def test_attributes_by_internal_id_with_all_their_gaps(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config())
    dataset.build()
    inputs = dataset.model_inputs
    users = {t: i for i, t in enumerate(dataset.field2id_token["user_id"])}
    genders = dataset.field2id_token["gender"]
    got = {u: genders[inputs.user_features["gender"][i]] for u, i in users.items()}
    assert got == {
        "[PAD]": "[PAD]", "u1": "F", "u2": "M", "u3": "F", "u4": "M", "u5": "F", "u6": "M",
        "u7": "[PAD]", "u8": "[PAD]", "u9": "M",
    }  # fmt: skip
    height = inputs.user_features["height"]
    assert height[users["u7"]] == height[users["u8"]] == height[0] == 0.0
    train = [f"{u}" for u, *_ in raw_rows(dataset, 0)]
    present = np.array([150.0 + int(u[1:]) for u in train if int(u[1:]) <= 6])
    want = (154.0 - present.mean()) / present.std()
    assert height[users["u4"]].item() == pytest.approx(want, rel=1e-5)
    tags = dataset.field2id_token["tags"]
    assert [tags[t] for t in inputs.user_features["tags"][users["u3"]]] == ["x3", "y"]
    assert inputs.user_features["tags"][users["u8"]].tolist() == [0, 0]
    items = {t: i for i, t in enumerate(dataset.field2id_token["item_id"])}
    assert inputs.item_categories is not None
    assert inputs.item_categories[items["i8"]].tolist() == [0, 0]
    assert {f.name: f.kind for f in inputs.schema.user_attrs} == {
        "gender": "token", "height": "float", "tags": "token_seq",
    }  # fmt: skip


def test_users_and_items_first_seen_in_test_rows_are_new(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config())
    dataset.build()
    rows = dataset.row_inputs
    user = dataset.field2token_id["user_id"]["u9"]
    at = np.flatnonzero(rows.events.user == user)
    assert set(at) <= set(rows.parts[2])
    first = at[0]
    assert rows.columns["user_stats"][first, -1] == 1.0  # is_new
    assert rows.columns["n_buy"][first] == 0.0
    assert rows.columns["hist_start"][first] == rows.columns["hist_end"][first]
    assert np.isfinite(rows.columns["user_stats"]).all()
    assert np.isfinite(rows.columns["item_stats"]).all()


def test_users_without_a_row_are_dropped_only_on_request_and_counted(
    make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert len(create_dataset(make_config())) == 240
    with caplog.at_level("WARNING", "recbole_choir"):
        dataset = create_dataset(make_config(filter_inter_by_user_or_item=True))
    assert len(dataset) < 240
    assert f"{240 - len(dataset)} of 240 rows dropped" in caplog.text


def test_a_share_of_the_users(
    make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def users(**settings: Any) -> dict[str, int]:
        dataset = create_dataset(make_config(**settings))
        rows = dataset.inter_feat["user_id"].map(lambda u: dataset.field2id_token["user_id"][u])
        return dict(rows.value_counts())

    every = users()
    assert users(user_share=1.0) == every
    with caplog.at_level("INFO", "recbole_choir"):
        half = users(user_share=0.5)
    assert 1 <= len(half) < len(every)
    assert all(every[user] == n for user, n in half.items()), "all rows of a user or none"
    assert f"user_share 0.5, {sum(half.values())} of 240 rows" in caplog.text
    assert set(half) <= set(users(user_share=0.9)), "a larger share holds the smaller"
    assert users(user_share=0.5) == half
    others = [frozenset(users(user_share=0.5, user_share_seed=s)) for s in (1, 2, 3)]
    assert len({*others, frozenset(half)}) > 1
    dataset = create_dataset(make_config(user_share=0.5))
    assert set(dataset.field2id_token["user_id"]) == {"[PAD]", *half}, "no attributes of others"
    with pytest.raises(ConfigError, match="user_share: expected a number in"):
        create_dataset(make_config(user_share=1.5))
    with pytest.raises(ConfigError, match="user_share: expected a share that holds users of toy"):
        create_dataset(make_config(user_share=0.0))


def test_the_share_of_users_is_what_was_asked_for() -> None:
    names = pd.Series([f"user {k}" for k in range(20_000)])
    kept = in_share(names, 0.2, 2020)
    assert abs(kept.mean() - 0.2) < 0.01
    order = np.random.default_rng(0).permutation(len(names))
    assert np.array_equal(in_share(names[order], 0.2, 2020), kept[order])
    assert in_share(names[:0], 0.2, 2020).shape == (0,)
    # records name the share and the seed alone, so the choice may never move
    assert np.flatnonzero(kept)[:8].tolist() == [13, 15, 20, 22, 27, 30, 33, 37]


# --- frames ------------------------------------------------------------------------------------


def test_semantic_frames_hold_training_rows_and_raw_values(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config())
    dataset.build()
    interactions, users, items = dataset.semantic_frames()
    want = raw_rows(dataset, 0)
    got = interactions[["user_id", "item_id", "label", "timestamp"]].to_numpy().tolist()
    assert [tuple(r) for r in got] == want
    assert interactions["timestamp"].dtype == np.float64
    assert "u9" not in set(interactions["user_id"])
    assert "i9" not in set(interactions["item_id"])
    # All of the vocabulary, known or not, so that the ids' fingerprints agree.
    assert set(users["user_id"]) == {f"u{k}" for k in range(1, 10)}
    assert set(items["item_id"]) == {f"i{k}" for k in range(1, 10)}
    user = users.set_index("user_id")
    assert user.loc["u1", "gender"] == "F"
    assert user.loc["u7", "gender"] is None
    assert user.loc["u8", "gender"] is None
    assert user["height"].dtype == np.float64
    assert np.isnan(user.loc["u8", "height"])
    item = items.set_index("item_id")
    assert item.loc["i3", "title"] == "The item 3"
    assert item.loc["i8", "title"] is None
    assert item.loc["i3", "category"] == ["a", "b"]
    assert item.loc["i8", "category"] == []
    assert item.loc["i4", "maker"] == "m1"
    assert list(items) == ["item_id", "title", "category", "maker"]


def test_a_title_that_is_not_there(make_config: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"expected the columns titel, .*did you mean 'title'"):
        create_dataset(make_config(title_field="titel"))


def test_without_user_and_item_files(make_config: Callable[..., Any], toy: Path) -> None:
    for name in ("user", "item"):
        (toy / "toy" / f"toy.{name}").unlink()
    dataset = create_dataset(make_config(category_field=None, title_field=None))
    dataset.build()
    assert dataset.model_inputs.schema.user_attrs == ()
    assert dataset.model_inputs.item_categories is None
    _, users, items = dataset.semantic_frames()
    assert list(users) == ["user_id"]
    assert list(items) == ["item_id"]


# --- kinds of models -----------------------------------------------------------------------------


def test_trees_get_their_own_dataset_and_no_one_hot(make_config: Callable[..., Any]) -> None:
    assert isinstance(create_dataset(make_config("LightGBM")), ChoirTreeDataset)
    with pytest.raises(ConfigError, match="convert_token_to_onehot"):
        create_dataset(make_config("LightGBM", convert_token_to_onehot=True))


def test_inputs_before_building_are_refused(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config())
    with pytest.raises(DataError, match="call build"):
        _ = dataset.model_inputs
    with pytest.raises(DataError, match="call build"):
        _ = dataset.row_inputs
