"""Training rows and tail flags by id: those of the evaluation, from the training rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recbole_choir.data.activity import Activity
from recbole_choir.evaluator import Segments
from recbole_choir.integration.dataset import ChoirDataset, create_dataset
from recbole_choir.model.base_recommender import ChoirRecommender


class ReadsActivity(ChoirRecommender):
    """A model that asks for activity alone."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[str]:
        return frozenset({"activity"})


def built(config: Any) -> ChoirDataset:
    dataset = create_dataset(config)
    dataset.build()
    return dataset


def test_counts_and_flags_are_those_of_the_evaluation(make_config: Callable[..., Any]) -> None:
    config = make_config(ReadsActivity, tail_user={"count": 20}, tail_item={"quantile": 0.5})
    dataset = built(config)
    activity = dataset.model_inputs.activity
    user, item, label = dataset.train_events()
    segments = Segments.fit(
        user,
        item,
        label,
        dataset.user_num,
        dataset.item_num,
        tail_user={"count": 20},
        tail_item={"quantile": 0.5},
    )
    assert activity.user_rows.tolist() == np.bincount(user, minlength=dataset.user_num).tolist()
    assert activity.item_rows.tolist() == np.bincount(item, minlength=dataset.item_num).tolist()
    assert activity.tail_user[1:].tolist() == segments.tail_user[1:].tolist()
    assert activity.tail_item[1:].tolist() == segments.tail_item[1:].tolist()
    assert 0 < activity.tail_user.sum() < dataset.user_num - 1
    u9 = dataset.field2token_id["user_id"]["u9"]  # in the last rows only: none of training
    assert activity.user_rows[u9] == 0
    assert activity.tail_user[u9]


def test_padding_is_neither_head_nor_tail() -> None:
    tail = np.array([True, True, False])
    activity = Activity.count(np.array([1, 2, 2]), np.array([2, 2, 2]), tail, ~tail)
    assert activity.user_rows.tolist() == [0, 1, 2]
    assert activity.item_rows.tolist() == [0, 0, 3]
    assert activity.tail_user.tolist() == [False, True, False]
    assert activity.tail_item.tolist() == [False, False, True]
    assert activity.to("cpu").tail_user.dtype == torch.bool


def test_only_who_asks_gets_it_and_it_needs_no_table(make_config: Callable[..., Any]) -> None:
    asked, other = built(make_config(ReadsActivity)), built(make_config("Base"))
    assert not asked.needs_semantic_table()
    assert other.model_inputs.activity is None
