"""A small Transformer over sequences whose items stand in front."""

from __future__ import annotations

import torch
from torch import nn

from recbole_choir.model.layers.mlp import linear


def recency(mask: torch.Tensor) -> torch.Tensor:
    """How many valid slots are newer ``[B, L]``: 0 for the newest; 0 on padding too.

    Counted from the newest, a position does not depend on how much of the past is kept.

    Args:
        mask: bool ``[B, L]``, valid slots in front, oldest first.
    """
    slots = torch.arange(mask.shape[1], device=mask.device)
    return (mask.sum(1, keepdim=True) - 1 - slots).clamp_min(0)


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Written out, as the fused kernels of CUDA do not promise the same bits twice.

    Args:
        width: D, a multiple of ``n_heads``.
        n_heads: Heads.
        dropout: Of the attention weights.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.project = linear(width, 3 * width)
        self.out = linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Attend within ``[B, L, D]``; ``allowed`` bool ``[B, L, L]``: may slot i see slot j?"""
        b, length, width = x.shape
        heads = self.project(x).view(b, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)  # [B, H, L, D / H]
        scores = q @ k.transpose(2, 3) * (width // self.n_heads) ** -0.5
        scores = scores.masked_fill(~allowed.unsqueeze(1), torch.finfo(scores.dtype).min)
        mixed = self.dropout(torch.softmax(scores, dim=-1)) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, length, width))


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward network, each with residual, norm and dropout.

    Args:
        width, n_heads, dropout: See :class:`SelfAttention`.
        hidden: Hidden width of the feed-forward network.
        norm_first: Normalise the input of each part instead of the sum after it.
    """

    def __init__(
        self, width: int, n_heads: int, hidden: int, dropout: float, norm_first: bool
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, n_heads, dropout)
        self.feed_forward = nn.Sequential(
            linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), linear(hidden, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Map ``[B, L, D]`` to the same shape; ``allowed`` as in :class:`SelfAttention`."""
        first, second = self.norms
        if self.norm_first:
            x = x + self.dropout(self.attention(first(x), allowed))
            return x + self.dropout(self.feed_forward(second(x)))
        x = first(x + self.dropout(self.attention(x, allowed)))
        return second(x + self.dropout(self.feed_forward(x)))


class SequenceTransformer(nn.Module):
    """Blocks over tokens with learned positions, counted from the newest.

    Args:
        width: D.
        length: Longest sequence; what is older shares the last position.
        n_blocks, n_heads, hidden, dropout, norm_first: See :class:`TransformerBlock`.
        causal: A slot sees itself and older ones alone.
        std: Of the initial positions.
    """

    def __init__(
        self,
        width: int,
        length: int,
        n_blocks: int,
        n_heads: int,
        hidden: int,
        dropout: float,
        norm_first: bool = False,
        causal: bool = False,
        std: float = 0.05,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.positions, std=std)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, n_heads, hidden, dropout, norm_first) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.causal = causal

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode.

        Args:
            tokens: ``[B, L, D]``.
            mask: bool ``[B, L]``, valid slots in front, oldest first.

        Returns:
            States ``[B, L, D]``; zeros on padding.
        """
        position = recency(mask).clamp_max(len(self.positions) - 1)
        x = self.dropout(tokens + self.positions[position])
        length = mask.shape[1]
        allowed = mask.unsqueeze(1).expand(-1, length, -1)  # [B, L, L]
        if self.causal:
            allowed = allowed & torch.ones_like(allowed[0]).tril()
        # A padded slot sees itself: a softmax over nothing would be NaN.
        allowed = allowed | torch.eye(length, dtype=torch.bool, device=mask.device)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x) * mask.unsqueeze(-1)
