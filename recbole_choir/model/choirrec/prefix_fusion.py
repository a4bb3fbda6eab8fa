"""A hierarchical group id as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.model.layers.field_embedding import FieldEmbedding
from recbole_choir.model.layers.mlp import MLP, linear


class PrefixFusion(nn.Module):
    """``e_G``: level embeddings, each fused with its parent, then an MLP and an L2 norm.

    ``f_1 = E1[id_1]; f_l = tanh(W_l [f_{l-1}; E_l[id_l]] + b_l); e_G = norm(MLP([f_1; ..; f_M]))``

    A user without a group (code 0 at level 1) gets the zero vector: no group, no signal. A deeper
    unknown code enters as a zero embedding, so the vector then speaks for the known prefix.

    Args:
        n_codes: K of each level.
        size: Width d_e of the level embeddings. 32 (docs/gaps.md C14).
        hidden: Width of the final MLP's hidden layer. 64 (docs/gaps.md C15).
        out: Width of ``e_G``. 32 (docs/gaps.md C15).
        normalize: L2-normalise; off only in the released variant.
        scale: Factor after the norm: entries of a normed vector of 32 are about .18, which large
            neighbours in a concatenation may drown (docs/gaps.md C15).
        std: Of the initial level embeddings, which are trained, not taken from the centroids.

    References:
        ChoirRec 4.3.1, Eq. 4-5.
    """

    def __init__(
        self,
        n_codes: Sequence[int],
        size: int = 32,
        hidden: int = 64,
        out: int = 32,
        normalize: bool = True,
        scale: float = 1.0,
        std: float = 0.05,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            FieldEmbedding(Field(f"level_{i + 1}", "token", k + 1), size, std)
            for i, k in enumerate(n_codes)
        )
        self.fuse = nn.ModuleList(linear(2 * size, size) for _ in n_codes[1:])
        self.project = MLP(size * len(n_codes), [hidden], out)
        self.normalize = normalize
        self.scale = scale
        self.width = out

    def levelwise(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """The fused embedding ``[B, d_e]`` of each level for codes ``[B, M]`` (0 = unknown)."""
        base = [level(codes[:, i]) for i, level in enumerate(self.levels)]  # Eq. 4
        fused = [base[0]]
        for layer, own in zip(self.fuse, base[1:], strict=True):
            fused.append(torch.tanh(layer(torch.cat([fused[-1], own], dim=-1))))  # Eq. 5
        return fused

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Map codes ``[B, M]`` (0 = unknown, else code + 1) to ``e_G`` ``[B, out]``."""
        e = self.project(torch.cat(self.levelwise(codes), dim=-1))
        if self.normalize:
            # eps as large as this keeps the gradient of a vanishing vector bounded.
            e = F.normalize(e, dim=-1, eps=1e-6)
        return e * (self.scale * (codes[:, :1] > 0).to(e.dtype))
