"""The losses of an epoch, summed on the device and read rarely."""

from __future__ import annotations

import torch

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
            epoch, steps_per_epoch: What an error says beside the step.

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
