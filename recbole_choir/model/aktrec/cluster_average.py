"""Exact averages of features over the members of every cluster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data.clusters.side import ClusterSide
from recbole_choir.errors import DataError
from recbole_choir.model.layers.lookup import gather_rows

FLOOR = 1e-4  # weight of a member without events under logfreq: a cluster of such has a mean too

VocabularyAt = Callable[[int], torch.Tensor]


class ClusterAverage(nn.Module):
    """``H_G = sum_{u' in G} H_u' / |G|``, for every cluster of every snapshot.

    A cluster row stands for one snapshot, so its members enter with their features at that
    snapshot. Members are all ids of the cluster's prefix, also those that read a deeper cluster.
    The empty cluster, and a row without members, is the zero vector.

    Modes:

    - ``snapshot``: a buffer that :meth:`refresh` computes from the whole vocabulary; exact when
      computed, and a constant for the gradient.
    - ``grad``: computed at every step, with its gradient.
    - ``ema``: started exactly, then moved towards the members that occur in batches, which
      weights members by their rows. The buffer is saved with the weights.

    Args:
        side: Clusters of the users, or of the items.
        width: Columns of the features.
        mode: See above.
        weight: ``uniform``, the paper's plain mean, or ``logfreq``: by log(1 + exposures before the
            snapshot).
        keep: Share of the old value that ``ema`` keeps.

    Raises:
        DataError: ``logfreq`` where the side does not know exposures.

    References:
        AKT-Rec Eq. 9; docs/gaps.md A15, A16.
    """

    table: torch.Tensor
    position: torch.Tensor

    def __init__(
        self,
        side: ClusterSide,
        width: int,
        mode: str = "snapshot",
        weight: str = "uniform",
        keep: float = 0.9,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.keep = keep
        self._started = False
        self.n_clusters = int(side.n_clusters)
        if weight == "logfreq" and side.log_exposures is None:
            raise DataError("clust_weight: logfreq expects exposures of the members, got none")
        belongs = side.belongs.cpu().numpy()  # [S + 1, n, k]
        self.n_snapshots = belongs.shape[0] - 1
        position = np.zeros(self.n_clusters, dtype=np.int64)  # 0: no members
        done = 1
        for s in range(1, self.n_snapshots + 1):
            member, column = np.nonzero(belongs[s])
            row = belongs[s][member, column]
            member = member[np.argsort(row, kind="stable")]
            rows, sizes = np.unique(row, return_counts=True)
            position[rows] = done + np.arange(len(rows))
            done += len(rows)
            self._keep(f"members_{s}", torch.from_numpy(member.astype(np.int64)))
            ends = np.cumsum(sizes)
            self._keep(f"offsets_{s}", torch.from_numpy((ends - sizes).astype(np.int64)))
            if weight == "logfreq":
                self._keep(f"weights_{s}", _log_weights(side, s, member, sizes))
        self.weighted = weight == "logfreq"
        self._keep("position", torch.from_numpy(position))
        table = torch.zeros(self.n_clusters, width)
        self.register_buffer("table", table, persistent=mode == "ema")
        self.register_load_state_dict_post_hook(_has_started)

    def _keep(self, name: str, values: torch.Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def compute(self, vocabulary_at: VocabularyAt) -> torch.Tensor:
        """Average the features of all members, with whatever gradient they carry.

        Args:
            vocabulary_at: From a snapshot's number (1..S) to features ``[n, width]`` of the whole
                vocabulary; asked once a snapshot.

        Returns:
            ``[G, width]``.
        """
        parts = [self.table.new_zeros(1, self.table.shape[1])]
        for s in range(1, self.n_snapshots + 1):
            members, offsets = self.get_buffer(f"members_{s}"), self.get_buffer(f"offsets_{s}")
            if not offsets.shape[0]:
                continue
            features = vocabulary_at(s).to(self.table.dtype)
            if self.weighted:
                weights = self.get_buffer(f"weights_{s}")
                parts.append(
                    F.embedding_bag(
                        members, features, offsets, mode="sum", per_sample_weights=weights
                    )
                )
            else:
                parts.append(F.embedding_bag(members, features, offsets, mode="mean"))
        return gather_rows(torch.cat(parts), self.position)

    @torch.no_grad()
    def refresh(self, vocabulary_at: VocabularyAt) -> None:
        """Set the buffer to the exact averages; in mode ``ema`` the first time alone."""
        if self.mode != "ema" or not self._started:
            with torch.autocast(self.table.device.type, enabled=False):
                self.table.copy_(self.compute(vocabulary_at))
        self._started = True

    def lookup(self, cluster: torch.Tensor) -> torch.Tensor:
        """Averages ``[B, width]`` of cluster rows ``[B]`` as the buffer has them."""
        return self.table.index_select(0, cluster)

    @torch.no_grad()
    def observe(self, cluster: torch.Tensor, features: torch.Tensor) -> None:
        """Move the averages of the clusters in a batch towards its members (``ema``).

        Args:
            cluster: Cluster rows ``[B]`` or ``[B, k]`` that each member belongs to, 0 for none.
            features: ``[B, width]`` at the rows' snapshots.
        """
        width = cluster[0].numel() if cluster.dim() > 1 else 1
        ordered, order = cluster.reshape(-1).sort(stable=True)
        order = torch.div(order, width, rounding_mode="floor")  # back to rows of the batch
        rows = torch.arange(self.n_clusters, device=cluster.device)
        start = torch.searchsorted(ordered, rows)
        features = features.to(self.table.dtype)
        means = F.embedding_bag(order, features, start, mode="mean")  # [G, width]
        end = torch.searchsorted(ordered, rows, right=True)
        moved = ((end > start) & (rows > 0)).unsqueeze(1)
        self.table.copy_(
            torch.where(moved, self.keep * self.table + (1 - self.keep) * means, self.table)
        )


def _has_started(module: nn.Module, _: object) -> None:
    """Loaded weights bring the moving averages with them."""
    module._started = True  # type: ignore[assignment]


def _log_weights(
    side: ClusterSide, snapshot: int, member: np.ndarray, sizes: np.ndarray
) -> torch.Tensor:
    """Weights log(1 + n) of the sorted members, summing to one in each cluster."""
    if side.log_exposures is None:
        raise TypeError("log weights: this side knows no exposures")
    log = side.log_exposures[snapshot].cpu().double().numpy()[member] + FLOOR
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    total = np.bincount(cluster, weights=log, minlength=len(sizes))
    return torch.from_numpy((log / total[cluster]).astype(np.float32))
