"""RecBole's dataset with exact time, leak-free histories and statistics, and semantic tables."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType, ModelType

from recbole_choir.data.activity import Activity
from recbole_choir.data.clusters.tables import Clusters
from recbole_choir.data.fields import N_BUY
from recbole_choir.data.file_checks import FACTORS, refuse
from recbole_choir.data.lifts import LiftSource
from recbole_choir.data.rows import RowInputs
from recbole_choir.data.schema import FeatureSchema, Field, ModelInputs
from recbole_choir.data.split import ratio_split, time_order
from recbole_choir.data.statistics import ITEM_STAT_NAMES, USER_STAT_NAMES, Events
from recbole_choir.data.table.group_tables import GroupTables, Scale
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.data.table.own_scores import OwnVectors
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.data.table.soft_groups import SoftGroups
from recbole_choir.errors import ConfigError, DataError, TableError, nearest
from recbole_choir.evaluator import Segments
from recbole_choir.file_findings import findings_of, log_findings
from recbole_choir.integration import compat, feature_arrays
from recbole_choir.integration.feature_arrays import has_sampled_negatives, in_share
from recbole_choir.integration.roles import Roles, find_roles
from recbole_choir.integration.zoo_fields import ZooFields
from recbole_choir.table_seal import RowsStamp, check_interactions, stamp_rows

logger = logging.getLogger("recbole_choir")

PARTS = ("train", "valid", "test")
_ROW = "_row"  # helper column that follows the rows through RecBole's own splits


@dataclasses.dataclass
class _Shared:
    """What a dataset and its three parts have in common."""

    time: NDArray[np.float64]
    label: NDArray[np.float32]
    floats: dict[str, NDArray[np.float64]]  # as in the files: NaN where missing, not normalised
    rows: RowInputs | None = None
    inputs: ModelInputs | None = None
    categories: NDArray[np.int64] | None = None
    contexts: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    scales: dict[str, Scale] = dataclasses.field(default_factory=dict)
    zoo_fields: ZooFields | None = None
    lift_ids: dict[str, NDArray[np.int64]] = dataclasses.field(default_factory=dict)
    past: Events | None = None
    splits: list[ChoirDataset] = dataclasses.field(default_factory=list)


class ChoirDataset(Dataset):
    """RecBole's ``Dataset`` for labelled rows with exact time.

    What differs: time stays float64, so order and split are exact (RecBole keeps float32); every
    row gets pointers to its history, as-of statistics and the snapshot it may read; columns that
    must not be features (time, rating, title, fields without a role) are dropped before any model
    sees them. With ``order: RO`` the shuffle and split are RecBole's own, bit for bit.

    Args:
        config: The run's configuration.

    Raises:
        DataError: No usable time or label.
        ConfigError: Roles, split or scope that cannot be.
    """

    # RecBole's models read a float as (value, 1); trees read the value.
    _pairs = True

    def __init__(self, config: Any) -> None:
        compat.apply()
        ZooFields.clear(config)
        self.part: int | None = None
        super().__init__(config)

    # --- loading ---------------------------------------------------------------------------

    def _load_data(self, token: str, dataset_path: str) -> None:
        refuse(log_findings(findings_of(self.config)))
        super()._load_data(token, dataset_path)
        self.inter_feat[self.time_field] /= FACTORS[self.config["time_unit"]]
        self._numbers: list[str] = []
        # Before RecBole numbers the values of what is still a token.
        for field in self.config["numeric_attr_fields"] or ():
            self._read_as_number(str(field))

    def _fields_of_files(self) -> set[str]:
        """Names of the columns of ``.user`` and ``.item``, loaded or not."""
        names: set[str] = set()
        for source in ("user", "item"):
            path = Path(self.dataset_path) / f"{self.dataset_name}.{source}"
            if path.is_file():
                with path.open(encoding=self.config["encoding"]) as file:
                    head = file.readline().rstrip("\n").split(self.config["field_separator"])
                names |= {column.split(":")[0] for column in head}
        return names

    def _read_as_number(self, field: str) -> None:
        """Make a token attribute of users or items a float field: one field, one kind, everywhere.

        Raises:
            ConfigError: No attribute of that name is loaded, or it is a sequence or an id.
            DataError: A value is no finite number.
        """
        ids = (self.uid_field, self.iid_field)
        feats = [feat for feat in (self.user_feat, self.item_feat) if feat is not None]
        known = [str(f) for feat in feats for f in feat if f not in ids]
        if field not in known:
            if field in self._fields_of_files():
                logger.info("numeric_attr_fields: %s is not loaded, nothing to do", field)
                return
            raise ConfigError(
                f"numeric_attr_fields: expected attributes of {self.dataset_name}.user or .item,"
                f" got {field!r}; known: {', '.join(known)}{nearest(field, known)}"
            )
        kind = self.field2type[field]
        if kind == FeatureType.FLOAT:
            return
        if kind != FeatureType.TOKEN:
            raise ConfigError(
                f"numeric_attr_fields: expected a token field, got {field!r} of type {kind.value}"
            )
        feat = next(feat for feat in feats if field in feat)
        values = pd.to_numeric(feat[field], errors="coerce").to_numpy(np.float64)
        bad = feat[field].notna().to_numpy(bool) & ~np.isfinite(values)
        if bad.any():
            raise DataError(
                f"{self.dataset_name}: numeric_attr_fields: expected numbers in {field!r}, got"
                f" {feat[field].to_numpy(object)[bad][0]!r} ({int(bad.sum())} such rows)"
            )
        feat[field] = values
        self._numbers.append(field)
        self.field2type[field] = FeatureType.FLOAT
        self.field2bucketnum[field] = 2
        # RecBole's models pass over a float field that is not named here: they would lose it.
        numerical = list(self.config["numerical_features"] or ())
        if field not in numerical:
            self.config["numerical_features"] = [*numerical, field]

    def _data_processing(self) -> None:
        user = [] if self.user_feat is None else list(self.user_feat)
        item = [] if self.item_feat is None else list(self.item_feat)
        types = {f: t.value for f, t in self.field2type.items()}
        self.roles: Roles = find_roles(self.config, list(self.inter_feat), user, item, types)
        super()._data_processing()
        self._keep_roles()

    def _data_filtering(self) -> None:
        self._keep_user_share()
        super()._data_filtering()

    def _keep_user_share(self) -> None:
        """Drop the users outside ``user_share``, with their rows and attributes."""
        share = float(self.config["user_share"])
        if share == 1:
            return
        if self.benchmark_filename_list is not None:
            raise ConfigError(
                "user_share: expected 1 with benchmark_filename, whose files are the split, got "
                f"{share:g}"
            )
        seed = int(self.config["user_share_seed"])
        before = len(self.inter_feat)
        for name in ("inter_feat", "user_feat"):
            feat = getattr(self, name)
            if feat is not None:
                setattr(self, name, feat[in_share(feat[self.uid_field], share, seed)])
        if not len(self.inter_feat):
            raise ConfigError(
                f"user_share: expected a share that holds users of {self.dataset_name}, got "
                f"{share:g}"
            )
        logger.info(
            "%s: user_share %g, %d of %d rows",
            *(self.dataset_name, share, len(self.inter_feat), before),
        )

    def _filter_inter_by_user_or_item(self) -> None:
        before = len(self.inter_feat)
        super()._filter_inter_by_user_or_item()
        lost = before - len(self.inter_feat)
        if lost:
            logger.warning(
                "%s: %d of %d rows dropped, their user or item has no row in .user or .item"
                " (filter_inter_by_user_or_item: False keeps them)",
                self.dataset_name, lost, before,
            )  # fmt: skip

    def _fill_nan(self) -> None:
        """Keep time and floats as they are in the files, then fill as RecBole does."""
        time = self.inter_feat[self.time_field].to_numpy(np.float64)
        needed = {self.time_field: time}
        source = self.roles.rated or self.label_field
        needed[source] = self.inter_feat[source].to_numpy(np.float64)
        for field, values in needed.items():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            if bad:
                raise DataError(
                    f"{self.dataset_name}.inter: expected {field!r} in every row, got {bad} of"
                    f" {len(values)} without; val_interval: {{{field}: '(-inf,inf)'}} drops them"
                )
        floats = {
            field: feat[field].to_numpy(np.float64).copy()
            for feat, fields in (
                (self.user_feat, self.roles.users),
                (self.item_feat, self.roles.items),
                (self.inter_feat, self.roles.contexts),
            )
            for field in fields
            if self.field2type[field] == FeatureType.FLOAT
        }
        self._shared = _Shared(time.copy(), np.zeros(0, dtype=np.float32), floats)
        super()._fill_nan()

    def _normalize(self) -> None:
        """Keep the label as it is: ``normalize_all`` would turn a constant label into 1.

        What RecBole's models read of a field of ``numeric_attr_fields`` lies in [0, 1], as with
        ``normalize_field``: an age of 40 times a vector would drown all others. Ours read it
        standardised.
        """
        label = self.inter_feat[self.label_field].to_numpy(np.float32).copy()
        if not np.isin(label, (0.0, 1.0)).all():
            got = np.unique(label)[:5].tolist()
            raise DataError(
                f"{self.dataset_name}.inter: expected labels 0 and 1 in {self.label_field!r},"
                f" got {got}; see threshold"
            )
        self._shared.label = label
        super()._normalize()
        scaled = self.config["normalize_field"] or ()
        for field in self._numbers:
            if field in scaled or self.config["normalize_all"]:
                continue
            for feat in self.field2feats(field):
                values = feat[field].to_numpy(np.float64)
                low, high = values.min(), values.max()
                feat[field] = (values - low) / (high - low if high > low else 1.0)
        self.inter_feat[self.label_field] = label.astype(np.float64)

    def _keep_roles(self) -> None:
        """Drop every column that has no role, so that no model of any kind can read it."""
        roles = self.roles
        if roles.category is not None:
            field = roles.category
            ids = self._typed(self.item_feat, field)
            self._shared.categories = ids.reshape(len(ids), -1).numpy()
        for field in self._lift_fields() if "lifts" in self._needs() else ():
            ids = self._typed(self.item_feat, field)
            self._shared.lift_ids[field] = ids.reshape(len(ids), -1).numpy()
        kept = (
            ("inter", {self.uid_field, self.iid_field, self.label_field, *roles.contexts}),
            ("user", {self.uid_field, *roles.users}),
            ("item", {self.iid_field, *roles.items}),
        )
        unused = self.config["unused_col"] or {}
        for source, fields in kept:
            feat = getattr(self, f"{source}_feat")
            for field in [] if feat is None else list(feat):
                if field not in fields or field in unused.get(source, ()):
                    self._del_col(feat, field)

    def _lift_fields(self) -> list[str]:
        """Item fields that lifts are made for: ``lift_fields``, or else the category."""
        wanted, category = self.config["lift_fields"], self.roles.category
        if wanted is None:
            return [] if category is None else [category]
        fields = [] if self.item_feat is None else list(self.item_feat)
        tokens = (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)
        known = [f for f in fields if f != self.iid_field and self.field2type[f] in tokens]
        for field in wanted:
            if field not in known:
                raise ConfigError(
                    f"lift_fields: expected token or token_seq fields of {self.dataset_name}.item,"
                    f" got {field!r}; known: {', '.join(known)}{nearest(str(field), known)}"
                )
        return [str(field) for field in wanted]

    def _drop_unused_col(self) -> None:
        """Done when the roles were applied."""

    def _typed(self, feat: pd.DataFrame, field: str) -> torch.Tensor:
        if self.field2type[field] == FeatureType.TOKEN:
            return feature_arrays.token_array(feat[field], self.num(field), field)
        return feature_arrays.token_seq_array(feat[field], self.field2seqlen[field])

    # --- order and split -------------------------------------------------------------------

    def build(self) -> list[ChoirDataset]:
        """Order, split and compute what each row knows; the parts are made once.

        Returns:
            The training, validation and test dataset.
        """
        if not self._shared.splits:
            frames = self._feature_frames()
            self._change_feat_format()
            self._shared.splits = self._split()
            self._describe(frames)
        return self._shared.splits

    build_splits = build

    def _change_feat_format(self) -> None:
        if isinstance(self.inter_feat, Interaction):
            return
        with warnings.catch_warnings():
            # pandas 3 hands out read-only columns; nothing writes into these tensors.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            super()._change_feat_format()

    def sort(self, by: Any, ascending: Any = True) -> None:
        """Sort by time exactly, by anything else as RecBole does."""
        if by != self.time_field:
            super().sort(by, ascending)
        elif _ROW not in self.inter_feat:
            raise DataError("sort: the rows were ordered by exact time when the dataset was built")
        else:
            self.inter_feat._reindex(torch.from_numpy(time_order(self._shared.time)))

    def _split(self) -> list[ChoirDataset]:
        """RecBole's parts; the global split in time is made on exact stamps."""
        self.inter_feat[_ROW] = torch.arange(len(self.inter_feat))
        arguments = self.config["eval_args"]
        mode, ratios = _split_mode(arguments["split"])
        grouped = str(arguments["group_by"]).lower() != "none"
        ours = self.benchmark_filename_list is None and arguments["order"] == "TO" and not grouped
        if ours and mode == "RS":
            self.sort(self.time_field)
            stamps = np.sort(self._shared.time)
            parts = [self.copy(self.inter_feat[s]) for s in ratio_split(stamps, ratios)]
        else:
            parts = super().build()
        if len(parts) != len(PARTS):
            raise ConfigError(f"eval_args.split: expected {len(PARTS)} parts, got {len(parts)}")
        return parts

    def _feature_frames(self) -> tuple[pd.DataFrame, ...]:
        """Shallow copies of the frames: RecBole turns them into tensors without types."""
        feats = (self.user_feat, self.item_feat, self.inter_feat)
        return tuple(pd.DataFrame() if f is None else f.copy(deep=False) for f in feats)

    def _describe(self, frames: tuple[pd.DataFrame, ...]) -> None:
        """Compute the inputs of all rows and of all models."""
        shared, config = self._shared, self.config
        order = time_order(shared.time)
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        user, item = (frames[2][f].to_numpy(np.int64) for f in (self.uid_field, self.iid_field))
        events = Events(user[order], item[order], shared.time[order], shared.label[order])
        parts = []
        for number, split in enumerate(shared.splits):
            split.part = number
            parts.append(position[split.inter_feat[_ROW].numpy()])
            del split.inter_feat[_ROW]
        if _ROW in self.inter_feat:
            del self.inter_feat[_ROW]
        shared.rows = RowInputs.build(
            events,
            parts,
            config["history_scope"] or "auto",
            shared.categories,
            bool(config["labelled_history"]),
            self._past_events(),
            config["stats_clip"],
        )
        train = parts[0]
        self._contexts(frames[2], order, train)
        users = self._features(frames[0], self.roles.users, events.user[train])
        items = self._features(frames[1], self.roles.items, events.item[train])
        categories = shared.categories
        shared.inputs = ModelInputs(
            schema=FeatureSchema(
                n_users=self.user_num,
                n_items=self.item_num,
                user_attrs=self._schema(users),
                item_attrs=self._schema(items),
                contexts=self._schema(shared.contexts),
                user_stat_names=USER_STAT_NAMES,
                item_stat_names=ITEM_STAT_NAMES,
            ),
            user_features=users,
            item_features=items,
            item_categories=None if categories is None else torch.from_numpy(categories),
            sampled_negatives=has_sampled_negatives(config["sampled_negatives"], self.dataset_path),
            theta_act=shared.rows.theta_act,
            history_length=int(config["history_length"]),
        )
        if "activity" in self._needs():
            shared.inputs.activity = self._activity()
        self._inject()

    def _past_events(self) -> Events | None:
        """Positives that are no rows: ``<dataset>.<history_file>``, in the order of time."""
        suffix = self.config["history_file"]
        if suffix is None:
            return None
        shared, names = self._shared, (self.uid_field, self.iid_field, self.time_field)
        path = Path(self.dataset_path) / f"{self.dataset_name}.{suffix}"
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        frame = feature_arrays.read_atomic(path, names, separator, encoding)
        ids = [frame[f].map(self.field2token_id[f]).to_numpy(np.float64) for f in names[:2]]
        stamps = frame[str(self.time_field)]
        time = np.asarray(pd.to_numeric(stamps, errors="coerce"), dtype=np.float64)
        time = time / FACTORS[self.config["time_unit"]]
        good = np.isfinite(ids[0]) & np.isfinite(ids[1]) & np.isfinite(time)
        logger.info(
            "%s: %d positives that are no rows, %d left out (user or item unknown, or no time)",
            path.name, np.count_nonzero(good), np.count_nonzero(~good),
        )  # fmt: skip
        order = np.flatnonzero(good)[time_order(time[good])]
        user, item = (v[order].astype(np.int64) for v in ids)
        shared.past = Events(user, item, time[order], np.ones(len(order), dtype=np.float32))
        return shared.past

    def _features(
        self, feat: pd.DataFrame, fields: tuple[str, ...], seen: NDArray[np.int64]
    ) -> dict[str, torch.Tensor]:
        """Attributes by internal id; floats are standardised over the training rows ``seen``."""
        out = {}
        for field in fields:
            kind = self.field2type[field]
            if kind == FeatureType.FLOAT:
                values = self._shared.floats[field]
                self._shared.scales[field] = feature_arrays.fit_scale(values[seen])
                out[field] = feature_arrays.standardized(values, values[seen])
            elif kind == FeatureType.FLOAT_SEQ:
                logger.info("%s: float_seq fields are read by RecBole's models only", field)
            else:
                out[field] = self._typed(feat, field)
        return out

    def _contexts(
        self, feat: pd.DataFrame, order: NDArray[np.int64], train: NDArray[np.int64]
    ) -> None:
        for field in self.roles.contexts:
            kind = self.field2type[field]
            if kind == FeatureType.FLOAT:
                values = self._shared.floats[field][order]
                self._shared.contexts[field] = feature_arrays.standardized(values, values[train])
            elif kind == FeatureType.FLOAT_SEQ:
                raise ConfigError(
                    f"context_fields: expected token or float, got {field} (float_seq)"
                )
            else:
                self._shared.contexts[field] = self._typed(feat, field)[torch.from_numpy(order)]

    def _schema(self, features: dict[str, torch.Tensor]) -> tuple[Field, ...]:
        return tuple(
            Field(f, "float", 1)
            if v.is_floating_point()
            else Field(f, "token" if v.dim() == 1 else "token_seq", self.num(f))
            for f, v in features.items()
        )

    # --- what others read ------------------------------------------------------------------

    @property
    def model_inputs(self) -> ModelInputs:
        """Features of users and items, group tables and sizes; after :meth:`build`."""
        if self._shared.inputs is None:
            raise DataError("model_inputs: expected a built dataset, call build() first")
        return self._shared.inputs

    @property
    def row_inputs(self) -> RowInputs:
        """History, statistics and snapshots of all rows, in the order of time."""
        if self._shared.rows is None:
            raise DataError("row_inputs: expected a built dataset, call build() first")
        return self._shared.rows

    @property
    def zoo_fields(self) -> ZooFields | None:
        """What is added to the batches of RecBole's own models, if anything."""
        return self._shared.zoo_fields

    @property
    def contexts(self) -> dict[str, torch.Tensor]:
        """Context fields of all rows, in the order of time."""
        return self._shared.contexts

    def split_sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {name: len(p) for name, p in zip(PARTS, self.row_inputs.parts)}

    def train_events(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Users, items (internal ids) and labels of the training rows, in the order of time."""
        train = self.row_inputs.events.take(np.sort(self.row_inputs.parts[0]))
        return train.user, train.item, train.label

    def positives_before(self, part: str) -> NDArray[np.float32]:
        """Positives of each row's user strictly before it, ``[n]``, in the order of a part's rows.

        Args:
            part: ``train``, ``valid`` or ``test``.
        """
        rows = self.row_inputs
        return rows.columns[N_BUY][rows.parts[PARTS.index(part)]]

    def semantic_frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """What a semantic table may be made from, with raw ids.

        Returns:
            ``interactions``: user_id, item_id, timestamp (float64) and label of the TRAINING rows
            and of the positives of ``history_file`` up to the last of them.
            ``users``: user_id and the user attributes of every user of the vocabulary: texts as in
            the file, None where missing; float fields as numbers. ``items``: item_id, title (text),
            category (list of texts) and the other item attributes, of every item.
        """
        train = self.row_inputs.known_in_training(self._shared.past)
        users, items = (self.field2id_token[f] for f in (self.uid_field, self.iid_field))
        interactions = pd.DataFrame(
            {
                "user_id": users[train.user].astype(object),
                "item_id": items[train.item].astype(object),
                "timestamp": train.time,
                "label": train.label.astype(np.int64),
            }
        )
        people = self._raw_frame("user", self.uid_field, self.roles.users, users[1:])
        things = self._raw_frame("item", self.iid_field, self.roles.items, items[1:])
        out = pd.DataFrame({"item_id": things[self.iid_field]})
        roles = self.roles
        if roles.title is not None:
            text = self._raw_frame("item", self.iid_field, (roles.title,), items[1:])
            out["title"] = text[roles.title]
        if roles.category is not None:
            raw = self._raw_frame("item", self.iid_field, (roles.category,), items[1:])
            out["category"] = self._lists(raw[roles.category], roles.category)
        for field in roles.items:
            if field not in (roles.category, "item_id", "title", "category"):
                out[field] = things[field]
        return interactions, people.rename(columns={self.uid_field: "user_id"}), out

    def _raw_frame(
        self, source: str, id_field: str, fields: tuple[str, ...], ids: NDArray[Any]
    ) -> pd.DataFrame:
        """Columns of an atomic file for all ids of a vocabulary, as they are in the file."""
        if not fields:
            return pd.DataFrame({id_field: ids.astype(object)})
        path = Path(self.dataset_path) / f"{self.dataset_name}.{source}"
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        frame = feature_arrays.read_atomic(path, (id_field, *fields), separator, encoding)
        frame = feature_arrays.aligned(frame, id_field, ids.astype(object))
        for field in fields:
            if self.field2type.get(field) == FeatureType.FLOAT:
                # whole numbers too: what is no float column is a token to the semantic stage
                frame[field] = pd.to_numeric(frame[field]).astype(np.float64)
        return frame

    def _lists(self, values: pd.Series, field: str) -> list[list[str]]:
        """Categories of each item as a list: the tokens of a token_seq field, or the one token."""
        header = feature_arrays.read_header(
            Path(self.dataset_path) / f"{self.dataset_name}.item",
            self.config["field_separator"],
            self.config["encoding"],
        )
        if header[field] == "token_seq":
            separator = self.config["seq_separator"]
            return [[] if v is None else list(filter(None, v.split(separator))) for v in values]
        return [[] if v is None else [v] for v in values]

    # --- the semantic table ----------------------------------------------------------------

    def needs_semantic_table(self) -> bool:
        """Whether anything in this run reads a semantic table."""
        return bool(self._needs() - {"activity"})

    def _needs(self) -> frozenset[str]:
        """What a run reads of a semantic table, and ``activity``, of the rows.

        Of groups, group_stats, lifts, own_scores, items, cross_stats and clusters.
        """
        injected = set() if _reads_tables(self.config) else set(self.config["inject"] or ())
        needs = {"groups"} if injected & {"group_id", "group_attr", "group_seq"} else set()
        if self.config["group_stats"] or "group_stats" in injected:
            needs |= {"groups", "group_stats"}
        needs |= injected & {"lifts", "own_scores"}
        asked = getattr(self.config.model_class, "needs", None)
        needs |= set(asked(self.config)) if asked is not None else set()
        if "clusters" in needs:
            needs |= {"groups", "items", "cross_stats"}
        if needs & {"lifts", "own_scores"}:
            needs.add("groups")
        return frozenset(needs)

    def attach_semantic_table(self, path: str | Path) -> None:
        """Load, check and join a semantic table; after :meth:`build`, before the loaders.

        Args:
            path: The table's folder.

        Raises:
            TableError: The table is damaged, of another dataset, lacks what the model needs, or
                knows what it must not.
        """
        rows, inputs, needs = self.row_inputs, self.model_inputs, self._needs()
        attributes: dict[str, Any] = {}
        for field in inputs.schema.user_attrs:
            known = self.field2token_id.get(field.name)
            attributes[field.name] = self._shared.scales[field.name] if known is None else known
        table = SemanticTable.load(path)
        self._check_interactions(table)
        groups = GroupTables.join(
            table,
            self.field2id_token[self.uid_field],
            self.field2id_token[self.iid_field],
            attributes,
            rows.first_validation_time,
        )
        rows.attach_snapshots(groups)
        inputs.groups = groups
        prior = float(self.config["group_stats_prior"])
        if "group_stats" in needs:
            names = rows.attach_group_statistics(groups, self._shared.categories, prior)
            inputs.schema = dataclasses.replace(inputs.schema, group_stat_names=names)
        if needs & {"lifts", "own_scores"}:
            self._attach_soft(table, needs)
        if needs & {"items", "cross_stats"}:
            inputs.items = ItemTables.join(table, self.field2id_token[self.iid_field])
            if "cross_stats" in needs:
                names = rows.attach_cross_statistics(groups, inputs.items, prior)
                inputs.schema = dataclasses.replace(inputs.schema, cross_stat_names=names)
            if "clusters" in needs:
                inputs.clusters = self._clusters(groups, inputs.items)
        self._inject()

    def interaction_stamps(self, moments: Sequence[float]) -> list[RowsStamp]:
        """What a semantic table may know, counted and fingerprinted strictly before each moment.

        These are the interactions of :meth:`semantic_frames`.

        Args:
            moments: Epoch seconds, rising.
        """
        return self._stamps(self.row_inputs.known_in_training(self._shared.past), moments)

    def fingerprint(self) -> dict[str, str]:
        """What tells the rows of each part from others: a run goes on from a checkpoint of these.

        Returns:
            Part -> how many rows, and their fingerprint.
        """
        rows, end = self.row_inputs, [math.inf]
        found = [self._stamps(rows.events.take(part), end)[0] for part in rows.parts]
        return {name: f"{one.rows}:{one.fingerprint}" for name, one in zip(PARTS, found)}

    def _stamps(self, rows: Events, moments: Sequence[float]) -> list[RowsStamp]:
        users, items = (self.field2id_token[f] for f in (self.uid_field, self.iid_field))
        return stamp_rows(users, items, rows.user, rows.item, rows.time, rows.label, moments)

    def _check_interactions(self, table: SemanticTable) -> None:
        if table.made_from is None:
            return
        times = table.snapshot_times.tolist()
        check_interactions(table.path, times, table.made_from, self.interaction_stamps(times))

    def needs_soft_groups(self) -> bool:
        """Whether anything in this run reads soft groups."""
        return bool(self._needs() & {"lifts", "own_scores"})

    def _attach_soft(self, table: SemanticTable, needs: frozenset[str]) -> None:
        """Describe the rows by the table's soft groups."""
        if table.soft is None:
            raise TableError(
                f"{table.path}: expected soft groups (semantic_recipe: soft makes them), found none"
            )
        rows, inputs, config = self.row_inputs, self.model_inputs, self.config
        users = self.field2id_token[self.uid_field]
        if "lifts" in needs:
            ids = self._shared.lift_ids
            names = rows.attach_lifts(
                SoftGroups.join(table.soft, table, users),
                table.snapshot_times,
                [LiftSource("item", None), *(LiftSource(f, v) for f, v in ids.items())],
                float(config["lift_prior"]),
                config["lift_refresh_days"],
                self._shared.past,
                bool(config["lift_mass"]),
            )
            inputs.schema = dataclasses.replace(inputs.schema, lift_names=names)
        if "own_scores" in needs:
            items = self.field2id_token[self.iid_field]
            names = rows.attach_own_scores(OwnVectors.join(table.soft, table, users, items))
            inputs.schema = dataclasses.replace(inputs.schema, own_score_names=names)

    def _segments(self) -> Segments:
        """Head and tail as the evaluation defines them, by the training rows."""
        return Segments.fit(
            *self.train_events(),
            self.user_num,
            self.item_num,
            tail_user=self.config["tail_user"],
            tail_item=self.config["tail_item"],
        )

    def _activity(self) -> Activity:
        user, item, _ = self.train_events()
        segments = self._segments()
        return Activity.count(user, item, segments.tail_user, segments.tail_item)

    def _clusters(self, groups: GroupTables, items: ItemTables) -> Clusters:
        """Clusters of users and items; head and tail are those of the evaluation."""
        config, segments = self.config, self._segments()
        return Clusters.build(
            groups,
            items,
            self.row_inputs,
            segments.tail_user,
            segments.tail_item,
            int(config["cluster_sequence_length"]),
            int(config["cluster_min_support"]),
        )

    def _inject(self) -> None:
        """Register what RecBole's own models are given on top of the dataset's fields."""
        wanted = list(self.config["inject"] or ())
        if not wanted:
            return
        if _reads_tables(self.config):
            logger.warning(
                "inject: %s reads the tables itself, nothing is added", self.config["model"]
            )
            return
        if self._shared.zoo_fields is None:
            self._shared.zoo_fields = ZooFields(wanted, pairs=self._pairs)
        self._shared.zoo_fields.register(self)


class ChoirTreeDataset(ChoirDataset):
    """The dataset of LightGBM and XGBoost.

    RecBole's ``DecisionTreeDataset`` turns tokens into one-hot columns and drops lists; the tree
    trainers here read lists as one column a token and ids as they are.

    Raises:
        ConfigError: ``convert_token_to_onehot`` is set.
    """

    _pairs = False

    def __init__(self, config: Any) -> None:
        if config["convert_token_to_onehot"]:
            raise ConfigError(
                "convert_token_to_onehot: expected False, got True; list fields become one column a"
                " token already, and ids stay numbers"
            )
        self.convert_col_list: list[str] = []
        self.hash_count: dict[str, int] = {}
        super().__init__(config)


def create_dataset(config: Any) -> ChoirDataset:
    """Load the dataset of a run.

    Args:
        config: The run's configuration.

    Raises:
        ConfigError: The model is neither context-aware nor a tree.
        DataError: The files or their columns are not what they should be.
    """
    kind = config["MODEL_TYPE"]
    if kind == ModelType.DECISIONTREE:
        return ChoirTreeDataset(config)
    if kind != ModelType.CONTEXT:
        raise ConfigError(
            f"model: expected a context-aware or tree model, got {config['model']} ({kind})"
        )
    return ChoirDataset(config)


def _reads_tables(config: Any) -> bool:
    return bool(getattr(config.model_class, "reads_model_inputs", False))


def _split_mode(split: dict[str, Any]) -> tuple[str, list[float]]:
    """Mode and ratios of ``eval_args.split``."""
    ((mode, value),) = split.items()
    return mode, value if mode == "RS" else []
