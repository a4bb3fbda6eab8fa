"""A small causal transformer from item vectors to an interest vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recbole_choir.errors import ConfigError


class InterestNetwork(nn.Module):
    """Reads a user's attributes, then the vectors of chosen items, oldest first.

    ::

        token 0      = start + attributes' embeddings       what is known without any event
        token j      = W_in x_item(j)
        h            = causal transformer(tokens)           h_j knows tokens 0 .. j
        e_hat        = sum_i a_ji x_item(i) + W_e h_j       in the space of the item vectors
        logits       = W_c h_j

    The last token of a history plays the part of the paper's interest token: with causal attention
    every position of a sequence is a sample, so that one pass trains all of them. Positions count
    from the reader backwards (a learned bias of the distance per head), since an event's recency
    is the same wherever a sequence begins.

    The first term of e_hat is an average of the history's own vectors: a_ji = softmax over the
    items read of a score of the item and its recency, with a learned prior vector in the place of
    token 0, to which short histories shrink. W_e starts at 0, so training starts from that average;
    a network that has to find it first does worse than the plain average on a few thousand users.

    Args:
        item_dim: d, width of the item vectors.
        n_classes: Categories C; 0 for none.
        n_codes: Rows of the attributes' table, at least 1 (row 0: missing).
        n_numbers: Continuous attributes.
        width: Width of the tokens.
        layers, heads: Of the transformer.
        length: Longest history.
        dropout: Of tokens and blocks.

    Raises:
        ConfigError: ``heads`` does not divide ``width``.

    References:
        AKT-Rec, section 3.1.1; docs/gaps.md A11.
    """

    def __init__(
        self,
        item_dim: int,
        n_classes: int,
        n_codes: int,
        n_numbers: int,
        width: int,
        layers: int,
        heads: int,
        length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"interest.heads: expected a divisor of width {width}, got {heads}")
        self.length = length
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.attributes = nn.Embedding(n_codes, width, padding_idx=0)
        nn.init.normal_(self.attributes.weight, std=0.02)
        with torch.no_grad():
            self.attributes.weight[0] = 0.0
        self.slopes = nn.Parameter(torch.randn(n_numbers, width) * 0.02)
        self.offsets = nn.Parameter(torch.randn(n_numbers, width) * 0.02)
        self.item_in = nn.Linear(item_dim, width)
        self.blocks = nn.ModuleList(_Block(width, heads, length, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.prior = nn.Parameter(torch.zeros(item_dim))
        self.item_score = nn.Linear(item_dim, 1)
        self.recency = nn.Parameter(torch.zeros(1, length + 2))
        nn.init.zeros_(self.item_score.weight)
        nn.init.zeros_(self.item_score.bias)
        self.interest = nn.Linear(width, item_dim)
        nn.init.zeros_(self.interest.weight)
        nn.init.zeros_(self.interest.bias)
        self.category = nn.Linear(width, n_classes) if n_classes else None

    def forward(
        self, x: Tensor, code: Tensor, number: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states and averages of all positions.

        Args:
            x: [B, T, d] item vectors, oldest first, padded at the end (with anything: no position
                sees a later one).
            code: int64 [B, F] attribute codes.
            number, present: [B, G] continuous attributes, and where they are known.

        Returns:
            Hidden states [B, T + 1, width] and averaged vectors [B, T + 1, d]; position j has read
            the attributes and the first j items.
        """
        start = self.start + self.attributes(code).sum(dim=1)  # [B, width]
        start = start + number @ self.slopes + present @ self.offsets
        h = torch.cat([start[:, None], self.item_in(x)], dim=1)  # [B, T + 1, width]
        h = self.dropout(h)
        for block in self.blocks:
            h = block(h)
        return self.norm(h), self._average(x)

    def heads(self, h: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
        """e_hat [Q, d] and category logits [Q, C] of what :meth:`forward` says of Q positions."""
        e_hat = average + self.interest(h)
        return e_hat, h.new_zeros(len(h), 0) if self.category is None else self.category(h)

    def _average(self, x: Tensor) -> Tensor:
        """Weighted average of the prior and the items read at each position: [B, T + 1, d]."""
        value = torch.cat([self.prior.expand(len(x), 1, -1), x], dim=1)  # [B, T + 1, d]
        score = self.item_score(value).squeeze(-1)  # [B, T + 1]
        weight = torch.softmax(score[:, None] + _bias(self.recency, value.shape[1]), dim=-1)
        return weight @ value


class _Block(nn.Module):
    """Causal self-attention with a bias of the distance, then a feed-forward layer; norms first."""

    def __init__(self, width: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)
        self.recency = nn.Parameter(torch.zeros(heads, length + 2))

    def forward(self, h: Tensor) -> Tensor:
        b, t, width = h.shape
        q, k, v = self.qkv(self.norm_1(h)).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        score = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, H, T, T]
        weight = torch.softmax(score + _bias(self.recency, t), dim=-1)
        read = (weight @ v).transpose(1, 2).reshape(b, t, width)
        h = h + self.dropout(self.out(read))
        return h + self.dropout(self.feed(self.norm_2(h)))


def _bias(recency: Tensor, t: int) -> Tensor:
    """What ``recency`` [H, length + 2] says of the distance, -inf for what is later: [H, T, T].

    Entry 0 is for the start token, then come distances 0 to length.
    """
    at = torch.arange(t, device=recency.device)
    distance = at[:, None] - at[None, :]  # [T, T]
    entry = distance.clamp(0, recency.shape[1] - 2) + 1
    entry = torch.where(at[None, :] == 0, 0, entry)
    return recency[:, entry].masked_fill(distance < 0, float("-inf"))
