"""Builds the embeddings of AKTRec's ids as its settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recbole_choir.model.aktrec import cluster_start
from recbole_choir.model.aktrec.adaptive_embedding import AdaptiveEmbedding, ClusterBuffers
from recbole_choir.model.aktrec.cluster_embedding import ClusterEmbedding
from recbole_choir.model.layers.code_embedding import CodeEmbedding
from recbole_choir.model.layers.content import ContentProjection
from recbole_choir.model.layers.keyed_part import KeyedPart
from recbole_choir.model.layers.snapshot_tokens import SnapshotItemEncoder
from recbole_choir.model.settings.aktrec import AKTRecSettings

if TYPE_CHECKING:
    from recbole_choir.data.schema import ModelInputs


class EmbeddingBuilder:
    """Makes what turns user and item ids into vectors.

    Args:
        settings: Of the model.
        inputs: Of the dataset, with all that ``settings.needs`` names.
        size: Width m.
        std: Standard deviation of initial values.
    """

    def __init__(
        self, settings: AKTRecSettings, inputs: ModelInputs, size: int, std: float
    ) -> None:
        self.settings = settings
        self.inputs = inputs
        self.size = size
        self.std = std

    def users(self, side: ClusterBuffers | None) -> AdaptiveEmbedding:
        """Embedding of the users' ids; ``side`` holds the tables of their clusters."""
        groups, items, cluster = self.inputs.groups, self.inputs.items, None
        if self.settings.use_cluster_emb and side and groups is not None and items is not None:
            cluster = self._cluster_embedding(
                groups.user_codes,
                groups.n_codes,
                lambda: cluster_start.user_centroids(groups, items),
            )
        return self._adaptive(self.inputs.schema.n_users, cluster, side)

    def items(self, side: ClusterBuffers | None) -> SnapshotItemEncoder:
        """Encoder of the items; ``side`` holds the tables of their clusters."""
        s, schema, items = self.settings, self.inputs.schema, self.inputs.items
        cluster = None
        parts: list[KeyedPart] = []
        if s.use_cluster_emb and side and items is not None:
            cluster = self._cluster_embedding(
                items.item_codes, items.n_codes, lambda: cluster_start.item_centroids(items)
            )
        identity = self._adaptive(schema.n_items, cluster, side)
        if s.use_content and items is not None:
            parts.append(ContentProjection(items, self.size))
        if s.use_codes and items is not None:
            parts.append(CodeEmbedding(items.item_codes, items.n_codes, self.size, self.std))
        return SnapshotItemEncoder(
            schema.n_items,
            schema.item_attrs,
            self.inputs.item_features,
            self.size,
            self.std,
            parts,
            identity,
            1 if items is None else items.item_codes.shape[0],
        )

    def user_codes(self) -> CodeEmbedding | None:
        """The users' codes as plain features, with ``use_codes``."""
        groups = self.inputs.groups
        if not self.settings.use_codes or groups is None:
            return None
        return CodeEmbedding(groups.user_codes, groups.n_codes, self.size, self.std)

    def _cluster_embedding(
        self, codes: torch.Tensor, n_codes: list[int], centroids: cluster_start.Centroids
    ) -> ClusterEmbedding:
        """``c`` of one side, started as ``cluster_init`` says."""
        s, start = self.settings, None
        if s.cluster_emb == "per_id" or s.cluster_init == "centroid":
            start = cluster_start.initial_vectors(
                s.cluster_init, codes, n_codes, centroids, self.size, self.std
            )
        return ClusterEmbedding(codes, n_codes, start, self.size, self.std, s.cluster_emb)

    def _adaptive(
        self, n: int, cluster: ClusterEmbedding | None, side: ClusterBuffers | None
    ) -> AdaptiveEmbedding:
        s = self.settings
        return AdaptiveEmbedding(
            n,
            self.size,
            self.std,
            cluster,
            s.use_individual_emb,
            None if cluster is None else side,
            s.cgae_gate,
            s.gate_hidden,
            self.size if s.r_dim == "m" else 1,
            s.unseen_gate,
        )
