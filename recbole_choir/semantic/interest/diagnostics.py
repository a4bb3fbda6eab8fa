"""How well a model foresees the next item: what is measured before and after training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def interest_loss(e_hat: Tensor, e_t: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """Eq. 2, one value a sample.

    ::

        L_u = -cos(e_hat, e_t) - sum_c y_c log softmax(logits)_c

    y is 1 for the item's category, 1 / P for each of P categories; without one the second term is
    0, and so it is where there are no classes at all.

    Args:
        e_hat: [Q, d] predicted interest.
        e_t: [Q, d] vectors of the clicked items.
        logits: [Q, C] scores of the categories.
        classes: int64 [Q, P] categories of the clicked items, -1 for padding.

    Returns:
        [Q].

    References:
        AKT-Rec, section 3.1.1, Eq. 2; docs/gaps.md A11: cross-entropy over all categories, where
        the paper prints that of one; weights 1:1.
    """
    loss = -F.cosine_similarity(e_hat, e_t, dim=-1)  # [Q]
    if logits.shape[-1] == 0 or classes.shape[-1] == 0:
        return loss
    mask = (classes >= 0).to(logits.dtype)  # [Q, P]
    chosen = torch.log_softmax(logits, dim=-1).gather(1, classes.clamp(min=0))  # [Q, P]
    return loss - (chosen * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def category_hits(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Samples whose likeliest category is one of the item's, and samples that have one.

    Args:
        logits: [Q, C].
        classes: int64 [Q, P], -1 for padding.

    Returns:
        Two numbers, as tensors without dimensions.
    """
    if logits.shape[-1] == 0 or classes.shape[-1] == 0:
        zero = logits.new_zeros(())
        return zero, zero
    hit = (classes == logits.argmax(dim=-1, keepdim=True)).any(dim=1)
    return hit.sum(), (classes >= 0).any(dim=1).sum()


Ints = NDArray[np.int64]


class Task(Protocol):
    """What is trained: a model, and units (windows of a history, prompts) with targets."""

    @property
    def network(self) -> nn.Module:
        """Its parameters with ``requires_grad`` are trained."""
        ...

    @property
    def n_targets(self) -> Ints:
        """Targets of each unit: int64 [units]."""
        ...

    def items(self, units: Ints) -> Ints:
        """Rows of the items that were chosen, int64 [Q], unit after unit."""
        ...

    def predict(self, units: Ints) -> tuple[Tensor, Tensor]:
        """e_hat [Q, d] and category logits [Q, C] for those targets."""
        ...


@dataclass(frozen=True)
class Truth:
    """What is to be predicted.

    Args:
        vectors: float32 [I, d], item vectors.
        classes: int64 [I, P], categories of items, -1 for padding.
        n_classes: Categories C.
    """

    vectors: Tensor
    classes: Tensor
    n_classes: int

    def loss(self, e_hat: Tensor, logits: Tensor, item: Tensor) -> Tensor:
        """Eq. 2 of each target: [Q]."""
        return interest_loss(e_hat, self.vectors[item], logits, self.classes[item])


@dataclass(frozen=True)
class Quality:
    """Means over held-out targets; nan where there are none.

    Args:
        loss: Eq. 2.
        cosine: Cosine of the predicted and the clicked item's vector.
        category_accuracy: Share of targets whose likeliest category is one of the item's; nan
            without categories.
    """

    loss: float = math.nan
    cosine: float = math.nan
    category_accuracy: float = math.nan


@dataclass(frozen=True)
class Diagnostics:
    """What training did.

    Args:
        before, after: Held-out quality of the untrained model and of the one kept.
        constant: Of an answer that is the same for everybody: the mean of the training targets'
            vectors, and their most frequent category.
        targets, held_out: Numbers of targets trained on and held out.
        epochs: Epochs run.
        best_epoch: The one whose weights were kept.
        seconds: Of the run that finished it.
    """

    before: Quality = field(default_factory=Quality)
    after: Quality = field(default_factory=Quality)
    constant: Quality = field(default_factory=Quality)
    targets: int = 0
    held_out: int = 0
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Diagnostics:
        """The reverse of :meth:`as_dict`."""
        parts = {name: Quality(**values[name]) for name in ("before", "after", "constant")}
        return cls(**{**values, **parts})

    def __str__(self) -> str:
        parts = [f"{self.targets} targets, best of {self.epochs} epochs: {self.best_epoch}"]
        for name in ("cosine", "category_accuracy"):
            before, after, constant = (
                getattr(one, name) for one in (self.before, self.after, self.constant)
            )
            parts.append(
                f"held-out {name.replace('_', ' ')} {before:.4f} -> {after:.4f} "
                f"(the same answer for all {constant:.4f})"
            )
        return "; ".join(parts)


@torch.no_grad()
def measure(task: Task, truth: Truth, units: Ints, batch_size: int) -> Quality:
    """Quality of ``task.network`` on ``units``."""
    n = int(task.n_targets[units].sum())
    if n == 0:
        return Quality()
    task.network.eval()
    device = truth.vectors.device
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for batch in batches(units, batch_size):
        e_hat, logits = task.predict(batch)
        item = torch.as_tensor(task.items(batch), device=device)
        cosine = torch.cosine_similarity(e_hat, truth.vectors[item], dim=-1)
        hits, asked = category_hits(logits, truth.classes[item])
        loss = truth.loss(e_hat, logits, item)
        sums += torch.stack([loss.sum(), cosine.sum(), hits, asked]).double()
    total, cosines, hit, with_category = sums.tolist()
    return Quality(total / n, cosines / n, hit / with_category if with_category else math.nan)


@torch.no_grad()
def measure_constant(task: Task, truth: Truth, train: Ints, held_out: Ints) -> Quality:
    """Quality on ``held_out`` of the best answer that is the same for everybody."""
    known, asked = (torch.as_tensor(task.items(u)).cpu() for u in (train, held_out))
    if len(known) == 0 or len(asked) == 0:
        return Quality()
    vectors, classes = truth.vectors.cpu(), truth.classes.cpu()
    mean = vectors[known].double().mean(dim=0).to(vectors.dtype)
    cosine = torch.cosine_similarity(vectors[asked], mean[None], dim=-1).double().mean()
    accuracy = math.nan
    there = (classes[asked] >= 0).any(dim=1)
    if there.any():
        flat = classes[known]
        often = torch.bincount(flat[flat >= 0], minlength=truth.n_classes).argmax()
        accuracy = float((classes[asked][there] == often).any(dim=1).double().mean())
    return Quality(math.nan, float(cosine), accuracy)


def batches(units: Ints, size: int) -> Iterator[Ints]:
    """``units`` in pieces of ``size``."""
    for start in range(0, len(units), size):
        yield units[start : start + size]
