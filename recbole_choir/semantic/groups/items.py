"""Semantic ids of items at every snapshot (AKT-Rec 3.1.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_choir.errors import DataError
from recbole_choir.prefix_groups import prefix_ids
from recbole_choir.semantic.frames.frames import ITEM_ID, Frames
from recbole_choir.semantic.groups.priors import choose_levels, group_names
from recbole_choir.semantic.items.source import ItemSource
from recbole_choir.semantic.quantizers.base import fit_quantizer, make_quantizer, quantizer_report
from recbole_choir.semantic.quantizers.points import DistinctVectors, as_points, distinct_points
from recbole_choir.semantic.quantizers.quantizer import Quantizer
from recbole_choir.settings.recipe import ItemRecipe, Recipe
from recbole_choir.table_format import GROUP_ID, NO_CODE, SNAPSHOT, VECTOR, code_column

logger = logging.getLogger(__name__)


@dataclass
class ItemGrouping:
    """Codes, clusters and vectors of all items at all snapshots.

    Args:
        codes: int32 [S, n_items, M]; -1 where an item has none.
        levels: int64 [S, n_items] level of the prefix that is the item's cluster, 0 for none.
        names: object [S, n_items] that prefix as text, None for none.
        vector: int32 [S, n_items] row of ``vectors``, -1 for none.
        vectors: float32 [V, d], each different one once.
        quantizer: The codebooks; those of the last snapshot if they are fitted again each time.
        n_clusters: Codewords at each level.
        fit: How well the first codebooks fit, of :func:`~.quantizer.quantizer_report`.
        report: What the item input says of its fit; None where it says nothing.
    """

    codes: NDArray[np.int32]
    levels: NDArray[np.int64]
    names: NDArray[np.object_]
    vector: NDArray[np.int32]
    vectors: NDArray[np.float32]
    quantizer: Quantizer
    n_clusters: list[int]
    fit: dict[str, Any]
    report: dict[str, Any] | None

    def table(self, item_ids: pd.Series) -> pd.DataFrame:
        """Rows of ``items.parquet``, snapshot after snapshot."""
        n_snapshots, n_items, n_levels = self.codes.shape
        columns: dict[str, Any] = {
            SNAPSHOT: np.repeat(np.arange(1, n_snapshots + 1, dtype=np.int32), n_items),
            ITEM_ID: np.tile(item_ids.to_numpy(object), n_snapshots),
        }
        for level in range(n_levels):
            columns[code_column(level + 1)] = self.codes[:, :, level].reshape(-1)
        columns[GROUP_ID] = pd.Series(self.names.reshape(-1), dtype=object)
        columns[VECTOR] = self.vector.reshape(-1)
        return pd.DataFrame(columns)


def group_items(
    frames: Frames,
    moments: NDArray[np.float64],
    recipe: Recipe,
    source: ItemSource,
    *,
    cache_dir: str | Path | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> ItemGrouping:
    """Give the items of ``frames`` their ids at each moment from the events strictly before it.

    The input and the codebooks are fitted once, on the distinct vectors of the first snapshot, so
    that vectors and ids keep their meaning (recipe key ``codebooks``).

    Args:
        frames: All interactions, users and items.
        moments: Times of the snapshots.
        recipe: Its ``items``, ``rqvae``, ``codebooks`` and ``seed``.
        source: Makes the vectors.
        cache_dir: Where a fitted RQ-VAE is kept; nowhere if None.
        device: Torch device that an RQ-VAE is trained on.
        show_progress: Show progress bars.

    Raises:
        DataError: The recipe has no ``items``, or no item has a vector at the first snapshot.
    """
    items = recipe.items
    if items is None:
        raise DataError("recipe.items: expected how to make ids of items, got none")
    n = len(frames.items)
    shape = (len(moments), n)
    codes = np.full((*shape, items.n_levels), NO_CODE, np.int32)
    levels = np.zeros(shape, np.int64)
    names = np.full(shape, None, object)
    vector = np.full(shape, -1, np.int32)
    store = DistinctVectors()
    quantizer: Quantizer | None = None
    n_clusters = items.clusters_for(n)
    fit: dict[str, Any] = {}
    width = 0
    bar = tqdm(moments, desc="item ids", unit="snapshot", disable=not show_progress)
    for index, moment in enumerate(bar):
        before = frames.before(float(moment))
        again = quantizer is None or recipe.codebooks == "per_snapshot"
        if again:
            source.fit(before)
        _, x, valid = source.transform(before)
        width = x.shape[1]
        if again:
            if not valid.any():
                raise DataError(
                    f"snapshot {index + 1}: expected items with something to be described by "
                    f"(items.input {items.input}), got none before time {moment:.0f}"
                )
            distinct = distinct_points(as_points(x[valid]))
            made = make_quantizer(
                items.quantizer,
                items.n_levels,
                n_clusters,
                recipe.seed,
                recipe.rqvae,
                device=device,
                show_progress=show_progress,
            )
            quantizer = fit_quantizer(made, distinct, cache_dir)
            fit = fit or quantizer_report(quantizer, distinct)
            logger.info(
                "snapshot %d: item codebooks of %s codewords fitted on %d distinct vectors",
                *(index + 1, n_clusters, len(distinct)),
            )
        if quantizer is not None:
            codes[index, valid] = quantizer.encode(x[valid])
        vector[index, valid] = store.add(x[valid])
        levels[index], names[index] = clusters_of(codes[index], items)
    if quantizer is None:
        raise DataError("snapshots: expected at least one moment, got none")
    return ItemGrouping(
        codes, levels, names, vector, store.stored(width), quantizer, n_clusters, fit, source.report
    )


def clusters_of(
    codes: NDArray[np.int32], items: ItemRecipe
) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Level [n] and name [n] of each item's cluster: the deepest prefix with enough members (A18).

    Args:
        codes: int32 [n, M], -1 where an item has none.
        items: Its ``min_members``.
    """
    levels = choose_levels(prefix_ids(codes), items.min_members, "backoff")
    return levels, group_names(codes, levels)
