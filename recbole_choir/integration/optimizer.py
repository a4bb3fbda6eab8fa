"""The optimiser of a run: which learner, and which weights decay how."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import nn

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.model.layers.field_embedding import FieldEmbedding

LEARNERS: Final = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
#: Forms of ``embedding_decay``, see :func:`embedding_parameters` and :class:`Shrinkage`.
DECAY_FORMS: Final = ("l2", "shrink")


def embedding_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The tables that ids and attributes are looked up in, of our models and of RecBole's own."""
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, (FieldEmbedding, nn.Embedding, nn.EmbeddingBag)):
            found.setdefault(id(module.weight), module.weight)
    return [weight for weight in found.values() if weight.requires_grad]


def parameter_groups(
    model: nn.Module, weight_decay: float, embedding_decay: float | None
) -> list[dict[str, Any]]:
    """All parameters of a model, embeddings apart where they have a decay of their own.

    Args:
        model: The model.
        weight_decay: Of everything that has no decay of its own.
        embedding_decay: Of :func:`embedding_parameters`; None: as everything else.
    """
    if embedding_decay is None:
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    tables = embedding_parameters(model)
    apart = {id(table) for table in tables}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [
        {"params": rest, "weight_decay": weight_decay},
        {"params": tables, "weight_decay": embedding_decay},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    learner: str,
    params: Iterable[Any],
    learning_rate: float,
    weight_decay: float,
    initial_accumulator: float = 0.0,
) -> torch.optim.Optimizer:
    """Build the optimiser of a run.

    Args:
        learner: A name of :data:`LEARNERS`.
        params: Parameters or groups of them.
        learning_rate, weight_decay: Of the groups that do not say otherwise.
        initial_accumulator: Of Adagrad; .1 is TensorFlow's, which papers imply (PAPER_GAPS C7).

    Raises:
        ConfigError: For another learner.
    """
    name, params = str(learner).lower(), list(params)
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "adam":
        return torch.optim.Adam(params, **common)
    if name == "adamw":
        return torch.optim.AdamW(params, **common)
    if name == "sgd":
        return torch.optim.SGD(params, **common)
    if name == "rmsprop":
        return torch.optim.RMSprop(params, **common)
    if name == "adagrad":
        return torch.optim.Adagrad(params, initial_accumulator_value=initial_accumulator, **common)
    if name == "sparse_adam":
        return torch.optim.SparseAdam(params, lr=learning_rate)
    raise ConfigError(
        f"learner: expected one of {', '.join(LEARNERS)}, got '{learner}'{nearest(name, LEARNERS)}"
    )


class Shrinkage:
    """Linear shrinkage of the rows that a step does not touch.

    ``w <- sign(w) max(|w| - lambda eta, 0)`` at a step of learning rate ``eta``, for the rows of a
    table without a gradient. Over ``k`` skipped steps it is the same formula with the sum of their
    rates, so that an optimiser of touched rows can apply it when a row is next read.

    Args:
        tables: Parameters ``[n, d]``.
        strength: ``lambda``, in steps of Adam: 1 moves a row by the learning rate a step.
    """

    def __init__(self, tables: list[nn.Parameter], strength: float) -> None:
        self.tables = tables
        self.strength = strength

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Shrink the rows that the gradients at hand do not touch."""
        for table in self.tables:
            if table.grad is None:
                continue
            skipped = ~(table.grad != 0).any(-1, keepdim=True)
            by = skipped * (self.strength * rate)
            table.copy_(table.sign() * (table.abs() - by).clamp_min_(0.0))
