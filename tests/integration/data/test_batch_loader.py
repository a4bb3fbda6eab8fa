"""Batches: order, shares of several processes, joined columns, history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.errors import ConfigError
from recbole_choir.integration.dataloader import BatchLoader, data_preparation
from recbole_choir.integration.dataset import ChoirDataset, create_dataset


@pytest.fixture
def built(make_config: Callable[..., Any]) -> ChoirDataset:
    dataset = create_dataset(make_config())
    dataset.build()
    return dataset


def loader(dataset: ChoirDataset, part: int = 0, **values: Any) -> BatchLoader:
    arguments = {"batch_size": 32, "shuffle": True, "device": "cpu", "seed": 7, **values}
    return BatchLoader(dataset.build()[part], **arguments)


def order(batches: BatchLoader) -> list[tuple[int, int, float]]:
    """(user, item, n_buy) of every row that the loader yields."""
    out = []
    for batch in batches:
        batch = batch[0] if isinstance(batch, tuple) else batch
        columns = (batch["user_id"], batch["item_id"], batch["n_buy"])
        out += list(zip(*(c.tolist() for c in columns)))
    return out


def test_the_order_depends_on_seed_and_epoch_alone(built: ChoirDataset) -> None:
    first = loader(built)
    epochs = [order(first), order(first), order(first)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1] != epochs[2]
    torch.manual_seed(99)  # the global generator has no part in it
    again = loader(built)
    again.set_epoch(2)
    assert order(again) == epochs[2]
    assert order(loader(built, seed=8)) != epochs[0]


def test_positives_before_are_those_of_the_rows_that_are_evaluated(built: ChoirDataset) -> None:
    """As-of segments join them to predictions by place."""
    for part, name in enumerate(("train", "valid", "test")):
        got = order(loader(built, part, shuffle=False, training=False))
        assert [n for _, _, n in got] == built.positives_before(name).tolist()
    rows, at = built.row_inputs, built.row_inputs.parts[2]
    events = rows.events
    by_hand = [
        int(
            (
                (events.user == events.user[k])
                & (events.time < events.time[k])
                & (events.label > 0)
            ).sum()
        )
        for k in at
    ]
    assert built.positives_before("test").tolist() == by_hand
    assert len(set(by_hand)) > 5


def test_every_row_once_with_its_own_values(built: ChoirDataset) -> None:
    rows = built.row_inputs
    at = rows.parts[0]
    want = zip(rows.events.user[at], rows.events.item[at], rows.columns["n_buy"][at])
    got = order(loader(built))
    assert sorted(got) == sorted((int(u), int(i), float(n)) for u, i, n in want)
    assert len(loader(built)) == -(-len(at) // 32)
    assert order(loader(built, shuffle=False)) == [
        (int(u), int(i), float(n))
        for u, i, n in zip(rows.events.user[at], rows.events.item[at], rows.columns["n_buy"][at])
    ]


def test_history_in_the_batch_equals_a_plain_loop(built: ChoirDataset) -> None:
    rows = built.row_inputs
    e = rows.events
    at = iter(rows.parts[2])
    for batch, *_ in loader(built, part=2, shuffle=False, training=False):
        for k in range(len(batch)):
            n = next(at)
            past = (e.user == e.user[n]) & (e.time < e.time[n]) & (e.label > 0)
            items = e.item[past].tolist()[-6:]
            assert batch["hist_items"][k].tolist() == items + [0] * (6 - len(items))
            assert batch["hist_len"][k] == len(items)
            assert batch["label"][k] == e.label[n]


def test_labelled_history_has_all_earlier_rows(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config(labelled_history=True))
    dataset.build()
    e = dataset.row_inputs.events
    at = iter(dataset.row_inputs.parts[1])
    for batch, *_ in loader(dataset, part=1, shuffle=False, training=False):
        for k in range(len(batch)):
            n = next(at)
            past = (e.user == e.user[n]) & (e.time < e.time[n])
            count = min(6, int(past.sum()))
            assert batch["labelled_len"][k] == count
            assert batch["labelled_items"][k, :count].tolist() == e.item[past].tolist()[-6:]
            assert batch["hist_labels"][k, :count].tolist() == e.label[past].tolist()[-6:]
            assert not batch["hist_labels"][k, count:].any()


def test_evaluation_yields_what_recboles_trainer_expects(built: ChoirDataset) -> None:
    batch = next(iter(loader(built, part=1, training=False, shuffle=False)))
    assert len(batch) == 4
    assert batch[1] is batch[2] is batch[3] is None
    assert batch[0]["label"].dtype == torch.float32


@pytest.mark.parametrize("world", [2, 3, 4])
def test_training_shares_are_equal_and_make_up_the_global_batches(
    built: ChoirDataset, world: int
) -> None:
    size = 12 * world
    whole = loader(built, batch_size=size)
    alone = [list(zip(b["user_id"].tolist(), b["n_buy"].tolist())) for b in whole]
    shares = [loader(built, batch_size=size, rank=r, world_size=world) for r in range(world)]
    by_rank = [
        [list(zip(b["user_id"].tolist(), b["n_buy"].tolist())) for b in share] for share in shares
    ]
    assert {len(share) for share in shares} == {len(whole)} == {len(b) for b in by_rank}
    for step, batch in enumerate(alone):
        parts = [ranks[step] for ranks in by_rank]
        assert len({len(p) for p in parts}) == 1
        joined = [parts[k % world][k // world] for k in range(len(batch))]
        assert joined == batch
    filled = sum(len(p) for ranks in by_rank for p in ranks) - len(built.build()[0])
    assert filled == -len(built.build()[0]) % world


@pytest.mark.parametrize("world", [2, 3])
def test_evaluation_shares_have_no_row_twice(built: ChoirDataset, world: int) -> None:
    values = {"part": 2, "training": False, "shuffle": False, "batch_size": 10}
    whole = order(loader(built, **values))
    shares = [order(loader(built, **values, rank=r, world_size=world)) for r in range(world)]
    assert [shares[k % world][k // world] for k in range(len(whole))] == whole
    assert sum(map(len, shares)) == len(whole)


def test_batch_sizes_that_do_not_divide_are_refused(built: ChoirDataset) -> None:
    with pytest.raises(ConfigError, match="positive multiple of the 3 processes, got 32"):
        loader(built, rank=0, world_size=3)
    with pytest.raises(ConfigError, match="train_batch_size"):
        loader(built, batch_size=0)
    assert len(loader(built, part=1, training=False, batch_size=7, rank=0, world_size=3)) >= 1


def test_a_whole_dataset_is_no_part(built: ChoirDataset) -> None:
    with pytest.raises(ConfigError, match="one part of a built dataset"):
        BatchLoader(built, 8, False, "cpu")


def test_zoo_models_get_recboles_join_and_ours_do_not(make_config: Callable[..., Any]) -> None:
    config = make_config("DeepFM", shuffle=False, numerical_features=["height", "price"],
                         context_fields=["hour", "price"])  # fmt: skip
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    theirs = train.dataset[slice(0, 32)]  # RecBole's own join
    batch = next(iter(train))
    assert set(batch.columns) == set(theirs.columns)
    for name in theirs.columns:
        assert torch.equal(batch[name], theirs[name]), name
    assert batch["height"].shape == (32, 2)

    config = make_config("Base", context_fields=["hour", "price"])
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    batch = next(iter(train))
    assert not {"gender", "height", "genre"} & set(batch.columns)
    assert batch["hour"].dtype == torch.int64
    assert batch["price"].dtype == torch.float32
    assert (batch["hour"] > 0).all()


def test_context_values_follow_their_rows(make_config: Callable[..., Any]) -> None:
    dataset = create_dataset(make_config(context_fields=["price", "hour"]))
    dataset.build()
    e = dataset.row_inputs.events
    price = (e.time // 30) % 7
    train = price[dataset.row_inputs.parts[0]]
    want = ((price - train.mean()) / train.std()).astype(np.float32)
    for part in range(3):
        at = dataset.row_inputs.parts[part]
        got = [b[0]["price"] for b in loader(dataset, part=part, training=False, shuffle=False)]
        np.testing.assert_allclose(torch.cat(got).numpy(), want[at], rtol=1e-5, atol=1e-6)


def test_seed_and_sizes_come_from_the_config(make_config: Callable[..., Any]) -> None:
    config = make_config(seed=5)
    train, valid, test = data_preparation(config, create_dataset(config))
    assert (train.batch_size, valid.batch_size, test.batch_size) == (32, 50, 50)
    assert (train.shuffle, valid.shuffle, test.shuffle) == (True, False, False)
    assert train.seed == 5
    assert train.dataset is train._dataset
    assert (train.training, valid.training) == (True, False)


def test_an_empty_part_is_no_batch(make_config: Callable[..., Any]) -> None:
    config = make_config(eval_args={"split": {"RS": [0.8, 0.0, 0.2]}})
    _, valid, _ = data_preparation(config, create_dataset(config))
    assert len(valid) == 0
    assert list(valid) == []
    assert not valid
