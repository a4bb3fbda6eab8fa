"""How far to trust each channel, from the user's activity alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from recbole_choir.model.layers.mlp import MLP, linear

N_BUCKETS = 24  # log2 buckets of n_buy: the last one begins at 2^23 - 1 purchases


class Reliability(NamedTuple):
    """Gates in (0, 1), each ``[B]`` or None where the head was not asked for.

    Attributes:
        distill: alpha_distill of Eq. 9.
        fusion: alpha_fusion of Eq. 10.
    """

    distill: torch.Tensor | None
    fusion: torch.Tensor | None


def count_bucket(n_buy: torch.Tensor) -> torch.Tensor:
    """Bucket of a count: ``floor(log2(1 + n))``, so 0, 1-2, 3-6, 7-14, ... ``[B]`` to ``[B]``."""
    # The small addend keeps 1 + n = 2^k from falling into the bucket below on any device.
    bucket = torch.log2(n_buy.clamp_min(0.0) + 1.0 + 1e-4)
    return bucket.long().clamp_max(N_BUCKETS - 1)


class ReliabilityNetwork(nn.Module):
    """Activity statistics and n_buy -> embedding -> activity tower -> two sigmoid heads.

    It sees no id and no item. The embedding of n_buy enters the distillation head a second time,
    as the paper's figure draws it.

    Args:
        n_stats: Number of activity statistics.
        hidden: Widths of the activity tower.
        bucket_size: Width of the embedding of n_buy's bucket.
        fusion_bias_init: Bias of the fusion head at the start: -0.5 gives alpha_fusion of about
            .38, so neither channel starves (docs/gaps.md C22).
        distill_head, fusion_head: Which heads to build; a head nobody reads would never get a
            gradient.
        freeze_distill: The distillation head gets no gradient (``kd_alpha_mode: detach``).

    References:
        ChoirRec 4.4.3 (reliability gate), 4.4.4 (dedicated head); docs/gaps.md C9.
    """

    def __init__(
        self,
        n_stats: int,
        hidden: Sequence[int] = (32, 16),
        bucket_size: int = 8,
        fusion_bias_init: float = -0.5,
        distill_head: bool = True,
        fusion_head: bool = True,
        freeze_distill: bool = False,
    ) -> None:
        super().__init__()
        # A plain table: bucket 0 is a count of zero, which is knowledge, not padding.
        self.bucket = nn.Embedding(N_BUCKETS, bucket_size)
        nn.init.normal_(self.bucket.weight, std=0.1)
        self.tower = MLP(n_stats + bucket_size, hidden)
        self.distill = linear(hidden[-1] + bucket_size, 1) if distill_head else None
        self.fusion = linear(hidden[-1], 1) if fusion_head else None
        self.freeze_distill = freeze_distill
        if self.fusion is not None:
            nn.init.constant_(self.fusion.bias, fusion_bias_init)
        if self.distill is not None and freeze_distill:
            self.distill.requires_grad_(False)
            if not fusion_head:  # then nothing else trains the tower either
                self.requires_grad_(False)

    def forward(self, stats: torch.Tensor, n_buy: torch.Tensor) -> Reliability:
        """Gates of rows with statistics ``[B, n_stats]`` and counts ``[B]``."""
        bucket = self.bucket(count_bucket(n_buy))  # [B, bucket_size]
        activity = self.tower(torch.cat([stats, bucket], dim=-1))
        distill = fusion = None
        if self.distill is not None:
            seen = torch.cat([activity, bucket], dim=-1)
            if self.freeze_distill:
                seen = seen.detach()
            distill = torch.sigmoid(self.distill(seen)).squeeze(-1)
        if self.fusion is not None:
            fusion = torch.sigmoid(self.fusion(activity)).squeeze(-1)
        return Reliability(distill, fusion)
