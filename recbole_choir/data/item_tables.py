"""Semantic ids and content vectors of items, joined to a dataset's own ids."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass
class ItemTables:
    """Codes, clusters and content vectors of the dataset's items at each snapshot.

    Snapshot 0 is "no snapshot yet", item 0 is the padding item, cluster row 0 is the empty cluster,
    vector row 0 is the zero vector: all of them are empty.

    Args:
        item_cluster: int32 ``[S + 1, n_items]`` row of the cluster arrays, 0 for none: the full
            tuple, or the prefix it backs off to where it has too few members (A18).
        item_codes: int32 ``[S + 1, n_items, M]``, 0 for unknown, else the code + 1.
        n_codes: Codewords K at each level.
        n_clusters: Rows of the cluster arrays, the empty one included.
        item_vector: int32 ``[S + 1, n_items]`` row of ``vectors``, 0 for none.
        vectors: float32 ``[V + 1, d]`` content vectors, each once; frozen.
    """

    item_cluster: torch.Tensor
    item_codes: torch.Tensor
    n_codes: list[int]
    n_clusters: int
    item_vector: torch.Tensor
    vectors: torch.Tensor

    def to(self, device: torch.device | str) -> ItemTables:
        """The same tables on ``device``."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                values[name] = value.to(device)
        return ItemTables(**values)
