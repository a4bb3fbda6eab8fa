"""The cluster embedding c of an id."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_choir.data.schema import Field
from recbole_choir.model.aktrec.cluster_start import earliest, fit_levels
from recbole_choir.model.layers.code_embedding import CodeEmbedding
from recbole_choir.model.layers.field_embedding import FieldEmbedding


class ClusterEmbedding(nn.Module):
    """``c_i``, what an id shares with its semantic cluster.

    - ``per_id``: a vector of its own that starts at its cluster's: the only reading in which the
      stop-gradients of Eq. 4 direct anything.
    - ``shared``: one vector for all that share the codes, the sum of a trained vector a level, by
      the codes at the row's snapshot.
    - ``shared_plus_delta``: that, plus a vector of its own that starts at zero. What a tail id
      teaches the shared part reaches heads.

    Args:
        codes: ``[S + 1, n, M]``, 0 for unknown, else the code + 1.
        n_codes: K of each level.
        start: Initial vectors ``[n, m]``; the level vectors of the shared modes start where their
            sums come near them, or random where this is None.
        size: Width m.
        std: Standard deviation of random level vectors.
        mode: See above.

    References:
        AKT-Rec 3.2.1; docs/gaps.md A1.
    """

    def __init__(
        self,
        codes: torch.Tensor,
        n_codes: Sequence[int],
        start: torch.Tensor | None,
        size: int,
        std: float = 0.05,
        mode: str = "per_id",
    ) -> None:
        super().__init__()
        self.mode = mode
        self.width = size
        self.varies = mode != "per_id"
        self.newest = codes.shape[0] - 1
        if mode != "shared":
            self.own = FieldEmbedding(Field("id", "token", codes.shape[1]), size, std)
            with torch.no_grad():
                self.own.weight.zero_()
                if start is not None and mode == "per_id":
                    self.own.weight[1:] = start[1:]
        if self.varies:
            level_std = std / len(n_codes) ** 0.5
            self.codes = CodeEmbedding(codes, n_codes, size, level_std, add=True)
            if start is not None:
                tables = fit_levels(start, earliest(codes), n_codes)
                for level, table in zip(self.codes.levels, tables, strict=True):
                    level.load_state_dict({"weight": table})

    def forward(self, ids: torch.Tensor, snapshot: torch.Tensor) -> torch.Tensor:
        """``c`` ``[..., m]`` of ids at snapshots, both ``[...]``; zero for the padding id."""
        if not self.varies:
            return self.own(ids)
        shared = self.codes(ids, snapshot)
        return shared if self.mode == "shared" else shared + self.own(ids)

    def at_newest(self, ids: torch.Tensor) -> torch.Tensor:
        """``c`` ``[B, m]`` of ids ``[B]`` at the newest snapshot: what Eq. 4 compares."""
        return self(ids, torch.full_like(ids, self.newest))

    def at(self, snapshot: int) -> torch.Tensor:
        """``c`` ``[n, m]`` of the whole vocabulary at one snapshot."""
        if not self.varies:
            return self.own.whole()
        shared = self.codes.at(snapshot)
        return shared if self.mode == "shared" else shared + self.own.whole()

    def whole(self) -> torch.Tensor:
        """``c`` ``[S + 1, n, m]`` of the whole vocabulary; ``[n, m]`` where it does not vary."""
        if not self.varies:
            return self.own.whole()
        shared = self.codes.whole()
        return shared if self.mode == "shared" else shared + self.own.whole()
