"""Activity of users and items as of each row: counted from events strictly before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.asof import AsOfIndex, asof_sum, combine_keys

Floats = NDArray[np.float64]

SECONDS_A_DAY = 86_400.0
#: Pseudo-exposures of the smoothed positive rate: ten rows at the population's rate.
RATE_PRIOR = 10.0

USER_STAT_NAMES = (
    "log_exposures",
    "log_positives",
    "positive_rate",
    "log_recency_days",
    "log_categories",
    "is_new",
)
ITEM_STAT_NAMES = ("log_exposures", "log_positives", "positive_rate", "log_age_days")
#: Columns that are 0/1 flags: never standardised.
FLAGS = ("is_new",)
#: Default of ``stats_clip``, in standard deviations: further out lie the fill of a missing recency
#: (15 of them on ml-100k) and ids far from what training saw, which a network only extrapolates to.
STATS_CLIP = 4.0


def clip_statistics(values: Floats, limit: float | None) -> NDArray[np.float32]:
    """Bring standardised statistics into ``[-limit, limit]``, then cast: the one place that does.

    Args:
        values: Any shape, in standard deviations.
        limit: ``stats_clip``; None: no clip.

    Returns:
        float32 of the same shape.
    """
    return (values if limit is None else np.clip(values, -limit, limit)).astype(np.float32)


@dataclass(frozen=True)
class Events:
    """Labelled rows as arrays.

    Args:
        user, item: ``[E]`` internal ids.
        time: ``[E]`` float64 seconds. In another unit the two columns in days are off by a factor
            that standardising nearly undoes.
        label: ``[E]`` 0 or 1.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    time: Floats
    label: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Events:
        """The events at ``rows`` (positions or a mask)."""
        return Events(self.user[rows], self.item[rows], self.time[rows], self.label[rows])


@dataclass(frozen=True)
class ActivityStatistics:
    """Raw (not standardised) as-of statistics of rows.

    Args:
        user: ``[N, 6]`` columns ``USER_STAT_NAMES``; recency is NaN for a user without events.
        item: ``[N, 4]`` columns ``ITEM_STAT_NAMES``.
        n_buy: ``[N]`` positives of the user before the row.
    """

    user: Floats
    item: Floats
    n_buy: Floats


def activity_statistics(
    events: Events, rows: Events, categories: NDArray[np.integer] | None = None
) -> ActivityStatistics:
    """Count what users and items did strictly before each row.

    Nothing depends on the rows' own labels or on any event at or after a row's time. The smoothed
    rate is ``(positives + m p) / (exposures + m)`` with m = ``RATE_PRIOR`` and p the rate of the
    whole population as of the row, itself smoothed by one positive and one negative.

    Args:
        events: What may be counted: all rows, or the training rows alone.
        rows: The rows to describe; their labels are not read.
        categories: ``[n_items, k]`` category ids of each item, 0-padded. Without it the distinct
            categories of the user's positives are distinct items.

    Returns:
        Raw statistics; pass them to :func:`standardize`.

    References:
        AKT-Rec 4.1.1 (activity features); counts as of the row as in docs/baselines.md.
    """
    user, bought = user_activity(events, rows.user, rows.time, categories)
    return ActivityStatistics(user, item_activity(events, rows.item, rows.time), bought)


def user_activity(
    events: Events,
    users: NDArray[np.int64],
    time: Floats,
    categories: NDArray[np.integer] | None = None,
) -> tuple[Floats, Floats]:
    """Describe users as of times, as :func:`activity_statistics` does.

    Args:
        events: What may be counted.
        users: ``[N]`` internal ids.
        time: ``[N]``; events strictly before it are counted. ``-inf``: a user without events.
        categories: As in :func:`activity_statistics`.

    Returns:
        ``[N, 6]`` columns ``USER_STAT_NAMES``, and ``[N]`` positives.
    """
    prior = population_rate(events, time)
    by_user = AsOfIndex(events.user, events.time)
    start, end = by_user.bounds(users, time)
    seen, bought = (end - start).astype(np.float64), by_user.sum(events.label, start, end)
    recency = np.full(len(users), np.nan)
    known = end > start
    recency[known] = np.log1p((time[known] - by_user.time[end[known] - 1]) / SECONDS_A_DAY)
    columns = [
        np.log1p(seen),
        np.log1p(bought),
        _smooth(bought, seen, prior),
        recency,
        np.log1p(distinct_positives(events, users, time, categories)),
        (~known).astype(np.float64),
    ]
    return np.stack(columns, axis=1), bought


def item_activity(events: Events, items: NDArray[np.int64], time: Floats) -> Floats:
    """Describe items as of times, as :func:`activity_statistics` does.

    Args:
        events: What may be counted.
        items: ``[N]`` internal ids.
        time: ``[N]``; events strictly before it are counted. ``-inf``: an item without events.

    Returns:
        ``[N, 4]`` columns ``ITEM_STAT_NAMES``.
    """
    prior = population_rate(events, time)
    by_item = AsOfIndex(events.item, events.time)
    start, end = by_item.bounds(items, time)
    shown, sold = (end - start).astype(np.float64), by_item.sum(events.label, start, end)
    age = np.zeros(len(items))  # an item never seen before is new: age 0
    known = end > start
    age[known] = np.log1p((time[known] - by_item.time[start[known]]) / SECONDS_A_DAY)
    return np.stack([np.log1p(shown), np.log1p(sold), _smooth(sold, shown, prior), age], axis=1)


def population_rate(events: Events, time: Floats) -> Floats:
    """Rate of positives of all events strictly before each time: ``(positives + 1) / (n + 2)``."""
    order = np.argsort(events.time, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(events.label[order], dtype=np.float64)])
    before = np.searchsorted(events.time[order], time, "left")
    return (total[before] + 1.0) / (before + 2.0)


def distinct_positives(
    events: Events,
    users: NDArray[np.int64],
    time: Floats,
    categories: NDArray[np.integer] | None,
) -> Floats:
    """Distinct categories (or items) among users' positives strictly before times: each [N]."""
    bought = events.take(events.label > 0)
    if categories is None:
        at, what = np.arange(len(bought)), bought.item
    else:
        at, what = expand_categories(bought.item, categories)
    key = combine_keys(bought.user[at], what)
    bought_at = bought.time[at]
    # Only the first event of each (user, category) adds one to the count.
    index = AsOfIndex(key, bought_at)
    keep = np.sort(index.order[index.first[:-1]])
    return asof_sum(bought.user[at][keep], bought_at[keep], users, time)


def expand_categories(
    items: NDArray[np.integer], categories: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the categories of items as pairs (position in ``items``, category id).

    Args:
        items: ``[N]`` internal item ids.
        categories: ``[n_items, k]``, 0-padded.
    """
    table = np.asarray(categories)[items]  # [N, k]
    at, column = np.nonzero(table)
    return at, table[at, column].astype(np.int64)


@dataclass(frozen=True)
class Standardizer:
    """Shift and scale of statistics, fitted on the training rows and applied to anything else.

    A missing value (NaN: no event yet) becomes the largest value seen in training rows, which is
    what "longest ago" means, and is told apart by the flag column. Flags stay 0 or 1; a column
    without any value in training is 0. Everything else is clipped, the fill included.

    Args:
        names: Names of the p columns.
        mean, scale, fill: ``[p]``; NaN for flags and for columns without a value in training.
        clip: Largest absolute value, in standard deviations; None: no clip.
    """

    names: tuple[str, ...]
    mean: Floats
    scale: Floats
    fill: Floats
    clip: float | None = STATS_CLIP

    @classmethod
    def fit(
        cls,
        raw: Floats,
        train: NDArray[np.integer] | NDArray[np.bool_] | slice,
        names: tuple[str, ...],
        clip: float | None = STATS_CLIP,
    ) -> Standardizer:
        """Take mean and standard deviation of ``[N, p]`` over the training rows.

        A column constant in training is only shifted.
        """
        mean, scale, fill = np.full((3, len(names)), np.nan)
        for c, name in enumerate(names):
            fitted = raw[:, c][train]
            fitted = fitted[np.isfinite(fitted)]
            if name in FLAGS or fitted.size == 0:
                continue
            deviation = float(fitted.std())
            mean[c], scale[c] = fitted.mean(), deviation if deviation > 1e-8 else 1.0
            fill[c] = fitted.max()
        return cls(names, mean, scale, fill, clip)

    def apply(self, raw: Floats) -> NDArray[np.float32]:
        """Standardise and clip ``[N, p]``: float32, finite everywhere."""
        out = np.empty(raw.shape, dtype=np.float32)
        for c, name in enumerate(self.names):
            column = raw[:, c]
            if name in FLAGS:
                out[:, c] = column
            elif np.isnan(self.scale[c]):
                out[:, c] = 0.0
            else:
                column = np.where(np.isfinite(column), column, self.fill[c])
                out[:, c] = clip_statistics((column - self.mean[c]) / self.scale[c], self.clip)
        return out


def standardize(
    raw: Floats,
    train: NDArray[np.integer] | NDArray[np.bool_] | slice,
    names: tuple[str, ...],
    clip: float | None = STATS_CLIP,
) -> NDArray[np.float32]:
    """Fit a :class:`Standardizer` on the training rows and apply it to all: float32 ``[N, p]``."""
    return Standardizer.fit(raw, train, names, clip).apply(raw)


def _smooth(positives: Floats, exposures: Floats, prior: Floats) -> Floats:
    return (positives + RATE_PRIOR * prior) / (exposures + RATE_PRIOR)
