"""What a user sees of training: a progress bar, one line an epoch, and trackers if asked for."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import torch
from recbole.utils import WandbLogger, get_tensorboard
from tqdm import tqdm

from recbole_choir.errors import ChoirError, DataError
from recbole_choir.integration import distributed


class TrainingError(ChoirError):
    """Training cannot go on."""


class LossMeter:
    """Sum the parts of the loss over the steps of an epoch without waiting for the device.

    Args:
        device: Where the losses are.

    Attributes:
        n_steps: Steps added so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.n_steps = 0
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: torch.Tensor | None = None  # [parts]
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, parts: torch.Tensor) -> None:
        """Add the detached parts ``[parts]`` of one step's loss."""
        self._sums = parts.to(self._dtype) if self._sums is None else self._sums + parts
        unseen = (self._first_bad < 0) & ~torch.isfinite(parts).all()
        self._first_bad = torch.where(unseen, self.n_steps, self._first_bad)
        self.n_steps += 1

    def means(self, epoch: int, steps_per_epoch: int) -> list[float]:
        """Read the device once: the mean of each part over steps and ranks so far.

        Args:
            epoch, steps_per_epoch: What an error names with the step.

        Raises:
            TrainingError: If some rank has met a loss that is not finite.
            DataError: If no step was added.
        """
        if self._sums is None:
            raise DataError(f"training data: expected batches in epoch {epoch}, got none")
        local = torch.cat((self._sums, self._first_bad.to(self._dtype).reshape(1)))
        by_rank = distributed.all_gather_rows(local.reshape(1, -1)).tolist()
        bad = [int(values[-1]) for values in by_rank if values[-1] >= 0]
        if bad:
            raise TrainingError(
                f"training loss: expected finite, got nan or infinity in epoch {epoch}, "
                f"step {min(bad) + 1} of {steps_per_epoch}; lower learning_rate, set "
                "clip_grad_norm or look for extreme feature values"
            )
        n_parts = len(by_rank[0]) - 1
        n_terms = self.n_steps * len(by_rank)
        return [sum(values[part] for values in by_rank) / n_terms for part in range(n_parts)]


def progress(batches: Any, total: int, text: str, show: bool) -> Any:
    """The batches, behind a progress bar in the first process if one is wanted."""
    if not show or distributed.rank() != 0:
        return batches
    return tqdm(batches, total=total, ncols=100, desc=text)


def show_loss(bar: Any, loss: float) -> None:
    """Write the loss behind the bar, if it is one."""
    if isinstance(bar, tqdm):
        bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)


def describe_training(entry: dict[str, Any], places: int) -> str:
    """One line on an epoch of training, from its entry of the history."""
    losses = entry.get("train_losses", [entry["train_loss"]])
    figures = "".join(f"  {name} {value:.4g}" for name, value in entry["diagnostics"].items())
    return (
        f"epoch {entry['epoch']} training [{entry['seconds']:.2f} s, "
        f"{entry['rows_per_second']:,.0f} rows/s]  loss "
        + " + ".join(f"{loss:.{places}f}" for loss in losses)
        + figures
    )


def describe_validation(found: dict[str, Any], where: str, improved: bool) -> str:
    """One line on a validation: its metrics and seconds, and where in training it was."""
    values = "  ".join(f"{name} {value:.6g}" for name, value in found["valid"].items())
    best = "  (best)" if improved else ""
    return f"{where} validation [{found['seconds']:.2f} s]  {values}{best}"


class Trackers:
    """TensorBoard (key ``tensorboard``) and Weights & Biases (``log_wandb``), each if asked for.

    Only the first process writes. RecBole makes a TensorBoard folder in the working directory for
    every run; here nothing is made unless the config says so.
    """

    def __init__(self, config: Any) -> None:
        first = distributed.rank() == 0
        self.tensorboard = get_tensorboard(getLogger()) if config["tensorboard"] and first else None
        self.wandb = WandbLogger(config) if config["log_wandb"] and first else None

    def numbers(self, numbers: dict[str, Any], head: str, epoch: int) -> None:
        """Send the figures of an epoch under ``head`` (train or valid)."""
        if self.tensorboard is not None:
            for name, value in numbers.items():
                self.tensorboard.add_scalar(f"{head}/{name}", value, epoch)
            self.tensorboard.flush()
        if self.wandb is not None:
            self.wandb.log_metrics({f"{head}_step": epoch, **numbers}, head=head)

    def evaluation(self, result: dict[str, float]) -> None:
        """Send the metrics of an evaluation."""
        if self.wandb is not None:
            self.wandb.log_eval_metrics(result, head="eval")
