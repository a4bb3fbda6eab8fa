"""Where cluster embeddings start from: made once, on the host.

An id starts from the first snapshot that knows its cluster. A later one knows what the id's
training rows are asked about, and a start is an input of these rows as much as anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from recbole_choir.data.table.group_tables import GroupTables
from recbole_choir.data.table.item_tables import ItemTables

Centroids = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def earliest(values: torch.Tensor) -> torch.Tensor:
    """Values ``[n]`` or ``[n, M]`` of each id at the first snapshot where it has any.

    Args:
        values: ``[S + 1, n]`` or ``[S + 1, n, M]``; an id without a value has 0 (first) there.

    Returns:
        On the host, 0 for an id that never has a value.
    """
    values = values.cpu()
    known = (values if values.dim() == 2 else values[..., 0]) > 0  # [S + 1, n]
    first = known.int().argmax(0)  # of equal values the first; 0, which is empty, without any
    return values[first, torch.arange(values.shape[1])]


def initial_vectors(
    init: str,
    codes: torch.Tensor,
    n_codes: Sequence[int],
    centroids: Centroids,
    size: int,
    std: float,
) -> torch.Tensor:
    """Vectors ``[n, m]`` that the cluster embeddings of ids start from.

    Args:
        init: ``levels``: see :func:`level_vectors`; ``centroid``: see :func:`centroid_vectors`;
            ``random``: independent of the clusters.
        codes: ``[S + 1, n, M]``, 0 for unknown, else the code + 1.
        n_codes: K of each level.
        centroids: Gives the arguments of :func:`centroid_vectors`.
        size: Width m.
        std: Standard deviation of the entries.

    References:
        docs/gaps.md A1.
    """
    if init == "centroid":
        return centroid_vectors(*centroids(), size, std)
    if init == "levels":
        return level_vectors(earliest(codes), n_codes, size, std)
    return torch.randn(codes.shape[1], size) * std


def level_vectors(
    codes: torch.Tensor, n_codes: Sequence[int], size: int, std: float
) -> torch.Tensor:
    """Sum of random level vectors of each id's codes: ids of one cluster start together.

    Each level's vectors are normal with variance ``std^2 / M``, so that a full sum has ``std``; a
    shared prefix makes for a shared part. An id without codes starts at zero, which is what is
    known of its cluster.

    Args:
        codes: ``[n, M]``, 0 for unknown, else the code + 1.
        n_codes: K of each level.
        size: Width m.
        std: Standard deviation of the entries.

    Returns:
        ``[n, m]``.

    References:
        docs/gaps.md A1.
    """
    out = torch.zeros(codes.shape[0], size)
    for i, k in enumerate(n_codes):
        table = torch.randn(k + 1, size) * (std / len(n_codes) ** 0.5)
        table[0] = 0.0
        out += table[codes[:, i].long()]
    return out


def project_centroids(centroids: torch.Tensor, size: int, std: float) -> torch.Tensor:
    """Bring centroids into the width of the embeddings by their principal components.

    Centred first: the common direction of content vectors tells no clusters apart.

    Args:
        centroids: ``[H, d]``.
        size: Width m; components beyond the rank of the centroids are zero.
        std: Root mean square of the entries.

    Returns:
        ``[H, m]``, the same on every run: each component's largest loading is positive.
    """
    out = torch.zeros(centroids.shape[0], size)
    if not len(centroids):
        return out
    centred = centroids.double() - centroids.double().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    axes = vectors.flip(1)[:, :size]  # [d, min(d, m)]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    scores = centred @ (axes * torch.where(largest < 0, -1.0, 1.0))
    rms = scores.square().mean().sqrt() * (axes.shape[1] / size) ** 0.5
    if rms > 0:
        out[:, : axes.shape[1]] = (scores * (std / rms)).float()
    return out


def item_centroids(items: ItemTables) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean content vector of all members of each item's first cluster, as of that snapshot.

    Args:
        items: Clusters and vectors by (snapshot, item).

    Returns:
        Centroids ``[H, d]``, and each item's row in them ``[n_items]``, -1 for none.
    """
    belongs = torch.from_numpy(items.belongs()[1:])  # [S, n, k]
    vector = items.item_vector[1:].long().cpu().unsqueeze(-1).expand_as(belongs).reshape(-1)
    cluster = belongs.reshape(-1)
    start = earliest(items.item_cluster).long()
    return _means(cluster, items.vectors.cpu().double(), vector, start)


def user_centroids(groups: GroupTables, items: ItemTables) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean content vector of what each user's first cluster chose, by its behaviour sequence.

    Users have no content vector of their own in the tables; what their cluster chose lies in the
    same space as the items' centroids.

    Args:
        groups: Clusters of users, with their sequences.
        items: Vectors by (snapshot, item); an item's first one is taken.

    Returns:
        Centroids ``[H, d]``, and each user's row in them ``[n_users]``, -1 for none.
    """
    sequence = groups.group_seq.long().cpu()  # [G, L_G]
    vector = earliest(items.item_vector).long()[sequence]  # [G, L_G]
    cluster = torch.arange(len(sequence)).unsqueeze(1).expand_as(sequence)
    vectors = items.vectors.cpu().double()
    start = earliest(groups.user_group).long()
    return _means(cluster.reshape(-1), vectors, vector.reshape(-1), start)


def _means(
    cluster: torch.Tensor, vectors: torch.Tensor, vector: torch.Tensor, home: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of ``vectors[vector]`` by cluster, for clusters that are somebody's home."""
    wanted = torch.unique(home)
    wanted = wanted[wanted > 0]
    number = torch.full((int(max(home.max(), cluster.max())) + 1,), -1)
    number[wanted] = torch.arange(len(wanted))
    at = number[cluster]
    keep = (at >= 0) & (vector > 0)
    sums = torch.zeros(len(wanted), vectors.shape[1], dtype=vectors.dtype)
    sums.index_add_(0, at[keep], vectors[vector[keep]])
    counts = torch.bincount(at[keep], minlength=len(wanted))
    known = counts > 0
    # Clusters without any vector have no centroid: renumber the others.
    renumbered = torch.full((len(wanted) + 1,), -1)  # the last one answers for -1
    renumbered[:-1][known] = torch.arange(int(known.sum()))
    centroids = sums[known] / counts[known].unsqueeze(1)
    return centroids.float(), renumbered[number[home]]


def centroid_vectors(
    centroids: torch.Tensor, row: torch.Tensor, size: int, std: float
) -> torch.Tensor:
    """Start every id at its cluster's projected centroid; zero where it has none: ``[n, m]``."""
    projected = project_centroids(centroids, size, std)
    return torch.cat([projected, torch.zeros(1, size)])[row]  # row -1 is the last, zero


def fit_levels(
    target: torch.Tensor, codes: torch.Tensor, n_codes: Sequence[int]
) -> list[torch.Tensor]:
    """Level tables whose sums come near given vectors: means of what earlier levels left over.

    Args:
        target: ``[n, m]``.
        codes: ``[n, M]``, 0 for unknown, else the code + 1.
        n_codes: K of each level.

    Returns:
        A ``[K + 1, m]`` per level; row 0 and codes that nobody has are zero.
    """
    rest, tables = target.clone(), []
    for i, k in enumerate(n_codes):
        code = codes[:, i].long()
        sums = torch.zeros(k + 1, target.shape[1]).index_add_(0, code, rest)
        table = sums / torch.bincount(code, minlength=k + 1).clamp_min(1).unsqueeze(1)
        table[0] = 0.0
        tables.append(table)
        rest = rest - table[code]
    return tables
