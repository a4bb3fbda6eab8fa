"""Centroids that follow a stream of vectors, and what a vector reads from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.model.layers.dot_pooling import masked_softmax


class Retrieved(NamedTuple):
    """What a vector reads.

    Attributes:
        vector: ``sum_n a_n C_n`` ``[B, d]``; zeros where no similarity is positive.
        centroids: The k most similar ones ``[B, k, d]``.
        mask: bool ``[B, k]``, True where the similarity is positive.
    """

    vector: torch.Tensor
    centroids: torch.Tensor
    mask: torch.Tensor


class CentroidMemory(nn.Module):
    """A memory of N centroids, moved by the vectors that are nearest to them and by no gradient.

    A centroid moves by the rate rho of its gap to the mean of the vectors assigned to it in a step.
    One that got none in an epoch is put onto a vector of the next epoch's first step. The centroids
    and their counts are saved with the weights.

    Args:
        n: N.
        size: Width d.
        rate: rho.
        top_k: Centroids that a vector reads.

    References:
        UIE (arXiv 2405.13238); BASELINES 5.
    """

    centroids: torch.Tensor
    hits: torch.Tensor
    dead: torch.Tensor

    def __init__(self, n: int, size: int, rate: float, top_k: int) -> None:
        super().__init__()
        self.rate = rate
        self.top_k = min(top_k, n)
        self.register_buffer("centroids", torch.randn(n, size) * size**-0.5)
        self.register_buffer("hits", torch.zeros(n))  # vectors of this epoch
        self.register_buffer("dead", torch.zeros(n, dtype=torch.bool), persistent=False)

    def start_epoch(self) -> None:
        """Mark the centroids that the last epoch gave no vector, and count anew."""
        self.dead = (self.hits == 0) & (self.hits.sum() > 0)
        self.hits = torch.zeros_like(self.hits)

    def live_share(self) -> float:
        """Share of the centroids with a vector in this epoch."""
        return float((self.hits > 0).float().mean())

    def read(self, vector: torch.Tensor) -> Retrieved:
        """Read for vectors ``[B, d]``; the gradient reaches the vectors, never the centroids."""
        top, at = (vector @ self.centroids.T).topk(self.top_k, dim=1)  # [B, k]
        mask, centroids = top > 0, self.centroids[at]
        weights = masked_softmax(top, mask)
        return Retrieved(torch.bmm(weights.unsqueeze(1), centroids).squeeze(1), centroids, mask)

    @torch.no_grad()
    def follow(self, vectors: torch.Tensor, valid: torch.Tensor) -> None:
        """Take a step.

        Args:
            vectors: ``[M, d]``, in random order.
            valid: bool ``[M]``; the others are not there.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.to(self.centroids.dtype)
            centroids = self._revived(vectors, valid)
            distance = centroids.square().sum(1) - 2.0 * (vectors @ centroids.T)  # [M, N] + const
            assigned = F.one_hot(distance.argmin(1), len(centroids)).to(vectors.dtype)
            assigned = assigned * valid.unsqueeze(1)
            count = assigned.sum(0)  # [N]
            mean = (assigned.T @ vectors) / count.clamp_min(1.0).unsqueeze(1)
            gap = (mean - centroids) * (count > 0).unsqueeze(1)
            # New tensors: the backward pass still needs the old centroids.
            self.centroids = centroids + self.rate * gap
            self.hits = self.hits + count

    def _revived(self, vectors: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The centroids, dead ones each on a valid vector; as they are where there is none."""
        n_valid = valid.sum()
        usable = vectors[(~valid).long().argsort(stable=True)]  # valid ones first
        which = (self.dead.cumsum(0) - 1).clamp_min(0) % n_valid.clamp_min(1)
        revive = self.dead & (n_valid > 0)
        self.dead = self.dead & ~revive
        return torch.where(revive.unsqueeze(1), usable[which], self.centroids)
