"""AUC and LogLoss over all rows."""

from __future__ import annotations

from logging import getLogger

import numpy as np
import numpy.typing as npt

from recbole_choir.evaluator.checks import check_labels, check_scores
from recbole_choir.evaluator.pairs import count_pairs

_logger = getLogger(__name__)

# RecBole's LogLoss keeps probabilities this far away from 0 and 1.
LOGLOSS_EPS = 1e-15


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Compute the area under the ROC curve over all rows, ties counting one half.

    Args:
        labels: 0 or 1, ``[N]``.
        scores: Any number where higher means more likely positive, ``[N]``; no NaN.

    Returns:
        AUC in [0, 1]; NaN, with a line in the log, if all labels are equal.

    Raises:
        DataError: On NaN scores, labels other than 0 and 1, unequal lengths or no rows.
    """
    y = check_labels(labels)
    s = check_scores(scores, y.size)
    value = float(count_pairs(y, s, np.zeros(y.size, dtype=np.int64)).auc[0])
    if np.isnan(value):
        _logger.warning("AUC is undefined (nan): all %d labels are equal", y.size)
    return value


def logloss(labels: npt.ArrayLike, probabilities: npt.ArrayLike, eps: float = LOGLOSS_EPS) -> float:
    """Compute the mean negative log-likelihood of the labels, in nats.

    Args:
        labels: 0 or 1, ``[N]``.
        probabilities: Predicted probability of label 1, ``[N]``; no NaN.
        eps: Probabilities are clipped to [eps, 1 - eps] in double precision; the default is
            RecBole's, so that both give the same figure.

    Raises:
        DataError: On NaN, labels other than 0 and 1, unequal lengths or no rows.
    """
    y = check_labels(labels)
    p = np.clip(check_scores(probabilities, y.size).astype(np.float64), eps, 1 - eps)
    return float(-np.log(np.where(y, p, 1 - p)).mean())
