"""Scores of a model for the rows of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from recbole_choir.errors import DataError
from recbole_choir.integration import distributed


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


class Predictions(NamedTuple):
    """One entry per row, in the order of the loader's rows.

    Attributes:
        scores: float32 ``[N]`` predicted probabilities.
        labels: float32 ``[N]``; NaN where the rows carry no label.
        users: int64 ``[N]`` internal ids.
        items: int64 ``[N]`` internal ids.
    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]


def interaction_of(batch: Any) -> Any:
    """The rows of a batch: evaluation loaders of RecBole yield ``(Interaction, ...)``."""
    return batch[0] if isinstance(batch, tuple) else batch


def predict_rows(
    score: Callable[[Any], torch.Tensor],
    batches: Iterable[Any],
    config: Any,
    device: torch.device,
) -> Predictions:
    """Score every batch and keep the results on the device until the end.

    Lists are joined once: the cost is linear in the rows, and nothing is synchronised per batch.
    With several processes, rank r holds the rows r, r + w, ...; every rank gets all rows, in order.

    Args:
        score: Maps an interaction on the device to its scores, ``[B]`` or ``[B, 1]``.
        batches: Interactions, or tuples that start with one.
        config: Names of the user, item and label fields.
        device: Where the model is.

    Raises:
        DataError: If a model returns another number of scores than rows.
    """
    label_field = config["LABEL_FIELD"]
    parts: tuple[list[torch.Tensor], ...] = ([], [], [], [])
    for batch in batches:
        interaction = interaction_of(batch).to(device)
        users = interaction[config["USER_ID_FIELD"]]
        scores = score(interaction).detach().reshape(-1).float()
        if len(scores) != len(users):
            raise DataError(f"predict: expected {len(users)} scores for a batch, got {len(scores)}")
        labels = (
            interaction[label_field].reshape(-1).float()
            if label_field in interaction
            else torch.full_like(scores, float("nan"))
        )
        columns = (scores, labels, users, interaction[config["ITEM_ID_FIELD"]])
        for part, column in zip(parts, columns):
            part.append(column)
    dtypes = (torch.float32, torch.float32, torch.int64, torch.int64)
    whole = [
        distributed.all_gather_in_order(
            torch.cat(part).to(dtype) if part else torch.empty(0, dtype=dtype, device=device)
        )
        .cpu()
        .numpy()
        for part, dtype in zip(parts, dtypes)
    ]
    return Predictions(*whole)
