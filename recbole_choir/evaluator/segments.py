"""Segments of the evaluated rows by the activity of users and items, and the metrics of each.

Users and items are told apart by the training rows (:meth:`Segments.fit`): a user is low, a tail
user or new in all of its rows. Histories are as of the row, so that a low user may have a long one
by then; the as-of segments tell rows apart by what their user had done before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.evaluator.checks import as_vector, check_groups, check_labels, check_scores
from recbole_choir.evaluator.gauc import check_weighting, weighted_mean_auc
from recbole_choir.evaluator.metrics import logloss
from recbole_choir.evaluator.pairs import count_pairs

N_LEVELS: Final = 5
#: Rows of users with fewer positives than this before the row are ``n_buy_lt_5``.
FEW_POSITIVES: Final = 5

#: Segments that need the positives before each row.
ASOF_NAMES: Final = (
    *(f"asof_{k}" for k in range(1, N_LEVELS + 1)),
    f"n_buy_lt_{FEW_POSITIVES}",
)
#: What rows are told apart by, in order of the report.
SEGMENT_NAMES: Final = (
    "all",
    "low",
    "rest",
    *(f"level_{k}" for k in range(1, N_LEVELS + 1)),
    *ASOF_NAMES,
    "head_users",
    "tail_users",
    "head_items",
    "tail_items",
    "tail_sample",
    "new_users",
    "new_items",
)
SEGMENT_COLUMNS: Final = (
    "auc",
    "gauc",
    "gauc_uniform",
    "rows",
    "users",
    "positive_share",
    "users_one_class",
    "logloss",
)

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Which users and items are low-activity, tail or new, by id.

    Attributes:
        user_positives: int64 ``[n_users]`` training rows with label 1; orders the five levels.
        low: bool ``[n_users]`` low-activity users; the others are the rest.
        tail_user, tail_item: bool, by id; the others are the head.
        new_user, new_item: bool, by id: without any training row.
    """

    user_positives: Ints
    low: Bools
    tail_user: Bools
    tail_item: Bools
    new_user: Bools
    new_item: Bools

    @classmethod
    def fit(
        cls,
        train_users: npt.ArrayLike,
        train_items: npt.ArrayLike,
        train_labels: npt.ArrayLike,
        n_users: int,
        n_items: int,
        low_share: float = 0.55,
        tail_user: Mapping[str, float] | None = None,
        tail_item: Mapping[str, float] | None = None,
    ) -> Segments:
        """Fix the definitions on the training rows.

        Args:
            train_users, train_items: Internal ids of the training rows, ``[N]``.
            train_labels: 0 or 1, ``[N]``.
            n_users, n_items: Vocabulary sizes including the padding id 0.
            low_share: Share of the users seen in training that are called low-activity: those with
                the fewest training rows, equal counts in order of id. New users are low too. 0.55
                as in ChoirRec.
            tail_user: ``{count: c}``: tail users have fewer than c training rows, or
                ``{quantile: q}``: the share q of the users seen in training with the fewest rows.
                New users are tail. Default ``{count: 5}``, as in AKT-Rec.
            tail_item: The same for items and their exposures. Default ``{count: 10}``.

        Returns:
            The fitted segments.

        Raises:
            DataError: If lengths differ or an id lies outside its vocabulary.
            ConfigError: If a share or a tail rule is malformed.

        References:
            ChoirRec, section 5.1 (docs/gaps.md C20); AKT-Rec, section 2 (docs/gaps.md A21).
        """
        if not 0 <= low_share <= 1:
            raise ConfigError(f"low_activity_share: expected 0 to 1, got {low_share}")
        positive = check_labels(train_labels)
        users = _ids("train_users", train_users, positive.size, n_users)
        items = _ids("train_items", train_items, positive.size, n_items)
        user_rows = np.bincount(users, minlength=n_users)
        item_rows = np.bincount(items, minlength=n_items)
        return cls(
            user_positives=np.bincount(users[positive], minlength=n_users).astype(np.int64),
            low=bottom_share(user_rows, low_share),
            tail_user=_tail("tail_user", tail_user or {"count": 5}, user_rows),
            tail_item=_tail("tail_item", tail_item or {"count": 10}, item_rows),
            new_user=user_rows == 0,
            new_item=item_rows == 0,
        )

    def levels(self, users: npt.ArrayLike) -> dict[int, int]:
        """Return the activity level, 1 (least) to 5, of each evaluated user.

        The users are ranked by training positives, equal counts in order of id, and cut into five
        parts whose sizes differ by at most one.

        Args:
            users: Internal ids, ``[N]``; duplicates are ignored.
        """
        ids, level = self._levels(as_vector("users", users))
        return dict(zip(ids.tolist(), level.tolist()))

    def _levels(self, users: npt.NDArray[Any]) -> tuple[Ints, Ints]:
        ids = np.unique(users).astype(np.int64)
        order = np.argsort(self.user_positives[ids], kind="stable")  # ids ascend: ties by id
        level = np.empty(len(ids), dtype=np.int64)
        level[order] = np.arange(len(ids)) * N_LEVELS // len(ids) + 1
        return ids, level

    def masks(
        self, users: npt.ArrayLike, items: npt.ArrayLike, n_buy: npt.ArrayLike | None = None
    ) -> dict[str, Bools]:
        """Return, for each segment in order of the report, which rows belong to it.

        Args:
            users, items: Internal ids of the rows, ``[N]``.
            n_buy: Positives of the row's user strictly before the row, ``[N]``; without them there
                are no as-of segments (:data:`ASOF_NAMES`).

        Raises:
            DataError: If lengths differ, an id lies outside its vocabulary or ``n_buy`` is not a
                number from 0.
        """
        n_rows = as_vector("users", users).size
        u = _ids("users", users, n_rows, len(self.low))
        i = _ids("items", items, n_rows, len(self.tail_item))
        low, tail_u, tail_i = self.low[u], self.tail_user[u], self.tail_item[i]
        ids, level = self._levels(u)
        row_level = level[np.searchsorted(ids, u)]
        return {
            "all": np.ones(n_rows, dtype=np.bool_),
            "low": low,
            "rest": ~low,
            **{f"level_{k}": row_level == k for k in range(1, N_LEVELS + 1)},
            **({} if n_buy is None else asof_masks(_counts("n_buy", n_buy, n_rows))),
            "head_users": ~tail_u,
            "tail_users": tail_u,
            "head_items": ~tail_i,
            "tail_items": tail_i,
            "tail_sample": tail_u | tail_i,
            "new_users": self.new_user[u],
            "new_items": self.new_item[i],
        }

    def report(
        self,
        users: npt.ArrayLike,
        items: npt.ArrayLike,
        labels: npt.ArrayLike,
        scores: npt.ArrayLike,
        weighting: str = "impressions",
        n_buy: npt.ArrayLike | None = None,
    ) -> dict[str, dict[str, float]]:
        """Compute the metrics of every segment.

        Args:
            users, items: Internal ids of the evaluated rows, ``[N]``.
            labels, scores: See :func:`recbole_choir.evaluator.gauc`.
            weighting: Weight of a user in the column ``gauc``.
            n_buy: See :meth:`masks`.

        Returns:
            Segment name -> :data:`SEGMENT_COLUMNS`: ``auc`` over the segment's rows, ``gauc``,
            ``gauc_uniform`` (docs/gaps.md C23), ``rows``, ``users``, ``positive_share`` (of the
            segment's rows), ``users_one_class`` (left out of gauc) and ``logloss``. A user's AUC is
            made of its rows within the segment. What is undefined is NaN.
            ``pandas.DataFrame.from_dict(report, orient="index")`` makes a table.

        Raises:
            DataError: On malformed arrays.
            ConfigError: On an unknown weighting.
        """
        check_weighting(weighting)
        y = check_labels(labels)
        s = check_scores(scores, y.size)
        u = check_groups(users, y.size, "users")
        i = check_groups(items, y.size, "items")
        return {
            name: segment_metrics(u[mask], y[mask], s[mask], weighting)
            for name, mask in self.masks(u, i, n_buy).items()
        }


def asof_masks(n_buy: npt.NDArray[Any]) -> dict[str, Bools]:
    """Return which rows belong to each as-of segment (:data:`ASOF_NAMES`).

    ``asof_1`` (least) to ``asof_5`` are fifths of the evaluated rows by the positives before them.
    Equal numbers stay together: a row's fifth is that of the share of rows with fewer positives,
    floor(5 share) + 1. ``asof_1`` thus holds a fifth of the rows or more, and a number that many
    rows have may leave the next fifths empty. ``n_buy_lt_5`` does not depend on the other rows.

    Args:
        n_buy: Positives of the user strictly before each row, ``[N]``.

    Returns:
        Name -> bool ``[N]``.
    """
    fewer = np.searchsorted(np.sort(n_buy), n_buy)  # rows with fewer positives
    fifth = fewer * N_LEVELS // len(n_buy) + 1
    masks = {f"asof_{k}": fifth == k for k in range(1, N_LEVELS + 1)}
    return {**masks, f"n_buy_lt_{FEW_POSITIVES}": n_buy < FEW_POSITIVES}


def segment_metrics(
    users: npt.NDArray[Any], y: Bools, s: npt.NDArray[Any], weighting: str
) -> dict[str, float]:
    """Metrics of one segment, :data:`SEGMENT_COLUMNS`.

    Counts are ints, so that a record shows them as such.

    Args:
        users: User of each row of the segment, ``[n]``.
        y: bool ``[n]``, True for positives.
        s: Scores ``[n]``; ``logloss`` is NaN where they are no probabilities.
        weighting: Weight of a user in ``gauc``.
    """
    nan = float("nan")
    if y.size == 0:
        return dict(zip(SEGMENT_COLUMNS, (nan, nan, nan, 0, 0, nan, 0, nan)))
    counts = count_pairs(y, s, users)
    weighted = weighted_mean_auc(counts, weighting)
    whole = count_pairs(y, s, np.zeros(y.size, dtype=np.int64))
    return {
        "auc": float(whole.auc[0]),
        "gauc": weighted.value,
        "gauc_uniform": weighted_mean_auc(counts, "uniform").value,
        "rows": int(y.size),
        "users": weighted.n_users,
        "positive_share": float(y.mean()),
        "users_one_class": weighted.n_one_class,
        "logloss": logloss(y, s) if s.min() >= 0 and s.max() <= 1 else nan,
    }


def _counts(name: str, values: npt.ArrayLike, n_rows: int) -> npt.NDArray[Any]:
    """Check a number of events for each row."""
    counts = as_vector(name, values)
    if counts.size != n_rows:
        raise DataError(f"{name}: expected {n_rows} rows as in users, got {counts.size}")
    if counts.dtype.kind not in "iuf":
        raise DataError(f"{name}: expected numbers from 0, got values of type {counts.dtype}")
    bad = np.flatnonzero(~(counts >= 0))  # NaN too
    if bad.size:
        raise DataError(f"{name}: expected numbers from 0, got {counts[bad[0]]} in row {bad[0]}")
    return counts


def _ids(name: str, values: npt.ArrayLike, n_rows: int, size: int) -> Ints:
    """Check internal ids against their vocabulary."""
    ids = check_groups(values, n_rows, name)
    if ids.dtype.kind not in "iu":
        raise DataError(f"{name}: expected internal integer ids, got values of type {ids.dtype}")
    ids = ids.astype(np.int64)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise DataError(f"{name}: expected ids from 0 to {size - 1}, got {low} to {high}")
    return ids


def bottom_share(counts: npt.NDArray[Any], share: float) -> Bools:
    """Mark the ids without rows, and of the others the given share with the fewest rows."""
    marked = counts == 0
    seen = np.flatnonzero(~marked)
    order = seen[np.argsort(counts[seen], kind="stable")]  # equal counts in order of id
    marked[order[: round(share * len(seen))]] = True
    return marked


def _tail(name: str, rule: Mapping[str, float], counts: npt.NDArray[Any]) -> Bools:
    """Apply ``{count: c}`` or ``{quantile: q}``."""
    if len(rule) != 1 or next(iter(rule)) not in ("count", "quantile"):
        raise ConfigError(f"{name}: expected {{count: c}} or {{quantile: q}}, got {dict(rule)}")
    (kind, value), *_ = rule.items()
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value < 0 or (kind == "quantile" and value > 1):
        limit = "at least 0" if kind == "count" else "0 to 1"
        raise ConfigError(f"{name}: expected {kind} {limit}, got {value}")
    return counts < value if kind == "count" else bottom_share(counts, value)
