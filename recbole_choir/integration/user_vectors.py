"""The vectors that models keep of users' ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def user_vectors(model: Any, user_field: str) -> npt.NDArray[np.floating[Any]] | None:
    """What a model has learned of each user's id.

    A model of ours has ``user_table``; where it fuses a cluster with an individual vector (AKTRec),
    the individual one is meant. A model of RecBole keeps all ids in one table, a block a field.

    Args:
        model: A trained model.
        user_field: ``USER_ID_FIELD``.

    Returns:
        ``[n_users, d]`` by internal id; None for a model without such vectors (trees).
    """
    table = getattr(model, "user_table", None)
    table = getattr(table, "individual", table)
    weight = getattr(table, "weight", None)
    if isinstance(weight, torch.Tensor):
        return weight.detach().cpu().numpy()
    names = getattr(model, "token_field_names", ())
    fused = getattr(model, "token_embedding_table", None)
    if fused is None or user_field not in names:
        return None
    index = names.index(user_field)
    start = int(model.token_field_offsets[index])
    block = fused.embedding.weight[start : start + int(model.token_field_dims[index])]
    return block.detach().cpu().numpy()
