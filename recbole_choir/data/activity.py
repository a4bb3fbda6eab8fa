"""How many training rows each user and item has, and who is tail by them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass
class Activity:
    """Activity in the training rows, by id; the padding id has no rows and is not tail.

    Args:
        user_rows, item_rows: int64 ``[n_users]`` and ``[n_items]`` training rows.
        tail_user, tail_item: bool, the tail as the evaluation defines it (``tail_user``,
            ``tail_item`` of the configuration); the others are the head.
    """

    user_rows: torch.Tensor
    item_rows: torch.Tensor
    tail_user: torch.Tensor
    tail_item: torch.Tensor

    @classmethod
    def count(
        cls,
        user: NDArray[np.integer],
        item: NDArray[np.integer],
        tail_user: NDArray[np.bool_],
        tail_item: NDArray[np.bool_],
    ) -> Activity:
        """Count rows.

        Args:
            user, item: ``[N]`` internal ids of the training rows.
            tail_user, tail_item: bool by id, as :class:`recbole_choir.evaluator.Segments` fits them
                on the same rows.
        """
        rows = [
            np.bincount(ids, minlength=len(tail)).astype(np.int64)
            for ids, tail in ((user, tail_user), (item, tail_item))
        ]
        tails = [np.array(tail, dtype=bool) for tail in (tail_user, tail_item)]
        for counts, tail in zip(rows, tails):
            counts[0], tail[0] = 0, False
        return cls(*(torch.from_numpy(a) for a in (*rows, *tails)))

    def to(self, device: torch.device | str) -> Activity:
        """The same on ``device``."""
        values = (self.user_rows, self.item_rows, self.tail_user, self.tail_item)
        return Activity(*(v.to(device) for v in values))
