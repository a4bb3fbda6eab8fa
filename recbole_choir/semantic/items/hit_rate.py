"""How near vectors put what is chosen together: hit rates of held-out pairs."""

from __future__ import annotations

import logging
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
    z = _unit(x[rows])
    step = max(1, _CELLS // len(rows))
    ranks = [
        _ranks(z, anchor[start : start + step], other[start : start + step], partners)
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
) -> dict[str, Any]:
    """Report of an alignment, also logged; a warning where the hit rate did not rise."""
    report: dict[str, Any] = {
        "pairs": len(train.users),
        "held_out": len(held.users),
        "rows_with_pairs": len(np.union1d(train.first, train.second)),
        "epoch": epoch,
        "before": None if before is None else before.report(),
        "after": None if after is None else after.report(),
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
    return report


def _ranks(
    z: NDArray[np.float32], anchor: Ints, other: Ints, partners: Partners
) -> NDArray[np.float64]:
    """Rank of ``other`` for ``anchor`` among all and among those not known: [2, m]."""
    score = z[anchor] @ z.T  # [m, n]
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
