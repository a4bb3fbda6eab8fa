"""What became of the gate and the two embeddings of one side, over its whole vocabulary."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

from recbole_choir.model.aktrec.adaptive_embedding import AdaptiveEmbedding

N_LEVELS = 5


def level_means(
    value: np.ndarray, activity: np.ndarray, n_levels: int = N_LEVELS
) -> list[float | None]:
    """Mean of ``value`` by activity: ids in ``n_levels`` equal parts, ties kept together.

    Args:
        value, activity: ``[n]``.
        n_levels: Number of levels, least active first.

    Returns:
        One mean a level; None where ties left a level empty.
    """
    middle = rankdata(activity) - 0.5
    level = np.minimum((middle * n_levels / len(value)).astype(int), n_levels - 1)
    count = np.bincount(level, minlength=n_levels)
    total = np.bincount(level, weights=value, minlength=n_levels)
    return [float(t / c) if c else None for t, c in zip(total, count)]


@torch.no_grad()
def gate_report(embedding: AdaptiveEmbedding, name: str, activity_column: int) -> dict[str, float]:
    """Gate by activity, and norms of both embeddings for heads and tails.

    Over the ids with a training row, by their activity at the newest snapshot. What cannot be said
    (a constant gate, no head) is left out.

    Args:
        embedding: Of the users, or of the items.
        name: ``user`` or ``item``.
        activity_column: Column of the statistics with the log of the exposures.

    Returns:
        ``r_<name>_level_1`` (least active) to ``_5``, ``r_<name>_spearman``, and
        ``norm_cluster_<name>_head``, ``norm_individual_<name>_tail`` and so on.

    References:
        docs/gaps.md A8: the gate has no sign built in; cluster knowledge should matter more for the
        less active, which is a negative correlation.
    """
    figures: dict[str, float] = {}
    tables, cluster = embedding.tables, embedding.cluster
    if tables is None or cluster is None:
        return figures
    seen = tables.seen.cpu().numpy()
    if not seen.any():
        return figures
    if embedding.gate is not None:
        r = embedding.gate_at(-1).mean(-1).double().cpu().numpy()[seen]
        activity = tables.stats[-1, :, activity_column].double().cpu().numpy()[seen]
        for level, mean in enumerate(level_means(r, activity), start=1):
            if mean is not None:
                figures[f"r_{name}_level_{level}"] = mean
        if np.ptp(r) > 0 and np.ptp(activity) > 0:
            figures[f"r_{name}_spearman"] = float(spearmanr(r, activity).statistic)
    parts = {"cluster": cluster.at(cluster.newest)}
    if embedding.individual is not None:
        parts["individual"] = embedding.individual.whole()
    tail = tables.tail.cpu().numpy()
    for part, vectors in parts.items():
        norm = vectors.norm(dim=-1).double().cpu().numpy()
        for side, chosen in (("head", seen & ~tail), ("tail", seen & tail)):
            if chosen.any():
                figures[f"norm_{part}_{name}_{side}"] = float(norm[chosen].mean())
    return figures
