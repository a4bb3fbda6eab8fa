"""Soft orthogonality of cluster and individual embeddings."""

from __future__ import annotations

import torch

EPS = 1e-8  # added to squared norms: bounds the gradient of a vector that vanishes


def squared_cosine(c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """``(c^T d / (||c|| ||d||))^2`` ``[B]`` of vectors ``[B, m]``; 0 where one is zero.

    References:
        AKT-Rec Eq. 5; PAPER_GAPS A7.
    """
    dot = (c * d).sum(-1)
    return dot.square() / ((c.square().sum(-1) + EPS) * (d.square().sum(-1) + EPS))


def soft_orthogonality(
    pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """``L_ortho``: mean of Eq. 5 over the distinct users and items of a batch.

    Args:
        pairs: For each side ``(c, d, weight)``: ``[B, m]`` twice, and ``[B]`` with 1 on one row of
            each id, else 0.

    References:
        AKT-Rec Eq. 5; PAPER_GAPS A7 (target users and items, not the history's).
    """
    total = torch.stack([(weight * squared_cosine(c, d)).sum() for c, d, weight in pairs]).sum()
    count = torch.stack([weight.sum() for _, _, weight in pairs]).sum()
    return total / count.clamp_min(1.0)
