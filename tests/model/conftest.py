"""Small fakes of a dataset and its batches for the tests of the models.

They are fakes: plain namespaces with the attributes that a model reads, not RecBole datasets.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.data.activity import Activity
from recbole_choir.data.clusters.behaviour import ClusterBehaviour
from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.clusters.tables import Clusters
from recbole_choir.data.rows import RowInputs
from recbole_choir.data.schema import FeatureSchema, Field, ModelInputs
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.model.context_aware_recommender.aktrec import AKTRec
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.context_aware_recommender.base_mm import BaseMM
from recbole_choir.model.context_aware_recommender.choirrec import ChoirRec

N_USERS, N_ITEMS, N_GROUPS, N_SNAPSHOTS, L, L_G = 30, 40, 7, 2, 6, 5
N_CODES = [3, 4, 5]

SCHEMA = FeatureSchema(
    n_users=N_USERS,
    n_items=N_ITEMS,
    user_attrs=(
        Field("gender", "token", 3),
        Field("age", "float", 1),
        Field("hobbies", "token_seq", 6),
    ),
    item_attrs=(
        Field("type", "token", 5),  # a name that nn.ModuleDict would refuse
        Field("genre", "token_seq", 8),
        Field("price", "float", 1),
    ),
    contexts=(Field("hour", "token", 4), Field("discount", "float", 1)),
    user_stat_names=tuple(f"u{i}" for i in range(5)),
    item_stat_names=tuple(f"i{i}" for i in range(4)),
    group_stat_names=tuple(f"g{i}" for i in range(6)),
    lift_names=tuple(f"l{i}" for i in range(3)),
    own_score_names=("s0", "s1"),
)


def _ids(rng: torch.Generator, high: int, *shape: int, low: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=rng)


def _features(rng: torch.Generator, fields: tuple[Field, ...], n: int) -> dict[str, torch.Tensor]:
    out = {}
    for f in fields:
        if f.kind == "float":
            out[f.name] = torch.randn(n, generator=rng)
        elif f.kind == "token":
            out[f.name] = _ids(rng, f.size, n)
        else:
            out[f.name] = _ids(rng, f.size, n, 3)
        out[f.name][0] = 0
    return out


def make_groups(seed: int = 0) -> GroupTables:
    """Group tables made by hand: 2 snapshots, 6 groups and the empty one."""
    rng = torch.Generator().manual_seed(seed)
    user_group = _ids(rng, N_GROUPS, N_SNAPSHOTS + 1, N_USERS).int()
    user_codes = torch.stack(
        [_ids(rng, k + 1, N_SNAPSHOTS + 1, N_USERS, low=1) for k in N_CODES], dim=-1
    ).int()
    user_group[0] = 0
    user_group[:, 0] = 0
    user_codes[user_group == 0] = 0
    group_seq = _ids(rng, N_ITEMS, N_GROUPS, L_G, low=1).int()
    group_seq[:, -1] = 0
    group_seq[0] = 0
    attrs = {
        "gender": _ids(rng, 3, N_GROUPS),
        "age": torch.randn(N_GROUPS, generator=rng),
        "hobbies": _ids(rng, 6, N_GROUPS),
    }
    for values in attrs.values():
        values[0] = 0
    return GroupTables(
        user_group=user_group,
        user_codes=user_codes,
        n_codes=N_CODES,
        group_attr=attrs,
        group_seq=group_seq,
        group_size=torch.arange(N_GROUPS),
        snapshot_times=torch.arange(1.0, N_SNAPSHOTS + 1, dtype=torch.float64),
        fingerprint="0" * 16,
    )


N_ROWS, N_TRAIN = 500, 400


def make_rows(seed: int = 0) -> RowInputs:
    """Rows of users and items with few and many of them, in the order of time."""
    rng = np.random.default_rng(seed)
    user = np.minimum(rng.geometric(0.12, N_ROWS), N_USERS - 3)  # the last two have no row
    item = np.minimum(rng.geometric(0.1, N_ROWS), N_ITEMS - 5)  # the last four have no row
    label = (rng.random(N_ROWS) < 0.6).astype(np.float32)
    events = Events(user, item, np.arange(N_ROWS, dtype=np.float64), label)
    parts = np.split(np.arange(N_ROWS), [N_TRAIN, N_TRAIN + 50])
    rows = RowInputs.build(events, parts)
    rows.columns["snapshot"] = np.arange(N_ROWS) * (N_SNAPSHOTS + 1) // N_ROWS
    return rows


def make_activity(rows: RowInputs) -> Activity:
    """Tail: users with fewer than 15 training rows, items with fewer than 10."""
    train = rows.events.take(rows.parts[0])
    few = [
        np.bincount(ids, minlength=n) < limit
        for ids, n, limit in ((train.user, N_USERS, 15), (train.item, N_ITEMS, 10))
    ]
    return Activity.count(train.user, train.item, *few)


def make_dataset(seed: int = 0, groups: Any = "some") -> SimpleNamespace:
    """A fake of a ChoirDataset: only its ``model_inputs`` and ``row_inputs``."""
    rng = torch.Generator().manual_seed(seed)
    rows = make_rows(seed)
    inputs = ModelInputs(
        schema=SCHEMA,
        user_features=_features(rng, SCHEMA.user_attrs, N_USERS),
        item_features=_features(rng, SCHEMA.item_attrs, N_ITEMS),
        groups=make_groups(seed) if groups == "some" else groups,
        theta_act=4.0,
        history_length=L,
        activity=make_activity(rows),
    )
    return SimpleNamespace(model_inputs=inputs, row_inputs=rows)


AKT_CODES = [2, 3, 2]
AKT_VECTOR = 6
L_C = 4
CROSS_NAMES = (
    "cross_cluster_log_exposures",
    "cross_cluster_log_positives",
    "cross_cluster_lift",
    "cross_own_cluster_log_positives",  # not of A19
    "cross_own_code_1_log_positives",
    "cross_own_code_2_log_positives",
    "cross_own_category_log_positives",
)
UNSEEN_USERS, UNSEEN_ITEMS = (28, 29), (36, 37, 38, 39)


def _clusters_of(
    rng: torch.Generator, n: int, n_clusters: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster rows ``[S + 1, n]``, a snapshot's own, and the codes they stand for."""
    which = _ids(rng, n_clusters + 1, N_SNAPSHOTS + 1, n)  # 0: none
    which[0] = 0
    which[:, 0] = 0
    shift = (torch.arange(N_SNAPSHOTS + 1) - 1).clamp_min(0).unsqueeze(1) * n_clusters
    cluster = torch.where(which > 0, which + shift, 0)
    number = which - 1
    codes = torch.stack(
        [number % 2 + 1, number // 2 % 3 + 1, (number == 0).long() + 1], dim=-1
    )  # distinct tuples of AKT_CODES for up to six clusters
    codes[which == 0] = 0
    return cluster.int(), codes.int()


def _side(
    rng: torch.Generator, cluster: torch.Tensor, codes: torch.Tensor, p: int, unseen: Any, n_g: int
) -> ClusterSide:
    n = cluster.shape[1]
    stats = torch.randn(N_SNAPSHOTS + 1, n, p, generator=rng)
    stats[0] = stats[0, :1] - 3  # an id without events
    rows = _ids(rng, 40, n, low=1)
    rows[list(unseen)] = 0
    rows[0] = 0
    tail = rows < 20
    log = (stats[..., 0] - stats[0, :, 0]).clamp_min(0)
    return ClusterSide.build(
        cluster, codes, 1 + N_SNAPSHOTS * n_g, stats, rows.numpy(), tail.numpy(), log_exposures=log
    )


def make_akt_dataset(seed: int = 0) -> SimpleNamespace:
    """A fake of a ChoirDataset with all that AKTRec reads: 4 user and 6 item clusters a snapshot.

    Some ids have no cluster, some items no vector, some ids no training row, and snapshot 0 has
    nothing, as in a real one.
    """
    dataset = make_dataset(seed, groups=None)
    inputs = dataset.model_inputs
    rng = torch.Generator().manual_seed(seed + 100)
    user_cluster, user_codes = _clusters_of(rng, N_USERS, 4)
    item_cluster, item_codes = _clusters_of(rng, N_ITEMS, 6)
    n_groups, n_item_clusters = 1 + N_SNAPSHOTS * 4, 1 + N_SNAPSHOTS * 6
    sequence = _ids(rng, N_ITEMS, n_groups, L_G, low=1).int()
    sequence[0] = 0
    inputs.groups = GroupTables(
        user_group=user_cluster,
        user_codes=user_codes,
        n_codes=AKT_CODES,
        group_attr={},
        group_seq=sequence,
        group_size=torch.ones(n_groups, dtype=torch.long),
        snapshot_times=torch.arange(1.0, N_SNAPSHOTS + 1, dtype=torch.float64),
        fingerprint="1" * 16,
    )
    vector = torch.arange(N_SNAPSHOTS * N_ITEMS).view(N_SNAPSHOTS, N_ITEMS) + 1
    vector = torch.cat([torch.zeros(1, N_ITEMS, dtype=torch.long), vector])
    vector[:, 0] = 0
    vector[:, 7] = 0  # an item without a vector
    vectors = torch.randn(N_SNAPSHOTS * N_ITEMS + 1, AKT_VECTOR, generator=rng)
    vectors[0] = 0
    inputs.items = ItemTables(
        item_cluster=item_cluster,
        item_codes=item_codes,
        n_codes=AKT_CODES,
        n_clusters=n_item_clusters,
        item_vector=vector.int(),
        vectors=vectors,
    )
    lengths = _ids(rng, L_C + 1, n_groups, AKT_CODES[0] + 1)
    lengths[0] = 0
    lengths[:, 0] = 0
    total = int(lengths.sum())
    items = torch.cat([_ids(rng, N_ITEMS, total, low=1), torch.zeros(1, dtype=torch.long)])
    inputs.clusters = Clusters(
        users=_side(rng, user_cluster, user_codes, 5, UNSEEN_USERS, 4),
        items=_side(rng, item_cluster, item_codes, 4, UNSEEN_ITEMS, 6),
        behaviour=ClusterBehaviour(
            offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.view(-1).cumsum(0)]),
            items=items,
            n_top=AKT_CODES[0],
            length=L_C,
        ),
    )
    inputs.schema = dataclasses.replace(
        SCHEMA,
        user_stat_names=("log_exposures", "u1", "u2", "u3", "u4"),
        item_stat_names=("log_exposures", "i1", "i2", "i3"),
        cross_stat_names=CROSS_NAMES,
    )
    return dataset


def make_batch(n: int = 64, seed: int = 1) -> Interaction:
    """A batch with every kind of row: full, partial and empty histories, no snapshot, id 0."""
    rng = torch.Generator().manual_seed(seed)
    user = _ids(rng, N_USERS, n, low=1)
    item = _ids(rng, N_ITEMS, n, low=1)
    length = _ids(rng, L + 1, n)
    history = _ids(rng, N_ITEMS, n, L, low=1) * (torch.arange(L) < length[:, None])
    if n >= 4:
        user[0] = 0
        item[1] = 0
        history[2] = 0
    exposed = torch.Generator().manual_seed(seed + 1000)
    seen = _ids(exposed, N_ITEMS, n, L, low=1)
    seen = seen * (torch.arange(L) < _ids(exposed, L + 1, n)[:, None])
    return Interaction(
        {
            "user_id": user,
            "item_id": item,
            "label": (torch.rand(n, generator=rng) < 0.4).float(),
            "hist_items": history,
            "hist_len": length,
            "labelled_items": seen,
            "labelled_len": (seen > 0).sum(1),
            "hist_labels": (torch.rand(n, L, generator=exposed) < 0.5).float() * (seen > 0),
            "user_stats": torch.randn(n, 5, generator=rng),
            "item_stats": torch.randn(n, 4, generator=rng),
            "group_stats": torch.randn(n, 6, generator=rng),
            "cross_stats": torch.randn(n, 7, generator=torch.Generator().manual_seed(seed)),
            "lifts": torch.randn(n, 3, generator=torch.Generator().manual_seed(seed + 1)),
            "own_scores": torch.randn(n, 2, generator=torch.Generator().manual_seed(seed + 2)),
            "n_buy": _ids(rng, 12, n).float(),
            "snapshot": _ids(rng, N_SNAPSHOTS + 1, n),
            "hour": _ids(rng, 4, n),
            "discount": torch.randn(n, generator=rng),
        }
    )


def make_config(**settings: Any) -> dict[str, Any]:
    """The keys a model needs, small layers, no dropout; ``settings`` on top."""
    config = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LABEL_FIELD": "label",
        "device": "cpu",
        "embedding_size": 4,
        "mlp_hidden_size": [16, 12, 8],
        "dropout_prob": 0.0,
        # large enough that no channel is numerically silent at the start
        "embedding_init_std": 0.5,
    }
    return {**config, **settings}


def build(cls: type, seed: int = 0, dataset: Any = None, **settings: Any) -> Any:
    """A model of ``cls`` with weights drawn from ``seed``."""
    torch.manual_seed(seed)
    if dataset is None:
        dataset = make_akt_dataset() if issubclass(cls, (AKTRec, BaseMM)) else make_dataset()
    return cls(make_config(**settings), dataset)


def default_weights(keys: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Weights ``[B, L]`` of the default attention at its start: ``sigmoid(10 (cos - .5))``."""
    lengths = [(x.square().sum(-1) + 1e-6).sqrt() for x in (keys, target)]
    cosine = (keys * target.unsqueeze(1)).sum(-1) / (lengths[0] * lengths[1].unsqueeze(1))
    return torch.sigmoid(10 * (cosine - 0.5)) * valid


@pytest.fixture
def helpers() -> SimpleNamespace:
    """The factories above (tests are imported by path, so they cannot import this file)."""
    return SimpleNamespace(
        batch=make_batch,
        build=build,
        config=make_config,
        dataset=make_dataset,
        groups=make_groups,
        base=lambda **kw: build(Base, **kw),
        choir=lambda **kw: build(ChoirRec, **kw),
        akt=lambda **kw: build(AKTRec, **kw),
        akt_dataset=make_akt_dataset,
        base_mm=lambda **kw: build(BaseMM, **kw),
        unseen=SimpleNamespace(users=UNSEEN_USERS, items=UNSEEN_ITEMS),
        schema=SCHEMA,
        default_weights=default_weights,
    )
