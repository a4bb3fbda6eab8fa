"""The optimiser of a run: which learner, and which weights decay how."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.model.layers.field_embedding import FieldEmbedding
from recbole_choir.settings.recbole_keys import LEARNERS


def embedding_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The tables that ids and attributes are looked up in, of our models and of RecBole's own."""
    tables = (FieldEmbedding, nn.Embedding, nn.EmbeddingBag)
    weights = (module.weight for module in model.modules() if isinstance(module, tables))
    once = {id(w): w for w in weights if isinstance(w, nn.Parameter)}  # a table may be shared
    return [weight for weight in once.values() if weight.requires_grad]


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
        learner: A name of :data:`~recbole_choir.settings.recbole_keys.LEARNERS`.
        params: Parameters or groups of them.
        learning_rate, weight_decay: Of the groups that do not say otherwise.
        initial_accumulator: Of Adagrad; .1 is TensorFlow's, which papers imply (docs/gaps.md C7).

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


class LazyDecay:
    """L2 of embeddings in closed form: what a row-sparse optimiser can apply when it reads a row.

    Adam's own L2 moves every row at every step: ``decay w`` is the whole gradient of a row that the
    batch skips, so Adam's division by its size turns it into a step of about the learning rate
    towards zero, whatever the decay. Rare ids are switched off, frequent ones live. Here the two
    effects are apart:

    * a row that the step touches has ``decay w`` in its gradient, as ever;
    * a row that it skips shrinks linearly, ``w <- sign(w) max(|w| - eta, 0)`` at a step of learning
      rate ``eta``. Over ``k`` skipped steps that is the same formula with the sum of their rates,
      so the counter of the last touch is all that has to be kept.

    A touched row is one whose gradient is not zero throughout.

    Args:
        tables: Parameters ``[n, d]``.
        decay: Of touched rows; 0 leaves everything as it is.

    References:
        docs/core.md, "Ids": no difference to Adam's L2 beyond that of seeds.
    """

    def __init__(self, tables: list[nn.Parameter], decay: float) -> None:
        self.tables = tables if decay else []
        self.decay = decay
        self._skipped: list[tuple[nn.Parameter, torch.Tensor]] = []

    @torch.no_grad()
    def before_step(self) -> None:
        """Add ``decay w`` to the gradients of touched rows, and note which rows are skipped."""
        self._skipped = []
        for table in self.tables:
            if table.grad is None:
                continue
            touched = (table.grad != 0).any(-1, keepdim=True)
            table.grad.addcmul_(table, touched.to(table.dtype), value=self.decay)
            self._skipped.append((table, ~touched))

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """Shrink the rows that the step has skipped by its learning rate."""
        for table, skipped in self._skipped:
            table.copy_(shrunk(table, skipped * rate))


def shrunk(weight: torch.Tensor, by: torch.Tensor | float) -> torch.Tensor:
    """``sign(w) max(|w| - by, 0)``: every entry moved towards zero, and not beyond."""
    return weight.sign() * (weight.abs() - by).clamp_min(0.0)
