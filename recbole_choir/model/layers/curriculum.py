"""MELT's curriculum over head users and items."""

from __future__ import annotations

import math

import torch


def user_weight(count: torch.Tensor, threshold: int, longest: int, progress: float) -> torch.Tensor:
    """``|sin(pi/2 e/E + pi / (2 (L_max - T - 1)) (n - T - 1))|``.

    At first the users with the longest sequences weigh most, at last those nearest to the tail.

    Args:
        count: n of each user, within T + 1 and ``longest``.
        threshold: T, the length up to which a user is tail.
        longest: L_max.
        progress: e / E, epochs done of all epochs.

    Returns:
        Weights in [0, 1], of the shape of ``count``.

    References:
        MELT (official code); BASELINES 4.
    """
    step = math.pi / (2 * max(1, longest - threshold - 1))
    return torch.sin(math.pi / 2 * progress + step * (count - threshold - 1)).abs()


def item_weight(count: torch.Tensor, threshold: int, progress: float) -> torch.Tensor:
    """``|sin(pi/2 e/E + pi/100 (min(n, T + 50) - T - 1))|``; see :func:`user_weight`."""
    excess = count.clamp_max(threshold + 50) - threshold - 1
    return torch.sin(math.pi / 2 * progress + math.pi / 100 * excess).abs()
