"""GAUC on labelled rows: the AUC inside each user's rows, averaged over users."""

from __future__ import annotations

from logging import getLogger
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.evaluator.checks import check_groups, check_labels, check_scores
from recbole_choir.evaluator.pairs import PairCounts, count_pairs

WEIGHTINGS: Final = ("impressions", "positives", "uniform")

_logger = getLogger(__name__)


class GAUCReport(NamedTuple):
    """GAUC and what it was computed from.

    Attributes:
        value: The weighted mean of the users' AUCs; NaN if every user has one class only.
        n_users: Users in the rows, the left-out ones included.
        n_one_class: Users left out because all their labels are equal.
        n_rows_used: Rows of the users that were not left out.
    """

    value: float
    n_users: int
    n_one_class: int
    n_rows_used: int


def check_weighting(weighting: str) -> str:
    """Return ``weighting`` if it is one of :data:`WEIGHTINGS`.

    Raises:
        ConfigError: Otherwise, naming the nearest.
    """
    if weighting not in WEIGHTINGS:
        raise ConfigError(
            f"gauc_weighting: expected one of {', '.join(WEIGHTINGS)}, got '{weighting}'"
            f"{nearest(str(weighting), WEIGHTINGS)}"
        )
    return weighting


def user_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike) -> PairCounts:
    """Count each user's positives, negatives and rightly ordered pairs; ``.auc`` is its AUC.

    Args:
        labels: 0 or 1, ``[N]``.
        scores: Any number where higher means more likely positive, ``[N]``; no NaN.
        groups: The user of each row (integers or strings), ``[N]``.

    Returns:
        One entry per user in ascending order of id. ``auc`` is NaN for one-class users.

    Raises:
        DataError: On NaN scores, labels other than 0 and 1, unequal lengths or no rows.
    """
    y = check_labels(labels)
    s = check_scores(scores, y.size)
    g = check_groups(groups, y.size)
    return count_pairs(y, s, g)


def weighted_mean_auc(counts: PairCounts, weighting: str = "impressions") -> GAUCReport:
    """Average the AUCs of :func:`user_auc` over the users with both classes.

    Args:
        counts: One entry per user.
        weighting: See :func:`gauc`.
    """
    check_weighting(weighting)
    both = (counts.positives > 0) & (counts.negatives > 0)
    rows = counts.positives + counts.negatives
    n_users = len(rows)
    n_one_class = n_users - int(both.sum())
    if n_one_class == n_users:
        return GAUCReport(float("nan"), n_users, n_one_class, 0)
    weights = {
        "impressions": rows,
        "positives": counts.positives,
        "uniform": np.ones(n_users, dtype=np.int64),
    }[weighting][both]
    value = float((counts.auc[both] * weights).sum() / weights.sum())
    return GAUCReport(value, n_users, n_one_class, int(rows[both].sum()))


def gauc_report(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weighting: str = "impressions",
) -> GAUCReport:
    """Compute GAUC and count the users and rows behind it.

    Args:
        labels, scores, groups, weighting: See :func:`gauc`.

    Returns:
        ``(value, n_users, n_one_class, n_rows_used)``.

    Raises:
        DataError, ConfigError: See :func:`gauc`.
    """
    check_weighting(weighting)
    report = weighted_mean_auc(user_auc(labels, scores, groups), weighting)
    if report.n_one_class == report.n_users:
        _logger.warning(
            "GAUC is undefined (nan): each of the %d users has labels of one class only",
            report.n_users,
        )
    return report


def gauc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weighting: str = "impressions",
) -> float:
    """Compute the group AUC: each user's own AUC, averaged over the users.

    Ties count one half. Users whose labels are all equal have no AUC: they are left out
    (:func:`gauc_report` counts them). The result is exact up to the last division and sum, and does
    not depend on the order of the rows.

    Args:
        labels: 0 or 1, ``[N]``.
        scores: Any number where higher means more likely positive, ``[N]``; no NaN.
        groups: The user of each row (integers or strings), ``[N]``.
        weighting: The weight of a user's AUC: ``impressions`` (its rows; the default, as DIN
            defines GAUC and docs/gaps.md C23 reads "user-weighted"), ``positives`` (its rows with
            label 1, as RecBole's ranking GAUC) or ``uniform``.

    Returns:
        GAUC in [0, 1]; NaN, with a line in the log, if every user has one class only.

    Raises:
        DataError: On NaN scores, labels other than 0 and 1, unequal lengths or no rows.
        ConfigError: On an unknown weighting.

    References:
        Zhou et al., Deep Interest Network for Click-Through Rate Prediction, section 5.3.
    """
    return gauc_report(labels, scores, groups, weighting).value
