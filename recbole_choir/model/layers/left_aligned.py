"""Sequences without gaps, for layers that read them slot by slot."""

from __future__ import annotations

import torch


def align_left(ids: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    """Move the valid slots of each row to its front, in their order; padding is left behind them.

    Args:
        ids: ``[B, L]``, 0 where there is no item; padding may stand anywhere.
        others: ``[B, L]`` of the same slots.

    Returns:
        All of them, moved alike; zeros in the padding.
    """
    valid = ids > 0
    length = ids.shape[1]
    # Padding goes into one slot more, which is cut off.
    slot = torch.where(valid, valid.cumsum(1) - 1, length)
    moved = []
    for values in (ids, *others):
        empty = values.new_zeros(len(values), length + 1)
        moved.append(empty.scatter_(1, slot, values)[:, :length])
    return moved


def last_valid(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The state ``[B, D]`` of the newest slot of sequences with valid slots in front.

    Args:
        states: ``[B, L, D]``.
        mask: bool ``[B, L]``; a row without a valid slot gives the zero vector.
    """
    newest = mask.sum(1)  # [B]
    at = (newest - 1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
    return states.gather(1, at).squeeze(1) * (newest > 0).unsqueeze(1)
