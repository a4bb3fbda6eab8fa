"""A content vector and what training adds to it through the semantic id."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.model.layers.code_embedding import CodeEmbedding
from recbole_choir.model.layers.content import ContentProjection


class CodebookDelta(CodeEmbedding):
    """``delta_i = FusionMLP([A^1[sid_1]; ..; A^M[sid_M]])`` with a zero codebook a level.

    No biases and GELU: delta is exactly zero at first and for unknown codes, and yet the codebooks
    get a gradient. ReLU, whose slope at zero is zero, would keep them there for ever, and so would
    a zero last layer.

    Args:
        codes: ``[S + 1, n, M]``, 0 for unknown, else the code + 1.
        n_codes: K of each level.
        size: Width of a level's codebook.
        hidden: Hidden width of the MLP.
        out: Width of delta.

    References:
        SaviorRec (arXiv 2508.01375), figure of the architecture, MBA block.
    """

    def __init__(
        self, codes: torch.Tensor, n_codes: Sequence[int], size: int, hidden: int, out: int
    ) -> None:
        super().__init__(codes, n_codes, size)
        for level in self.levels:
            nn.init.zeros_(level.weight)  # type: ignore[arg-type]
        first, last = (
            nn.Linear(a, b, bias=False) for a, b in ((self.width, hidden), (hidden, out))
        )
        nn.init.xavier_normal_(first.weight)
        nn.init.xavier_normal_(last.weight)
        self.fusion = nn.Sequential(first, nn.GELU(), last)
        self.width = out

    def embed(self, keys: torch.Tensor) -> torch.Tensor:
        """``delta`` ``[u, out]`` of codes ``[u, M]``."""
        return self.fusion(super().embed(keys))


class ModalEmbedding(nn.Module):
    """``t~_i = W_t t_i + delta_i``, the same for the candidate and the history.

    Args:
        items: Content vectors and codes by (snapshot, item); both frozen.
        size: Width d_m.
        level_size, hidden: See :class:`CodebookDelta`.
        with_delta: False: ``t~ = W_t t``.
    """

    def __init__(
        self, items: ItemTables, size: int, level_size: int, hidden: int, with_delta: bool = True
    ) -> None:
        super().__init__()
        self.width = size
        self.content = ContentProjection(items, size)
        self.delta: CodebookDelta | None = None
        if with_delta:
            self.delta = CodebookDelta(items.item_codes, items.n_codes, level_size, hidden, size)

    def forward(self, ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        """``t~`` ``[..., d_m]`` of ids at snapshots, both ``[...]``."""
        content = self.content(ids, snapshot)
        return content if self.delta is None else content + self.delta(ids, snapshot)

    def whole(self) -> torch.Tensor:
        """``t~`` ``[S + 1, n, d_m]`` of the whole vocabulary at all snapshots."""
        content = self.content.whole()
        return content if self.delta is None else content + self.delta.whole()
