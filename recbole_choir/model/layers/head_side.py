"""Who is head and who is tail among users, or among items, and how far from the border."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recbole_choir.evaluator.segments import bottom_share


def fewest(rows: torch.Tensor, positives: NDArray[np.integer], share: float) -> torch.Tensor:
    """The tail as MELT's code has it: a share of the ids, those with the fewest positives.

    Args:
        rows: int64 ``[n]`` training rows; ids without any are tail, the padding is not.
        positives: Ids of the training rows with label 1.
        share: Of the ids with training rows, 0 to 1; of equal ones the lower ids are tail.

    Returns:
        bool ``[n]``, where ``rows`` is.
    """
    count = np.bincount(positives, minlength=len(rows))
    # 0 is for ids without rows; those without positives come first of the others
    tail = bottom_share(np.where(rows.cpu().numpy() > 0, count + 1, 0), share)
    tail[0] = False
    return torch.from_numpy(tail).to(rows.device)


class HeadSide(nn.Module):
    """Flags and counts of one side, resident beside the model.

    Args:
        tail: bool ``[n]``; ids that are not tail but have no training row are neither.
        rows: int64 ``[n]`` training rows.
        positives: Ids of the training rows with label 1.
        lowest, highest: Bounds of the threshold.

    Attributes:
        threshold: T: the most positives that a tail id with training rows has.
    """

    tail: torch.Tensor
    head: torch.Tensor
    count: torch.Tensor

    def __init__(
        self,
        tail: torch.Tensor,
        rows: torch.Tensor,
        positives: NDArray[np.integer],
        lowest: int,
        highest: int | None = None,
    ) -> None:
        super().__init__()
        count = np.bincount(positives, minlength=len(tail)).astype(np.int64)
        kept = {
            "tail": tail,
            "head": (rows > 0) & ~tail,
            "count": torch.from_numpy(count).to(tail.device),
        }
        for name, values in kept.items():  # of the dataset, not of the weights: not saved
            self.register_buffer(name, values, persistent=False)
        threshold = max(lowest, int(count[tail.cpu().numpy()].max(initial=0)))
        self.threshold = threshold if highest is None else min(threshold, max(lowest, highest))

    def excess_count(self, ids: torch.Tensor) -> torch.Tensor:
        """Positives of head ids, at least T + 1."""
        return self.count[ids].clamp_min(self.threshold + 1)
