"""Fields of the table and statistics for the models of RecBole's zoo (``inject``).

RecBole's context-aware models embed every field they find in the dataset. The fields here are
registered there, but no column is stored: their values are gathered for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_choir.data import fields
from recbole_choir.data.schema import ModelInputs
from recbole_choir.errors import ConfigError

GROUP_ID, GROUP_ATTR, GROUP_SEQ = "group_id", "group_attr", "group_seq"
GROUP_STATS, ACTIVITY = "group_stats", "activity"
LIFTS, OWN_SCORES = "lifts", "own_scores"
_REGISTERED = "injected_fields"  # key of the config that lists the names in numerical_features


class ZooFields:
    """The fields that ``inject`` asks for, for one dataset and its batches.

    Args:
        wanted: Of group_id, group_attr, group_seq, group_stats, lifts, own_scores and activity.
        pairs: Give floats as RecBole's models read them, ``[B, 2]`` of value and 1.
    """

    def __init__(self, wanted: Sequence[str], pairs: bool = True) -> None:
        self.wanted = tuple(wanted)
        self.pairs = pairs
        self.token_fields: list[str] = []
        self.float_fields: dict[str, list[str]] = {}  # batch field -> names of its columns
        self._groups_registered = False
        self._activity_registered = False

    def register(self, dataset: Any) -> None:
        """Make the fields known to ``dataset``; those of groups once a table is attached."""
        inputs: ModelInputs = dataset.model_inputs
        schema = inputs.schema
        if ACTIVITY in self.wanted and not self._activity_registered:
            self._floats(dataset, fields.USER_STATS, schema.user_stat_names, FeatureSource.USER)
            self._floats(dataset, fields.ITEM_STATS, schema.item_stat_names, FeatureSource.ITEM)
            self._activity_registered = True
        if inputs.groups is None or self._groups_registered:
            return
        self._groups_registered = True
        if GROUP_ID in self.wanted:
            for level, k in enumerate(inputs.groups.n_codes, 1):
                tokens = np.array(["[PAD]", *map(str, range(k))])
                self._tokens(dataset, f"{GROUP_ID}_{level}", tokens, FeatureType.TOKEN)
        if GROUP_ATTR in self.wanted:
            for name, values in inputs.groups.group_attr.items():
                if values.is_floating_point():
                    self._float(dataset, f"{GROUP_ATTR}_{name}", FeatureSource.USER)
                    continue
                tokens = dataset.field2id_token[name]
                self._tokens(dataset, f"{GROUP_ATTR}_{name}", tokens, FeatureType.TOKEN)
        if GROUP_SEQ in self.wanted:
            tokens = dataset.field2id_token[dataset.iid_field]
            length = int(inputs.groups.group_seq.shape[1])
            self._tokens(dataset, GROUP_SEQ, tokens, FeatureType.TOKEN_SEQ, length)
        if GROUP_STATS in self.wanted:
            names = schema.group_stat_names
            self._floats(dataset, fields.GROUP_STATS, names, FeatureSource.INTERACTION)
        for wanted, field, names in (
            (LIFTS, fields.LIFTS, schema.lift_names),
            (OWN_SCORES, fields.OWN_SCORES, schema.own_score_names),
        ):
            if wanted in self.wanted:
                self._floats(dataset, field, names, FeatureSource.INTERACTION)

    @staticmethod
    def clear(config: Any) -> None:
        """Take back what an earlier dataset of the same config has registered in it."""
        earlier = set(config[_REGISTERED] or ())
        if earlier:
            numerical = config["numerical_features"]
            config["numerical_features"] = [n for n in numerical if n not in earlier]
            config[_REGISTERED] = []

    def check(self, inputs: ModelInputs) -> None:
        """Refuse to go on without the table that a wanted field needs.

        Raises:
            ConfigError: No semantic table is attached.
        """
        needing = [w for w in self.wanted if w != ACTIVITY]
        if needing and inputs.groups is None:
            raise ConfigError(
                f"inject: {', '.join(needing)} expects a semantic table, got semantic_table: none"
            )

    def gather(self, batch: dict[str, torch.Tensor], inputs: ModelInputs, uid: str) -> None:
        """Add the fields to a batch.

        Args:
            batch: Has the users, the snapshots and the statistics of the batch's rows; the latter
                are split into one field a column.
            inputs: On the batch's device.
            uid: Name of the user field.
        """
        groups = inputs.groups
        if groups is not None:
            snapshot, user = batch[fields.SNAPSHOT], batch[uid]
            if GROUP_ID in self.wanted:
                codes = groups.codes_of(snapshot, user)  # [B, M]
                for level in range(codes.shape[1]):
                    batch[f"{GROUP_ID}_{level + 1}"] = codes[:, level]
            if GROUP_ATTR in self.wanted or GROUP_SEQ in self.wanted:
                row = groups.group_of(snapshot, user)  # [B]
                if GROUP_ATTR in self.wanted:
                    for name, values in groups.group_attr.items():
                        value = values[row]
                        if value.is_floating_point():
                            value = self._float_value(value)
                        batch[f"{GROUP_ATTR}_{name}"] = value
                if GROUP_SEQ in self.wanted:
                    batch[GROUP_SEQ] = groups.group_seq[row].long()
        for source, names in self.float_fields.items():
            values = self._float_value(batch.pop(source))  # [B, p, 2] or [B, p]
            for column, name in enumerate(names):
                batch[name] = values[:, column]
        batch.pop(fields.SNAPSHOT, None)

    def _float_value(self, value: torch.Tensor) -> torch.Tensor:
        """``[...]`` as it is, or ``[..., 2]``: the value, and 1."""
        return torch.stack([value, torch.ones_like(value)], dim=-1) if self.pairs else value

    def _tokens(
        self, dataset: Any, name: str, tokens: Any, kind: FeatureType, length: int = 1
    ) -> None:
        self._new(dataset, name)
        dataset.set_field_property(name, kind, FeatureSource.USER, length)
        dataset.field2id_token[name] = tokens
        self.token_fields.append(name)

    def _floats(
        self, dataset: Any, batch_field: str, columns: Sequence[str], source: FeatureSource
    ) -> None:
        names = [f"{batch_field}_{c}" for c in columns]
        for name in names:
            self._float(dataset, name, source)
        self.float_fields[batch_field] = names

    def _float(self, dataset: Any, name: str, source: FeatureSource) -> None:
        self._new(dataset, name)
        dataset.set_field_property(name, FeatureType.FLOAT, source, 1)
        # RecBole embeds a float as value x the row that its second entry names: (value, 1).
        dataset.field2bucketnum[name] = 2
        config = dataset.config
        config["numerical_features"] = [*(config["numerical_features"] or []), name]
        config[_REGISTERED] = [*(config[_REGISTERED] or []), name]

    def _new(self, dataset: Any, name: str) -> None:
        if name in dataset.field2type:
            raise ConfigError(
                f"inject: the dataset has a field '{name}' already, expected a free name"
            )
