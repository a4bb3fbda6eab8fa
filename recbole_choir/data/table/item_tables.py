"""Semantic ids and content vectors of items, joined to a dataset's own ids."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recbole_choir import table_format as tf
from recbole_choir.data.cross_statistics import ItemClusters
from recbole_choir.data.members import belongs_in_all
from recbole_choir.data.table.ids import check_known, check_stamps, internal_ids
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import TableError

logger = logging.getLogger("recbole_choir")


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
        counts: What the join had to leave empty, for the record.
        cluster_level: int64 ``[n_clusters]`` on the host: how many codes each cluster stands for,
            which says who its members are (:mod:`recbole_choir.prefix_groups`); 0 for one whose id
            is no prefix, and None where all are such: its members are those who read it.
    """

    item_cluster: torch.Tensor
    item_codes: torch.Tensor
    n_codes: list[int]
    n_clusters: int
    item_vector: torch.Tensor
    vectors: torch.Tensor
    counts: dict[str, int] = field(default_factory=dict)
    cluster_level: NDArray[np.int64] | None = None

    @classmethod
    def join(cls, table: SemanticTable, item_tokens: NDArray[Any]) -> ItemTables:
        """Join the items of a table to a dataset by raw id.

        Items of the dataset that the table lacks have no cluster, unknown codes and no vector; one
        log line counts them.

        Args:
            table: A loaded table.
            item_tokens: Raw ids by internal id; position 0 is the padding.

        Returns:
            The tables, on the host.

        Raises:
            TableError: The table has no items, was made for other items, or names items that the
                dataset does not have.
        """
        part = table.items
        if part is None:
            raise TableError(
                f"{table.path}: expected semantic ids of items ({tf.ITEMS}), found none;"
                " a table with them is made with semantic_recipe: akt"
            )
        vocabulary = pa.array([str(t) for t in item_tokens[1:]], pa.string())
        check_stamps(table.path, table.ids, {"items": vocabulary})
        raw = part.columns.strings(tf.ITEM_ID)
        item = internal_ids(raw, vocabulary)
        check_known(table.path, "items", raw, item, len(vocabulary))
        shape = (len(table.snapshot_times) + 1, len(item_tokens))
        at = (part.columns.ints(tf.SNAPSHOT), item)
        cluster, vector = np.zeros((2, *shape), dtype=np.int32)
        cluster[at] = part.cluster + 1
        vector[at] = part.columns.ints(tf.VECTOR) + 1
        codes = np.zeros((*shape, len(part.n_codes)), dtype=np.int32)
        for level in range(len(part.n_codes)):
            codes[..., level][at] = part.columns.ints(tf.code_column(level + 1)) + 1
        never = {
            "items_without_row": shape[1] - 1 - len(np.unique(item)),
            "items_without_cluster": int((cluster[:, 1:] == 0).all(axis=0).sum()),
            "items_without_vector": int((vector[:, 1:] == 0).all(axis=0).sum()),
        }
        if any(never.values()):
            logger.info(
                "semantic table %s: of %d items %d have no cluster and %d no vector in any snapshot"
                " (%d are not in the table); they use the empty ones",
                table.path, shape[1] - 1, never["items_without_cluster"],
                never["items_without_vector"], never["items_without_row"],
            )  # fmt: skip
        empty = np.zeros((1, part.vectors.shape[1]), dtype=np.float32)
        return cls(
            item_cluster=torch.from_numpy(cluster),
            item_codes=torch.from_numpy(codes),
            n_codes=list(part.n_codes),
            n_clusters=part.n_clusters + 1,
            item_vector=torch.from_numpy(vector),
            vectors=torch.from_numpy(np.concatenate([empty, part.vectors])),
            counts=never,
            cluster_level=np.append(0, part.level),
        )

    def cluster_of(self, snapshot: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Cluster row (int64) for snapshots and items of shapes that broadcast."""
        return self.item_cluster[snapshot, item].long()

    def codes_of(self, snapshot: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Codes ``[..., M]`` (int64) for snapshots and items; 0 is unknown."""
        return self.item_codes[snapshot, item].long()

    def vector_of(self, snapshot: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Content vectors ``[..., d]`` for snapshots and items; zeros where there is none."""
        return self.vectors[self.item_vector[snapshot, item].long()]

    def on_host(self) -> ItemClusters:
        """Clusters and codes as arrays, for statistics."""
        return ItemClusters(
            self.item_cluster.cpu().numpy(), self.item_codes.cpu().numpy(), self.cluster_level
        )

    def belongs(self) -> NDArray[np.int64]:
        """All clusters ``[S + 1, n_items, k]`` that each item is a member of, 0 for none."""
        host = self.on_host()
        return belongs_in_all(host.cluster, host.codes, host.level)

    def to(self, device: torch.device | str) -> ItemTables:
        """The same tables on ``device``."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                values[name] = value.to(device)
        return ItemTables(**values)
