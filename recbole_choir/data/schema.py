"""What a model may read: the typed features of users, items and context, and the group tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from recbole_choir.data.activity import Activity
    from recbole_choir.data.clusters.tables import Clusters
    from recbole_choir.data.table.group_tables import GroupTables
    from recbole_choir.data.table.item_tables import ItemTables

Kind = Literal["token", "token_seq", "float"]


@dataclass(frozen=True)
class Field:
    """One feature field.

    Args:
        name: The field's name in the dataset.
        kind: ``token`` (one id), ``token_seq`` (several ids, 0-padded) or ``float``.
        size: Vocabulary size including the padding id 0; 1 for ``float``.
    """

    name: str
    kind: Kind
    size: int


@dataclass(frozen=True)
class FeatureSchema:
    """Sizes and fields of a dataset, as all models of this package share them.

    Args:
        n_users, n_items: Vocabulary sizes including the padding id 0.
        user_attrs, item_attrs, contexts: Fields by their source.
        user_stat_names, item_stat_names, group_stat_names, cross_stat_names, lift_names,
            own_score_names: Columns of the as-of statistics.
    """

    n_users: int
    n_items: int
    user_attrs: tuple[Field, ...] = ()
    item_attrs: tuple[Field, ...] = ()
    contexts: tuple[Field, ...] = ()
    user_stat_names: tuple[str, ...] = ()
    item_stat_names: tuple[str, ...] = ()
    group_stat_names: tuple[str, ...] = ()
    cross_stat_names: tuple[str, ...] = ()
    lift_names: tuple[str, ...] = ()
    own_score_names: tuple[str, ...] = ()


@dataclass
class ModelInputs:
    """Everything a model reads besides its batches; lives once, on the training device.

    Args:
        schema: Sizes and fields.
        user_features: Field name to ``[n_users]`` (token: int64, float: float32 standardised) or
            ``[n_users, k]`` (token_seq: int64, 0-padded).
        item_features: The same for items.
        groups: The group-level arrays, or None without a semantic table.
        items: Semantic ids and content vectors of items, or None where nothing asked for them.
        clusters: Members, behaviour and activity of user and item clusters, or None.
        activity: Training rows and tail flags by id, or None where nothing asked for them.
        item_categories: ``int64 [n_items, k]`` category ids of each item, 0-padded, or None.
        sampled_negatives: Rows with label 0 were drawn, not shown to the user: no model may take
            them for observed behaviour.
        theta_act: 80th percentile of the positives per user in the training rows (docs/gaps.md C5).
        history_length: L, the longest history in a batch.
    """

    schema: FeatureSchema
    user_features: dict[str, torch.Tensor] = field(default_factory=dict)
    item_features: dict[str, torch.Tensor] = field(default_factory=dict)
    groups: GroupTables | None = None
    items: ItemTables | None = None
    clusters: Clusters | None = None
    activity: Activity | None = None
    item_categories: torch.Tensor | None = None
    sampled_negatives: bool = False
    theta_act: float = 1.0
    history_length: int = 50

    def to(self, device: torch.device | str) -> ModelInputs:
        """Move all tensors to ``device``, in place, so that everybody who holds this sees it."""
        self.user_features = {n: v.to(device) for n, v in self.user_features.items()}
        self.item_features = {n: v.to(device) for n, v in self.item_features.items()}
        if self.groups is not None:
            self.groups = self.groups.to(device)
        if self.items is not None:
            self.items = self.items.to(device)
        if self.clusters is not None:
            self.clusters = self.clusters.to(device)
        if self.activity is not None:
            self.activity = self.activity.to(device)
        if self.item_categories is not None:
            self.item_categories = self.item_categories.to(device)
        return self
