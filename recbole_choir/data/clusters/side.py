"""Clusters of users or items: members, activity and partners across head and tail."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_choir.data.members import belongs_in_all
from recbole_choir.errors import DataError

logger = logging.getLogger("recbole_choir")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Partners:
    """Lists of ids, of which ids of one cluster and class share one.

    Args:
        start, end: int64 ``[n]`` range of each id's list in ``ids``.
        ids: int64 ``[P]``: all lists of clusters, then all lists of prefixes; each ascending.
        cumulative: float64 ``[P + 1]`` cumulative weights.
    """

    start: Ints
    end: Ints
    ids: Ints
    cumulative: NDArray[np.float64]

    @classmethod
    def build(
        cls,
        home: Ints,
        prefix: Ints,
        tail: NDArray[np.bool_],
        rows: Ints,
        belongs: Ints | None = None,
    ) -> Partners:
        """List the opposite class of each cluster and prefix, over the whole vocabulary.

        An id takes the list of its cluster; where that has nobody of the opposite class, the list
        of its prefix; else none. Only ids with a training row are listed. An id without one has a
        list all the same: there it finds the heads of its cluster.

        Args:
            home: int64 ``[n]`` cluster of each id, 0 for none.
            prefix: int64 ``[n]`` number of the first two codes, 0 for unknown.
            tail: bool ``[n]``.
            rows: int64 ``[n]`` training rows of each id; 0 for the padding id.
            belongs: int64 ``[n, k]`` all clusters that each id is a member of, 0 for none; its own
                by default.

        Returns:
            The lists; a head weighs the square root of its training rows, a tail 1.

        References:
            AKT-Rec Eq. 4; docs/gaps.md A3, A4.
        """
        belongs = home[:, None] if belongs is None else belongs
        by_cluster, start, end = _opposite(home, belongs, tail, rows)
        by_prefix, start_2, end_2 = _opposite(prefix, prefix[:, None], tail, rows)
        backs_off = (end == start) & (end_2 > start_2)
        start = np.where(backs_off, start_2 + len(by_cluster), start)
        end = np.where(backs_off, end_2 + len(by_cluster), end)
        ids = np.concatenate([by_cluster, by_prefix])
        weight = np.where(tail[ids], 1.0, np.sqrt(rows[ids]))
        seen = rows > 0
        logger.info(
            "partners across head and tail: %d of %d ids in training have one in their cluster,"
            " %d in its prefix",
            int((seen & (end > start) & ~backs_off).sum()), int(seen.sum()),
            int((seen & backs_off).sum()),
        )  # fmt: skip
        return cls(start, end, ids, np.append(0.0, np.cumsum(weight)))


def _opposite(
    key: Ints, belongs: Ints, tail: NDArray[np.bool_], rows: Ints
) -> tuple[Ints, Ints, Ints]:
    """Members sorted by (key, class), and the range of the opposite class for each id."""
    member, column = np.nonzero((rows > 0)[:, None] & (belongs > 0))
    place = belongs[member, column] * 2 + tail[member]
    order = np.argsort(place, kind="stable")
    member, place = member[order], place[order]
    wanted = key * 2 + ~tail
    start = np.searchsorted(place, wanted, "left").astype(np.int64)
    end = np.searchsorted(place, wanted, "right").astype(np.int64)
    return member.astype(np.int64), np.where(key > 0, start, 0), np.where(key > 0, end, 0)


@dataclass
class ClusterSide:
    """Clusters of the users, or of the items.

    A cluster row stands for one cluster in one snapshot; row 0 is the empty cluster.

    Args:
        cluster: int32 ``[S + 1, n]`` cluster row that each id reads, 0 for none.
        belongs: int32 ``[S + 1, n, k]`` all cluster rows that each id is a member of, 0 for none:
            its own, and every prefix of it that small clusters back off to
            (:mod:`recbole_choir.prefix_groups`).
        n_clusters: G, rows including the empty one.
        stats: float32 ``[S + 1, n, p]`` activity as of each snapshot's time, standardised as the
            batch field of the same name is (``USER_STATS`` or ``ITEM_STATS``); index 0 holds that
            of an id without events.
        tail: bool ``[n]`` tail ids by their training rows (A21); the padding id is not.
        seen: bool ``[n]`` ids with a training row.
        home: int64 ``[n]`` cluster row that an id reads in the newest snapshot, 0 for none: what
            the transfer loss calls its cluster.
        partner_start, partner_end: int64 ``[n]`` range in ``partner_ids`` of the ids of the
            opposite class (head or tail) in the id's cluster (or in its prefix, A4); equal where
            there is none.
        partner_ids: int64 ``[P]``.
        partner_cum: float64 ``[P + 1]`` cumulative weight: sqrt of the training rows for heads, 1
            for tails (A3).
        log_exposures: float32 ``[S + 1, n]`` log(1 + exposures) before each snapshot, as it is:
            ``stats`` hold it standardised and clipped. None where nobody weights by it.

    References:
        AKT-Rec 3.2.1, Eq. 4 and 3.2.2, Eq. 9; docs/gaps.md A3, A4, A18, A21.
    """

    cluster: torch.Tensor
    belongs: torch.Tensor
    n_clusters: int
    stats: torch.Tensor
    tail: torch.Tensor
    seen: torch.Tensor
    home: torch.Tensor
    partner_start: torch.Tensor
    partner_end: torch.Tensor
    partner_ids: torch.Tensor
    partner_cum: torch.Tensor
    log_exposures: torch.Tensor | None = None

    @classmethod
    def build(
        cls,
        cluster: torch.Tensor,
        codes: torch.Tensor,
        n_clusters: int,
        stats: torch.Tensor,
        train_rows: NDArray[np.integer],
        tail: NDArray[np.bool_],
        level: NDArray[np.integer] | None = None,
        log_exposures: torch.Tensor | None = None,
    ) -> ClusterSide:
        """Find the partners of every id.

        Args:
            cluster: int32 ``[S + 1, n]`` cluster row of each id, 0 for none.
            codes: int32 ``[S + 1, n, M]``, 0 for unknown, else the code + 1.
            n_clusters: G.
            stats: float32 ``[S + 1, n, p]``.
            train_rows: ``[n]`` training rows of each id.
            tail: bool ``[n]`` tail ids; the padding id counts as neither whatever this says.
            level: ``[G]`` how many codes each cluster stands for; None: a cluster's members are the
                ids that have it as theirs, and no others.
            log_exposures: float32 ``[S + 1, n]``, see the attribute.

        Raises:
            DataError: Arrays of different numbers of ids.
        """
        n = cluster.shape[1]
        if not len(train_rows) == len(tail) == codes.shape[1] == stats.shape[1] == n:
            raise DataError(
                f"clusters: expected arrays of {n} ids, got {codes.shape[1]} codes,"
                f" {stats.shape[1]} statistics, {len(train_rows)} counts, {len(tail)} tail flags"
            )
        tail = np.array(tail, dtype=bool)
        rows = np.array(train_rows, dtype=np.int64)
        home = cluster[-1].cpu().numpy().astype(np.int64)
        prefix = _prefix(codes[-1].cpu().numpy())
        belongs = belongs_in_all(cluster.cpu().numpy(), codes.cpu().numpy(), level)
        tail[0], rows[0], home[0], prefix[0] = False, 0, 0, 0
        partners = Partners.build(home, prefix, tail, rows, belongs[-1])
        return cls(
            cluster=cluster,
            belongs=torch.from_numpy(belongs.astype(np.int32)),
            n_clusters=int(n_clusters),
            stats=stats,
            tail=torch.from_numpy(tail),
            seen=torch.from_numpy(rows > 0),
            home=torch.from_numpy(home),
            partner_start=torch.from_numpy(partners.start),
            partner_end=torch.from_numpy(partners.end),
            partner_ids=torch.from_numpy(partners.ids),
            partner_cum=torch.from_numpy(partners.cumulative),
            log_exposures=log_exposures,
        )

    def draw_partners(self, ids: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Draw one partner of the opposite class for each id, by weight (A3).

        Args:
            ids: int64 ``[B]``.
            uniform: ``[B]`` numbers in [0, 1), one draw each.

        Returns:
            int64 ``[B]`` ids; 0 where the id has no partner.
        """
        start, end = self.partner_start[ids], self.partner_end[ids]
        low, high = self.partner_cum[start], self.partner_cum[end]
        wanted = low + uniform.to(low.dtype) * (high - low)
        at = torch.searchsorted(self.partner_cum, wanted, right=True) - 1
        # Rounding may step over the end of a range; an empty one has no place to step to.
        at = torch.minimum(torch.maximum(at, start), end - 1).clamp_(min=0)
        if not self.partner_ids.shape[0]:
            return torch.zeros_like(ids)
        return torch.where(end > start, self.partner_ids[at], torch.zeros_like(ids))

    def to(self, device: torch.device | str) -> ClusterSide:
        """The same on ``device``."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                values[name] = value.to(device)
        return ClusterSide(**values)


def _prefix(codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """A number for each pair of the first two codes of ``[n, M]``; 0 where one is unknown."""
    if codes.shape[1] < 2:
        return np.zeros(len(codes), dtype=np.int64)
    first, second = codes[:, 0].astype(np.int64), codes[:, 1].astype(np.int64)
    width = int(second.max(initial=0)) + 1
    return np.where((first > 0) & (second > 0), first * width + second, 0)
