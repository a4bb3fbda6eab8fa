"""RQ-VAE against RQ-KMeans: which keeps neighbours together, and at what cost, on one thread.

    python benchmarks/quantizers.py [--dataset=ml-1m] [--raw_data_path=raw] [--seeds=3]

Writes benchmarks/records/quantizers.json. Vectors are those of a table's first snapshot: of users
by behaviour, of items by behaviour, by text and aligned, and random ones, the control; K is that of
recipe akt. Seconds are processor time. For every quantiser and seed:

- ``lost``: share of the variance that the codes lose,
- ``cosine``: mean cosine of two vectors that share their full code, next to that of any two.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.integration import ChoirConfig, create_dataset, parse_cli
from recbole_choir.record import versions
from recbole_choir.semantic import RQVAE, Recipe, RQKMeans, load_recipe, prepare_frames
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.frames.snapshots import snapshot_times
from recbole_choir.semantic.inputs import make_input
from recbole_choir.semantic.items import make_item_input
from recbole_choir.semantic.quantizers.points import as_points, distinct_points
from recbole_choir.semantic.quantizers.quantizer import Quantizer

RECORD = Path(__file__).parent / "records" / "quantizers.json"
CACHE = Path("saved") / "semantic" / ".embeddings"


def first_snapshot(cli: dict[str, Any], recipe: Recipe) -> Frames:
    """What is known at the first snapshot of the training rows."""
    config = ChoirConfig(model="ChoirRec", dataset=cli.pop("dataset", "ml-1m"), cli=cli)
    ensure_atomic_files(config)
    data = create_dataset(config)
    data.build_splits()
    frames = prepare_frames(*data.semantic_frames()).frames
    return frames.before(
        float(snapshot_times(frames.interactions["timestamp"].to_numpy(), recipe)[0])
    )


def vectors(frames: Frames, recipe: Recipe) -> dict[str, tuple[NDArray[np.float32], int]]:
    """Distinct vectors [n, d] by name, and K for them."""
    users = make_input(load_recipe(recipe, {"input": "behaviour"}), None).fit(frames)
    x = users.transform(frames)
    out = {"users, behaviour": (x.x[x.valid], recipe.clusters_for(len(frames.users))[0])}
    items = recipe.items
    if items is None:
        raise ValueError("expected a recipe with items")
    k = items.clusters_for(len(frames.items))[0]
    encoder = Encoder(cache_dir=CACHE)
    for name in ("behaviour", "text", "aligned", "random"):
        source = make_item_input(load_recipe(recipe, {"items": {"input": name}}), encoder, False)
        y = source.fit(frames).transform(frames)
        out[f"items, {name}"] = (y.x[y.valid], k)
    return {name: (distinct_points(as_points(x)), k) for name, (x, k) in out.items()}


def mean_cosine(x: NDArray[np.float32], cluster: NDArray[np.int64]) -> float:
    """Mean cosine of two different rows of one cluster; nan without such a pair."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    size = np.bincount(cluster)
    total = np.zeros((len(size), x.shape[1]))
    np.add.at(total, cluster, unit)
    pairs = size * (size - 1)
    cosines = (total**2).sum(axis=1) - size  # sum over ordered pairs: |sum|^2 - n
    return float(cosines[pairs > 0].sum() / pairs.sum()) if pairs.sum() else float("nan")


def measure(quantizer: Quantizer, x: NDArray[np.float32]) -> dict[str, Any]:
    """Fit on the vectors and look at the codes."""
    start = time.process_time()
    quantizer.fit(x)
    fitted = time.process_time()
    codes = quantizer.encode(x)
    encoded = time.process_time()
    cluster = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    variance = float(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())
    return {
        "fit_s": round(fitted - start, 2),
        "encode_s": round(encoded - fitted, 3),
        "lost": round(quantizer.reconstruction_error(x) / variance, 4),
        "cosine": round(mean_cosine(x, cluster), 4),
        "clusters": int(cluster.max()) + 1,
        "collision_rate": round(float((np.bincount(cluster)[cluster] > 1).mean()), 4),
        "codewords_used": [len(np.unique(codes[:, m])) for m in range(codes.shape[1])],
        "epochs": getattr(quantizer, "report", {}).get("epochs"),
        "dead_codes_reset": getattr(quantizer, "report", {}).get("dead_codes_reset"),
    }


def main() -> None:
    """Measure, print, write the record."""
    logging.getLogger("recbole_choir").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    cli = parse_cli(sys.argv[1:])
    dataset = str(cli.get("dataset", "ml-1m"))
    n_seeds = int(cli.pop("seeds", 3))
    recipe = load_recipe("akt")
    RQVAE(1, 2, epochs=1).fit(np.eye(8))  # the import of torch-rechub is no part of a fit
    results = []
    for name, (x, k) in vectors(first_snapshot(cli, recipe), recipe).items():
        anyone = round(mean_cosine(x, np.zeros(len(x), np.int64)), 4)
        for seed in range(n_seeds):
            sizes = recipe.rqvae.model_dump()
            for kind, quantizer in (
                ("RQ-KMeans", RQKMeans(3, k, seed)),
                ("RQ-VAE", RQVAE(3, k, seed, **sizes)),
                ("RQ-VAE, no warm start", RQVAE(3, k, seed, **{**sizes, "warm_epochs": 0})),
            ):
                row = {"vectors": name, "n": len(x), "dims": x.shape[1], "k": k, "any": anyone}
                row |= {"quantizer": kind, "seed": seed, **measure(quantizer, x)}
                results.append(row)
                print(row, flush=True)
    record = {
        "command": f"python benchmarks/quantizers.py --dataset={dataset}",
        "dataset": dataset,
        "what": "3 levels, fitted on the distinct vectors of the first snapshot; one thread",
        "versions": versions(),
        "results": results,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
