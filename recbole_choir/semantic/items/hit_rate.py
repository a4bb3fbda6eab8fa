"""How near vectors put what is chosen together: hit rates of held-out pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recbole_choir.semantic.items.cooccurrence import Pairs

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]

TOP: Final = (10, 30)
_CELLS: Final = 1 << 24  # similarities held at a time


class HitRates(NamedTuple):
    """Where the partners of held-out pairs rank.

    ``hit_rate_*`` and ``mean_rank`` leave out the item's partners of the training pairs, which
    stand above the held-out one by right; ``raw_*`` let them compete.
    """

    hit_rate_10: float
    hit_rate_30: float
    mean_rank: float
    raw_hit_rate_10: float
    raw_hit_rate_30: float
    raw_mean_rank: float

    def report(self) -> dict[str, float]:
        """As plain numbers, for a quality report."""
        return {name: round(float(value), 6) for name, value in self._asdict().items()}


class Partners:
    """The partners of each row in some pairs, for look-up.

    Args:
        pairs: Unordered pairs.
        n: Rows in all.
    """

    def __init__(self, pairs: Pairs, n: int) -> None:
        row = np.concatenate([pairs.first, pairs.second])
        partner = np.concatenate([pairs.second, pairs.first])
        order = np.lexsort((partner, row))
        self.partner = partner[order]
        self.start = np.append(0, np.cumsum(np.bincount(row, minlength=n))).astype(np.int64)

    def of(self, rows: Ints) -> tuple[Ints, Ints]:
        """Positions in ``rows`` and partners, one after the other: int64 [m] each."""
        size = self.start[rows + 1] - self.start[rows]
        position = np.repeat(np.arange(len(rows)), size)
        within = np.arange(len(position)) - np.repeat(np.cumsum(size) - size, size)
        return position, self.partner[np.repeat(self.start[rows], size) + within]


def hit_rates(
    x: NDArray[np.float32], valid: NDArray[np.bool_], held: Pairs, known: Pairs
) -> HitRates | None:
    """Rank the partner of every held-out pair among all items, from both of its ends.

    ::

        rank of j for i = 1 + |{k valid : cos(i, k) > cos(i, j)}| + |{k != j : equal}| / 2
        k: neither i, nor (but for ``raw_*``) a partner of i in the training pairs

    Ties count half, so that equal vectors rank as by chance.

    Args:
        x: float32 [n, d]; any norm.
        valid: bool [n], items that have a vector; pairs with another one are left out.
        held: Held-out pairs.
        known: Training pairs.

    Returns:
        Hit rates at 10 and 30 and mean ranks; None where no held-out pair is left.

    References:
        The filtered setting: Bordes et al., Translating Embeddings for Modeling Multi-relational
        Data, NeurIPS 2013, section 4.1.
    """
    z = _unit(x[valid])
    return _rates(lambda anchor: z[anchor] @ z.T, valid, held, known)


def popularity_rates(valid: NDArray[np.bool_], held: Pairs, known: Pairs) -> HitRates | None:
    """What ranking by popularity alone reaches, in the protocol of :func:`hit_rates`.

    ::

        score of k, for every i = sum of users over the training pairs with k

    The control of an alignment: vectors that fall behind it may have learned what is popular, and
    no more. It knows no held-out pair.

    Args:
        valid, held, known: As in :func:`hit_rates`.
    """
    ends = np.concatenate([known.first, known.second])
    users = np.concatenate([known.users, known.users]).astype(np.float64)
    popularity = np.bincount(ends, users, minlength=len(valid))[valid]
    return _rates(lambda anchor: np.tile(popularity, (len(anchor), 1)), valid, held, known)


def _rates(
    score_of: Callable[[Ints], NDArray[np.floating]],
    valid: NDArray[np.bool_],
    held: Pairs,
    known: Pairs,
) -> HitRates | None:
    """Hit rates where ``score_of`` gives the scores [m, valid ones] of anchors [m]."""
    both = valid[held.first] & valid[held.second]
    rows = np.flatnonzero(valid)
    if not both.any():
        return None
    place = np.full(len(valid), -1, np.int64)
    place[rows] = np.arange(len(rows))
    usable = valid[known.first] & valid[known.second]
    inner = Pairs(place[known.first[usable]], place[known.second[usable]], known.users[usable])
    partners = Partners(inner, len(rows))
    first, second = place[held.first[both]], place[held.second[both]]
    anchor, other = np.concatenate([first, second]), np.concatenate([second, first])
    step = max(1, _CELLS // len(rows))
    ranks = [
        _ranks(
            score_of(anchor[start : start + step]),
            anchor[start : start + step],
            other[start : start + step],
            partners,
        )
        for start in range(0, len(anchor), step)
    ]
    raw, filtered = np.concatenate(ranks, axis=1)  # [m] each
    numbers: list[Any] = []
    for rank in (filtered, raw):
        numbers += [float((rank <= k).mean()) for k in TOP] + [float(rank.mean())]
    return HitRates(*numbers)


def before_and_after(
    what: str,
    train: Pairs,
    held: Pairs,
    epoch: int,
    before: HitRates | None,
    after: HitRates | None,
    popularity: HitRates | None = None,
) -> dict[str, Any]:
    """Report of an alignment, also logged.

    A warning where the hit rate did not rise, or stays behind that of popularity alone.
    """
    report: dict[str, Any] = {
        "pairs": len(train.users),
        "held_out": len(held.users),
        "rows_with_pairs": len(np.union1d(train.first, train.second)),
        "epoch": epoch,
        "before": None if before is None else before.report(),
        "after": None if after is None else after.report(),
        "popularity": None if popularity is None else popularity.report(),
    }
    if before is None or after is None:
        logger.info("alignment of %s: no pair is held out, nothing was measured", what)
        return report
    logger.info(
        "alignment of %s: %d pairs of %d, best epoch %d; of %d held-out pairs, hit rate@10 "
        "%.4f -> %.4f, @30 %.4f -> %.4f, mean rank %.1f -> %.1f",
        *(what, report["pairs"], report["rows_with_pairs"], epoch, report["held_out"]),
        *(before.hit_rate_10, after.hit_rate_10, before.hit_rate_30, after.hit_rate_30),
        *(before.mean_rank, after.mean_rank),
    )
    if after.hit_rate_30 <= before.hit_rate_30:
        logger.warning("alignment of %s: the hit rate of held-out pairs did not rise", what)
    if popularity is not None:
        logger.info(
            "alignment of %s: ranking by popularity alone: hit rate@10 %.4f, @30 %.4f, mean rank "
            "%.1f",
            *(what, popularity.hit_rate_10, popularity.hit_rate_30, popularity.mean_rank),
        )
        if after.hit_rate_30 <= popularity.hit_rate_30:
            logger.warning(
                "alignment of %s: hit rate@30 %.4f of the aligned vectors is no higher than %.4f "
                "of popularity alone",
                *(what, after.hit_rate_30, popularity.hit_rate_30),
            )
    return report


def with_popularity(
    report: dict[str, Any], valid: NDArray[np.bool_], held: Pairs, train: Pairs
) -> dict[str, Any]:
    """A report that was kept with trained weights; those of older versions lack the control."""
    if "popularity" in report:
        return report
    rates = popularity_rates(valid, held, train)
    return {**report, "popularity": None if rates is None else rates.report()}


def _ranks(
    score: NDArray[np.floating], anchor: Ints, other: Ints, partners: Partners
) -> NDArray[np.float64]:
    """Rank of ``other`` for ``anchor`` among all and among those not known: [2, m].

    ``score`` [m, n] is written into.
    """
    at = np.arange(len(anchor))
    target = score[at, other].copy()
    score[at, anchor] = -np.inf  # an item is no partner of its own
    above = (score > target[:, None]).sum(axis=1)
    equal = (score == target[:, None]).sum(axis=1) - 1
    position, partner = partners.of(anchor)
    known = score[position, partner]
    above_known = np.bincount(position, known > target[position], minlength=len(anchor))
    equal_known = np.bincount(position, known == target[position], minlength=len(anchor))
    raw = 1.0 + above + 0.5 * equal
    return np.stack([raw, raw - above_known - 0.5 * equal_known])


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros(x.shape), where=norm > 0).astype(np.float32)
