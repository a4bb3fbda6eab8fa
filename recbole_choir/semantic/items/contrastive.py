"""InfoNCE over co-occurring pairs by sentence-transformers' trainer and loss (AKT-Rec Eq. 1).

Imported only where something is trained: sentence-transformers costs seconds.
"""

from __future__ import annotations

import importlib.util
import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.util import cos_sim
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.items.cooccurrence import Pairs
from recbole_choir.settings.recipe import AlignmentRecipe

try:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
except ImportError:  # before 6.0
    from sentence_transformers.losses import (  # type: ignore[no-redef]
        MultipleNegativesRankingLoss,
    )

logger = logging.getLogger(__name__)

#: Epochs without a better measure after which training stops.
PATIENCE: Final = 2

#: Hidden width of the projection's bend.
HIDDEN: Final = 256


class CooccurrenceInfoNCE(MultipleNegativesRankingLoss):
    """sentence-transformers' in-batch InfoNCE, less the negatives that are none.

    ::

        L = -(1/N) sum_i log [ exp(z_i . z_i+ / tau) / sum_{j not blocked} exp(z_i . z_j+ / tau) ]

    on vectors of norm 1 (the loss's cosine), scale = 1 / tau. The other pairs' positives are the
    negatives; blocked are those that are the anchor itself or its positive once more, and those
    known to co-occur with the anchor: among a few thousand items most batches hold many of these.

    Args:
        model: The model being trained.
        pairs: Pairs of rows; the label of a training row is the number of its pair.
        n_rows: Rows in all.
        temperature: tau.

    References:
        AKT-Rec, Eq. 1; docs/gaps.md A12 (in-batch negatives). MultipleNegativesRankingLoss of
        sentence-transformers; van den Oord et al., Representation Learning with Contrastive
        Predictive Coding, 2018.
    """

    pairs: Tensor
    known: Tensor

    def __init__(
        self, model: SentenceTransformer, pairs: NDArray[np.int64], n_rows: int, temperature: float
    ) -> None:
        super().__init__(model, scale=1.0 / temperature, similarity_fct=self._similarity)
        ends = torch.from_numpy(np.ascontiguousarray(pairs))
        keys = torch.cat([ends[:, 0] * n_rows + ends[:, 1], ends[:, 1] * n_rows + ends[:, 0]])
        self.n_rows = n_rows
        self.register_buffer("pairs", ends, persistent=False)  # [P, 2]
        self.register_buffer("known", keys.unique(), persistent=False)  # sorted
        self._blocked: Tensor | None = None

    def forward(self, sentence_features: Any, labels: Tensor) -> Tensor:
        """Loss of a batch; ``labels`` int [B] are numbers of pairs."""
        anchor, positive = self.pairs[labels].unbind(dim=1)
        blocked = (anchor[:, None] == positive) | (positive[:, None] == positive)
        keys = anchor[:, None] * self.n_rows + positive  # [B, B]
        at = torch.searchsorted(self.known, keys).clamp_(max=len(self.known) - 1)
        blocked |= self.known[at] == keys
        self._blocked = blocked.fill_diagonal_(False)
        return super().forward(sentence_features, labels)

    def _similarity(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        scores = cos_sim(anchors, candidates)  # [B, B]
        return scores if self._blocked is None else scores.masked_fill(self._blocked, -torch.inf)


class ProjectionHead(nn.Module):
    """A sentence-transformers module: a projection that starts as the principal components.

    ::

        y = W x + b + V gelu(U x + c),    z = y / |y|

    with W and b from :func:`principal_components` and V = 0 at the start, so that untrained it
    keeps the geometry of its input, without the direction that all texts share.

    Args:
        weight: float [dim, d], W at the start.
        bias: float [dim], b at the start.
        hidden: Width of U x.
    """

    def __init__(self, weight: Tensor, bias: Tensor, hidden: int = HIDDEN) -> None:
        super().__init__()
        dim, d = weight.shape
        self.linear = nn.Linear(d, dim)
        self.inner = nn.Linear(d, hidden)
        self.outer = nn.Linear(hidden, dim)
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(bias)
            self.outer.weight.zero_()
            self.outer.bias.zero_()

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Replace ``sentence_embedding`` [B, d] by its projection of norm 1 [B, dim]."""
        x = features["sentence_embedding"].to(self.linear.weight.dtype)
        y = self.linear(x) + self.outer(nn.functional.gelu(self.inner(x)))
        return {**features, "sentence_embedding": nn.functional.normalize(y, dim=-1)}


class UnitNorm(nn.Module):
    """A sentence-transformers module: vectors divided by their norm."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Normalise ``sentence_embedding`` [B, d]."""
        x = features["sentence_embedding"]
        return {**features, "sentence_embedding": nn.functional.normalize(x, dim=-1)}


def make_head(x: NDArray[np.float32], dim: int, seed: int) -> ProjectionHead:
    """The head that starts as the principal components of ``x`` [n, d]."""
    with own_randomness():
        torch.manual_seed(seed)
        return ProjectionHead(*principal_components(x, dim))


def principal_components(x: NDArray[np.float32], dim: int) -> tuple[Tensor, Tensor]:
    """Projection to the leading directions of centred rows: weight [dim, d] and bias [dim].

    Fewer than ``dim`` directions are turned into ``dim`` dimensions by a fixed rotation, which
    keeps all angles: an output that is 0 for everything would never learn.
    """
    wide = x.astype(np.float64)
    mean = wide.mean(axis=0) if len(wide) else np.zeros(x.shape[1])
    centred = wide - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    weight = vectors[:, ::-1][:, :dim].T  # [<= dim, d]
    largest = np.take_along_axis(weight, np.abs(weight).argmax(axis=1)[:, None], axis=1)
    weight = weight * np.sign(largest)
    if len(weight) < dim:
        drawn = np.random.default_rng(0).standard_normal((dim, len(weight)))
        weight = np.linalg.qr(drawn)[0] @ weight
    bias = -weight @ mean
    return torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias.astype(np.float32))


@dataclass(frozen=True)
class Schedule:
    """Size of a training."""

    epochs: int
    batch_size: int
    learning_rate: float
    temperature: float
    seed: int


def require_trainer() -> None:
    """Check that what sentence-transformers' trainer needs is there.

    Raises:
        ConfigError: accelerate or datasets is not installed.
    """
    for package in ("accelerate", "datasets"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"alignment: expected the package '{package}', got none: "
                "pip install accelerate datasets"
            )


def schedule_of(recipe: AlignmentRecipe, learning_rate: float, seed: int) -> Schedule:
    """The recipe's schedule; ``learning_rate`` where it names none."""
    return Schedule(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate or learning_rate,
        temperature=recipe.temperature,
        seed=seed,
    )


def train(
    model: SentenceTransformer,
    pairs: Pairs,
    n_rows: int,
    collate: Callable[[list[Any]], dict[str, Any]],
    schedule: Schedule,
    measure: Callable[[], tuple[float, ...] | None],
    *,
    on_cpu: bool,
    show_progress: bool,
) -> int:
    """Train on pairs, and leave the model as it was after the epoch that measured best.

    The start counts as epoch 0, so that training never leaves a model worse than it was. Where
    there is nothing to measure by, the last epoch's weights stay.

    Args:
        model: Its parameters that require a gradient are trained.
        pairs: Co-occurring pairs of rows.
        n_rows: Rows in all.
        collate: Features of a list of rows, as the model's first module takes them.
        schedule: See :class:`Schedule`; the rate falls linearly to 0.
        measure: Value of the model as it is, larger is better, compared from left to right.
        on_cpu: Use no accelerator.
        show_progress: Show the trainer's progress bar.

    Returns:
        The epoch that was kept, 0 for the start.

    """
    from datasets import Dataset

    flip = np.random.default_rng([schedule.seed, 2]).random(len(pairs.first)) < 0.5
    ends = np.stack(
        [np.where(flip, pairs.second, pairs.first), np.where(flip, pairs.first, pairs.second)], 1
    )
    keeper = _KeepBest(model, measure)
    collator: Any = _Collator(collate)
    rows = Dataset.from_dict(
        {"anchor": ends[:, 0], "positive": ends[:, 1], "label": np.arange(len(ends))}
    )
    with own_randomness(), tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=schedule.epochs,
            per_device_train_batch_size=schedule.batch_size,
            learning_rate=schedule.learning_rate,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            seed=schedule.seed,
            use_cpu=on_cpu,
            dataloader_pin_memory=not on_cpu,
            disable_tqdm=not show_progress,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
        )
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collator,
            loss=CooccurrenceInfoNCE(model, ends, n_rows, schedule.temperature),
            callbacks=[keeper],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return keeper.restore()


class _Trainer(SentenceTransformerTrainer):
    """The library's trainer without a model card, which would ask the network about the model."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        return


class _Collator:
    """Rows of the dataset to the trainer's features ``<column>_<feature>`` and labels."""

    valid_label_columns = ("label",)

    def __init__(self, features_of: Callable[[list[Any]], dict[str, Any]]) -> None:
        self.features_of = features_of

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"label": torch.tensor([row["label"] for row in rows])}
        for column in ("anchor", "positive"):
            features = self.features_of([row[column] for row in rows])
            batch |= {f"{column}_{name}": value for name, value in features.items()}
        return batch


class _KeepBest(TrainerCallback):
    """Measures the model after every epoch and keeps what it was at its best."""

    def __init__(
        self, model: SentenceTransformer, measure: Callable[[], tuple[float, ...] | None]
    ) -> None:
        self.model = model
        self.measure = measure
        self.epoch = 0
        self.best_epoch = 0
        self.best = measure()
        self.state = self._copy()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.epoch += 1
        value = self.measure()
        if value is None or self.best is None or value > self.best:
            self.best, self.best_epoch, self.state = value, self.epoch, self._copy()
        elif self.epoch - self.best_epoch >= PATIENCE:
            control.should_training_stop = True
        return control

    def restore(self) -> int:
        """Give the model its best parameters back; which epoch they are from."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in self.state:
                    parameter.copy_(self.state[name])
        self.model.eval()
        return self.best_epoch

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in trained_state(self.model).items()}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name."""
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


@contextmanager
def own_randomness() -> Iterator[None]:
    """The trainer seeds Python, numpy and torch for everybody: put back what was."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
