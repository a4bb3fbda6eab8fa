"""The vectors of users' ids, in whatever table a model keeps them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from recbole_choir.integration.predictions import user_vectors

WEIGHT = nn.Parameter(torch.arange(12.0).reshape(6, 2))


def test_a_table_of_users_and_the_individual_part_of_a_fused_one() -> None:
    plain = SimpleNamespace(user_table=SimpleNamespace(weight=WEIGHT))
    fused = SimpleNamespace(
        user_table=SimpleNamespace(individual=SimpleNamespace(weight=2 * WEIGHT))
    )
    assert np.array_equal(user_vectors(plain, "user_id"), WEIGHT.detach().numpy())
    assert np.array_equal(user_vectors(fused, "user_id"), 2 * WEIGHT.detach().numpy())


def test_a_block_of_the_table_of_all_ids() -> None:
    model = SimpleNamespace(
        token_field_names=["item_id", "user_id", "age"],
        token_field_dims=[2, 3, 1],
        token_field_offsets=np.array([0, 2, 5]),
        token_embedding_table=SimpleNamespace(embedding=SimpleNamespace(weight=WEIGHT)),
    )
    assert np.array_equal(user_vectors(model, "user_id"), [[4, 5], [6, 7], [8, 9]])
    assert user_vectors(model, "member") is None


def test_models_without_such_vectors() -> None:
    assert user_vectors(object(), "user_id") is None
    ids_switched_off = SimpleNamespace(user_table=SimpleNamespace(individual=None))
    assert user_vectors(ids_switched_off, "user_id") is None
