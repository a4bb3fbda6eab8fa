"""Training rows per second of this package's models next to RecBole's own DIN.

Synthetic tensors, so that nothing but the model and its optimiser is measured: forward, backward
and one Adagrad step. All models run in one process, one after the other in turns, on one thread,
at the same embedding size, history length and batch; DIN reads the same item fields.

    python benchmarks/model_speed.py
    python benchmarks/model_speed.py --users 6041 --items 3707      # ml-1m's size
    python benchmarks/model_speed.py --device cuda --embedding-size 32 --batch 8192
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.din import DIN
from recbole.utils import FeatureSource, FeatureType

from recbole_choir.data.activity import Activity
from recbole_choir.data.clusters.behaviour import ClusterBehaviour
from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.data.clusters.tables import Clusters
from recbole_choir.data.cross_statistics import A19_COLUMNS
from recbole_choir.data.rows import RowInputs
from recbole_choir.data.schema import FeatureSchema, Field, ModelInputs
from recbole_choir.data.statistics import Events
from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.integration.registry import model_class

RECORD = Path(__file__).parent / "records" / "model_speed.json"
N_GENRES, GENRES_PER_ITEM = 19, 4
SNAPSHOTS, LEVELS = 4, 3
ROWS_PER_USER = 50

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "Base": ("Base", {}),
    "Base, att_type mlp": ("Base", {"att_type": "mlp"}),
    "ChoirRec, variant paper": ("ChoirRec", {}),
    "ChoirRec, variant stats": ("ChoirRec", {"variant": "stats"}),
    "ChoirRec, variant soft": ("ChoirRec", {"variant": "soft"}),
    "Base with lifts": ("Base", {"use_lifts": True}),
    "BaseMM": ("BaseMM", {}),
    "AKTRec, variant paper": ("AKTRec", {}),
    "AKTRec, variant plus": ("AKTRec", {"variant": "plus"}),
    "POSO": ("POSO", {}),
    "POSO, mode naive": ("POSO", {"poso_mode": "naive"}),
    "SimTier": ("SimTier", {}),
    "SaviorRec": ("SaviorRec", {}),
    "TailNet": ("TailNet", {}),
    "UIE": ("UIE", {}),
    "ColdTransformer": ("ColdTransformer", {}),
    "MELT": ("MELT", {}),
    "MELT, backbone": ("MELT", {"melt_lambda_user": 0, "melt_lambda_item": 0}),
}


def features(args: argparse.Namespace) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """User and item attributes of the size of ml-100k's."""
    user = {
        "gender": torch.randint(1, 3, (args.users,)),
        "occupation": torch.randint(1, 22, (args.users,)),
        "age": torch.randint(1, 62, (args.users,)),
    }
    item = {
        "genre": torch.randint(0, N_GENRES, (args.items, GENRES_PER_ITEM)),
        "year": torch.randint(1, 73, (args.items,)),
    }
    for values in (*user.values(), *item.values()):
        values[0] = 0
    return user, item


def our_dataset(args: argparse.Namespace) -> SimpleNamespace:
    """What our models read of a dataset; a stand-in, not a real one."""
    user, item = features(args)
    snapshots, levels = SNAPSHOTS, LEVELS
    k = max(2, round((args.users / 20) ** (1 / levels)))
    per_snapshot = k + k * k
    n_groups = 1 + snapshots * per_snapshot
    group = torch.randint(1, n_groups, (snapshots + 1, args.users), dtype=torch.int32)
    group[0] = 0
    groups = SimpleNamespace(
        user_group=group,
        user_codes=torch.randint(1, k + 1, (snapshots + 1, args.users, levels), dtype=torch.int32),
        n_codes=[k] * levels,
        group_attr={
            "gender": torch.randint(1, 3, (n_groups,)),
            "occupation": torch.randint(1, 22, (n_groups,)),
            "age": torch.randint(1, 62, (n_groups,)),
        },
        group_seq=torch.randint(1, args.items, (n_groups, args.length), dtype=torch.int32),
        group_size=torch.full((n_groups,), 20),
    )
    schema = FeatureSchema(
        n_users=args.users,
        n_items=args.items,
        user_attrs=(
            Field("gender", "token", 3),
            Field("occupation", "token", 22),
            Field("age", "token", 62),
        ),
        item_attrs=(Field("genre", "token_seq", N_GENRES), Field("year", "token", 73)),
        user_stat_names=tuple("abcdef"),
        item_stat_names=tuple("abcd"),
        group_stat_names=tuple("abcdef"),
        cross_stat_names=A19_COLUMNS,
        lift_names=tuple("abc"),
    )
    items, clusters = semantics(args)
    rows, activity = past(args)
    return SimpleNamespace(
        row_inputs=rows,
        model_inputs=ModelInputs(
            schema=schema,
            user_features=user,
            item_features=item,
            groups=groups,
            items=items,
            clusters=clusters,
            activity=activity,
            theta_act=60.0,
            history_length=args.length,
        ),
    )


def past(args: argparse.Namespace) -> tuple[RowInputs, Activity]:
    """Training rows of a few heads and many tails, which are the lower 85 and 95 per cent."""
    rng = np.random.default_rng(0)
    n = ROWS_PER_USER * args.users
    user, item = (
        np.minimum(rng.zipf(1.2, n), high - 1).astype(np.int64) for high in (args.users, args.items)
    )
    label = (rng.random(n) < 0.5).astype(np.float32)
    rows = RowInputs.build(
        Events(user, item, np.arange(n, dtype=np.float64), label),
        [np.arange(n), np.arange(0), np.arange(0)],
    )
    tails = []
    for ids, size, share in ((user, args.users, 0.85), (item, args.items, 0.95)):
        count = np.bincount(ids, minlength=size)
        tails.append(count <= np.quantile(count, share))
    return rows, Activity.count(user, item, *tails)


def side(n: int, p: int) -> tuple[torch.Tensor, int, ClusterSide]:
    """Random ids of one side, of the size that the recipe would choose: codes, K, clusters."""
    k = max(2, round((n / 18) ** (1 / LEVELS)))
    codes = torch.randint(1, k + 1, (SNAPSHOTS + 1, n, LEVELS), dtype=torch.int32)
    codes[0] = codes[:, 0] = 0
    per_snapshot = k**LEVELS
    place = torch.tensor([k**i for i in range(LEVELS)], dtype=torch.int32)
    cluster = ((codes - 1) * place).sum(-1) + 1
    cluster[1:] += torch.arange(SNAPSHOTS).unsqueeze(1) * per_snapshot
    cluster[0] = cluster[:, 0] = 0
    rows = np.random.default_rng(0).zipf(1.5, n)  # a few heads, many tails
    return (
        codes,
        k,
        ClusterSide.build(
            cluster.int(),
            codes,
            1 + SNAPSHOTS * per_snapshot,
            torch.randn(SNAPSHOTS + 1, n, p),
            rows,
            rows < np.quantile(rows, 0.9),
        ),
    )


def semantics(args: argparse.Namespace) -> tuple[ItemTables, Clusters]:
    """Item tables and clusters; cluster sequences are full, the dearest case."""
    codes, k, items = side(args.items, 4)
    _, _, users = side(args.users, 6)
    n_keys = users.n_clusters * (k + 1)
    behaviour = ClusterBehaviour(
        offsets=torch.arange(n_keys + 1) * args.length,
        items=torch.randint(1, args.items, (n_keys * args.length + 1,)),
        n_top=k,
        length=args.length,
    )
    behaviour.items[-1] = 0
    n_vectors = SNAPSHOTS * args.items
    vector = torch.arange(n_vectors, dtype=torch.int32).view(SNAPSHOTS, -1) + 1
    tables = ItemTables(
        item_cluster=items.cluster,
        item_codes=codes,
        n_codes=[k] * LEVELS,
        n_clusters=items.n_clusters,
        item_vector=torch.cat([torch.zeros(1, args.items, dtype=torch.int32), vector]),
        vectors=torch.randn(n_vectors + 1, 64),
    )
    return tables, Clusters(users, items, behaviour)


class DINDataset:
    """What RecBole's DIN reads of a dataset; a stand-in with the same item fields."""

    def __init__(self, args: argparse.Namespace) -> None:
        user, item = features(args)
        self.user_feat = Interaction({"user_id": torch.arange(args.users), **user})
        self.item_feat = Interaction({"item_id": torch.arange(args.items), **item})
        self.sizes = {
            "user_id": args.users,
            "gender": 3,
            "occupation": 22,
            "age": 62,
            "item_id": args.items,
            "genre": N_GENRES,
            "year": 73,
        }
        self.field2type = dict.fromkeys(self.sizes, FeatureType.TOKEN)
        self.field2type["genre"] = FeatureType.TOKEN_SEQ
        self.uid_field, self.iid_field = "user_id", "item_id"
        self.config = {"numerical_features": []}

    def get_user_feature(self) -> Interaction:
        return self.user_feat

    def get_item_feature(self) -> Interaction:
        return self.item_feat

    def num(self, field: str) -> int:
        return self.sizes[field]

    def fields(self, ftype: Any = None, source: Any = None) -> list[str]:
        wanted = {FeatureSource.USER, FeatureSource.USER_ID} & set(source)
        return list((self.user_feat if wanted else self.item_feat).interaction)


def config(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The settings of one model."""
    return {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LABEL_FIELD": "label",
        "device": torch.device(args.device),
        "embedding_size": args.embedding_size,
        "mlp_hidden_size": [256, 128, 64],
        "dropout_prob": 0.1,
        **more,
    }


def din_config(args: argparse.Namespace) -> dict[str, Any]:
    """RecBole's defaults for DIN, but for the embedding size and the history length."""
    return config(
        args,
        mlp_hidden_size=[256, 256, 256],
        dropout_prob=0,
        pooling_mode="mean",
        MAX_ITEM_LIST_LENGTH=args.length,
        LIST_SUFFIX="_list",
        ITEM_LIST_LENGTH_FIELD="item_length",
        NEG_PREFIX="neg_",
        numerical_features=[],
    )


def batch(args: argparse.Namespace) -> Interaction:
    """One batch that all models can read: full histories, the dearest case."""
    n = args.batch
    history = torch.randint(1, args.items, (n, args.length))
    item = torch.randint(1, args.items, (n,))
    return Interaction(
        {
            "user_id": torch.randint(1, args.users, (n,)),
            "item_id": item,
            "label": (torch.rand(n) < 0.3).float(),
            "hist_items": history,
            "hist_len": torch.full((n,), args.length),
            "labelled_items": torch.randint(1, args.items, (n, args.length)),
            "hist_labels": (torch.rand(n, args.length) < 0.5).float(),
            "item_id_list": history,
            "item_length": torch.full((n,), args.length),
            "user_stats": torch.randn(n, 6),
            "item_stats": torch.randn(n, 4),
            "group_stats": torch.randn(n, 6),
            "lifts": torch.randn(n, 3),
            "cross_stats": torch.randn(n, len(A19_COLUMNS)),
            "n_buy": torch.randint(0, 100, (n,)).float(),
            "snapshot": torch.randint(0, 5, (n,)),
        }
    ).to(torch.device(args.device))


def stepper(model: torch.nn.Module, batches: list[Interaction]) -> Callable[[int], None]:
    """A function that makes training steps."""
    optimiser = torch.optim.Adagrad(
        model.parameters(), lr=0.01, initial_accumulator_value=0.1, foreach=True
    )
    model.train()

    def steps(n: int) -> None:
        for i in range(n):
            optimiser.zero_grad(set_to_none=True)
            model.calculate_loss(batches[i % len(batches)]).backward()
            optimiser.step()

    return steps


def timed(steps: Callable[[int], None], n: int, device: str) -> float:
    """Seconds of ``n`` steps: of processor time on a CPU, which other processes do not move much;
    on a GPU of the clock, its work included.
    """
    if device != "cuda":
        start = time.process_time()
        steps(n)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    steps(n)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Rows per second of every model: its best round."""
    # RecBole's sequential package (SINE) switches anomaly detection on for the whole process,
    # which costs every model a third of its speed: off, for DIN as for ours.
    torch.autograd.set_detect_anomaly(False)
    torch.manual_seed(0)
    ours = our_dataset(args)
    models: dict[str, torch.nn.Module] = {
        name: model_class(model)(config(args, **settings), ours)
        for name, (model, settings) in OURS.items()
        if args.only is None or model in args.only.split(",")
    }
    if not args.skip_din and args.only is None:
        if not hasattr(np, "long"):  # numpy 1.26: RecBole's Config would set it
            np.long = np.int_  # type: ignore[attr-defined]
        models["RecBole DIN"] = DIN(din_config(args), DINDataset(args))
    batches = [batch(args) for _ in range(4)]
    runs = {name: stepper(m.to(args.device), batches) for name, m in models.items()}
    counts = {name: args.din_steps if "DIN" in name else args.steps for name in runs}
    for run in runs.values():
        run(2)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    # The best round counts: whatever else the machine does can only add time.
    for _ in range(args.rounds):  # in turns: a slow moment of the machine meets all of them
        for name, run in runs.items():
            seconds[name].append(timed(run, counts[name], args.device) / counts[name])
    base = min(seconds["Base"])
    return {
        name: {
            "rows_per_second": round(args.batch / min(s)),
            "ms_per_step": round(1e3 * min(s), 3),
            "cost_relative_to_base": round(min(s) / base, 3),
            "parameters": sum(p.numel() for p in models[name].parameters()),
        }
        for name, s in seconds.items()
    }


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--embedding-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=50, help="history length L")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--users", type=int, default=944)
    parser.add_argument("--items", type=int, default=1683)
    parser.add_argument("--steps", type=int, default=8, help="steps per round")
    parser.add_argument("--din-steps", type=int, default=1, help="steps per round of DIN")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--skip-din", action="store_true")
    parser.add_argument("--only", help="models of ours, e.g. Base,POSO; Base is the reference")
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args()
    torch.set_num_threads(1)

    result = measure(args)
    print(
        f"{args.device}, 1 thread, d {args.embedding_size}, L {args.length}, batch {args.batch}, "
        f"{args.users} users, {args.items} items"
    )
    print(f"{'model':26}{'rows/s':>12}{'ms/step':>10}{'x Base':>8}{'parameters':>12}")
    for name, r in result.items():
        print(
            f"{name:26}{r['rows_per_second']:>12,}{r['ms_per_step']:>10.2f}"
            f"{r['cost_relative_to_base']:>8.2f}{r['parameters']:>12,}"
        )
    options = {k: v for k, v in vars(args).items() if k != "record"}
    setting = f"{args.device} d{args.embedding_size} L{args.length} B{args.batch}"
    record: dict[str, Any] = {}
    if args.record.exists():
        record = json.loads(args.record.read_text())
    record[setting] = {
        "options": options,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "models": result,
    }
    args.record.parent.mkdir(parents=True, exist_ok=True)
    args.record.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
