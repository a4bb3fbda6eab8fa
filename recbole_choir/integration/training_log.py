"""What a user sees of training: a progress bar, one line an epoch, and trackers if asked for."""

from __future__ import annotations

from logging import getLogger
from typing import Any

from recbole.utils import WandbLogger, get_tensorboard
from tqdm import tqdm

from recbole_choir.integration import distributed


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
