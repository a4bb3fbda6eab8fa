"""A small Transformer over sequences whose items stand in front."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.model.layers.left_aligned import last_valid
from recbole_choir.model.layers.lookup import gather_rows
from recbole_choir.model.layers.mlp import linear

LOWEST, HIGHEST = -(2**63), 2**63 - 1


class ByteDropout(nn.Module):
    """Dropout by one random byte a value: eight of them come from one 64-bit number.

    On a CPU, dropout by PyTorch takes half of the time of a small Transformer. The share that is
    kept is a multiple of 1/256 (.5 exactly, .8984 for .9), and what is kept is scaled by its
    inverse, so that expectations hold exactly. Elsewhere it is PyTorch's own.

    Args:
        prob: Share that is dropped.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob
        self.kept = max(1, round((1.0 - prob) * 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop values of any shape in training."""
        if not self.training or self.prob == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.prob)
        numbers = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(LOWEST, HIGHEST)
        drawn = numbers.view(torch.uint8)[: x.numel()].view(x.shape)
        return x * (drawn < self.kept).to(x.dtype).mul_(256 / self.kept)


UNSEEN = -1e9  # added to a score: no weight, and no NaN where a row has nothing else


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
        n_heads: Heads H.
        dropout: Of the attention weights.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = linear(width, width)
        self.key_value = linear(width, 2 * width)
        self.out = linear(width, width)
        self.dropout = ByteDropout(dropout)
        self.factor = (width // n_heads) ** -0.5

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, L, D]`` to ``[B H, L, D / H]``."""
        b, length, width = x.shape
        if self.n_heads == 1:
            return x
        split = x.view(b, length, self.n_heads, width // self.n_heads).transpose(1, 2)
        return split.reshape(b * self.n_heads, length, -1)

    def forward(self, x: torch.Tensor, over: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            x: ``[B, n, D]``, which attend.
            over: ``[B, L, D]``, over which.
            bias: Added to the scores, ``[n, L]`` or ``[B, 1, L]``.

        Returns:
            ``[B, n, D]``.
        """
        b, n, width = x.shape
        q = self._heads(self.query(x) * self.factor)
        k, v = (self._heads(part) for part in self.key_value(over).chunk(2, dim=-1))
        if bias.dim() == 3 and self.n_heads > 1:
            bias = bias.repeat_interleave(self.n_heads, dim=0)
        bias = bias.clamp_min(torch.finfo(q.dtype).min / 2).to(q.dtype)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2))  # [B H, n, L]
        mixed = torch.bmm(self.dropout(torch.softmax(scores, dim=-1)), v)
        if self.n_heads > 1:
            mixed = mixed.view(b, self.n_heads, n, -1).transpose(1, 2).reshape(b, n, width)
        return self.out(mixed)


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
            linear(width, hidden), nn.ReLU(), ByteDropout(dropout), linear(hidden, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = ByteDropout(dropout)
        self.norm_first = norm_first

    def forward(
        self, x: torch.Tensor, bias: torch.Tensor, newest: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map ``[B, L, D]`` to the same shape.

        Args:
            x: ``[B, L, D]``.
            bias: See :class:`SelfAttention`.
            newest: bool ``[B, L]`` of valid slots: map the newest alone, to ``[B, 1, D]``.
        """
        first, second = self.norms
        over = first(x) if self.norm_first else x
        queries = over
        if newest is not None:
            queries = last_valid(over, newest).unsqueeze(1)
            x = last_valid(x, newest).unsqueeze(1)
        attended = self.dropout(self.attention(queries, over, bias))
        if self.norm_first:
            x = x + attended
            return x + self.dropout(self.feed_forward(second(x)))
        x = first(x + attended)
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
        self.dropout = ByteDropout(dropout)
        self.causal = causal

    def _start(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        position = recency(mask).clamp_max(len(self.positions) - 1)
        return self.dropout(tokens + gather_rows(self.positions, position))

    def _padding(self, mask: torch.Tensor) -> torch.Tensor:
        return (~mask).unsqueeze(1) * UNSEEN  # [B, 1, L]

    def _bias(self, mask: torch.Tensor) -> torch.Tensor:
        if not self.causal:
            return self._padding(mask)
        # Padding stands behind: nothing valid sees it.
        length = mask.shape[1]
        return torch.full((length, length), UNSEEN, device=mask.device).triu(1)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode.

        Args:
            tokens: ``[B, L, D]``.
            mask: bool ``[B, L]``, valid slots in front, oldest first.

        Returns:
            States ``[B, L, D]``; zeros on padding.
        """
        x, bias = self._start(tokens, mask), self._bias(mask)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x) * mask.unsqueeze(-1)

    def newest(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The state ``[B, D]`` of the newest slot: the last block is computed for it alone.

        Args:
            tokens, mask: See :meth:`forward`.

        Returns:
            Zeros for a row without a valid slot.
        """
        x, bias = self._start(tokens, mask), self._bias(mask)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, bias)
        x = last(x, self._padding(mask), mask)  # the newest sees all that is valid
        return self.norm(x).squeeze(1) * mask.any(1, keepdim=True)
