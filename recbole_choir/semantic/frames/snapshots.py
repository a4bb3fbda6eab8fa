"""When snapshots are taken."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from recbole_choir.settings.recipe import SnapshotRecipe

logger = logging.getLogger(__name__)


def snapshot_times(times: NDArray[np.float64], recipe: SnapshotRecipe) -> NDArray[np.float64]:
    """Choose the moments of the snapshots; each uses the events strictly before its own.

    Args:
        times: Epoch seconds of all interactions, at least one.
        recipe: ``snapshot_times`` if given; otherwise ``n_snapshots`` moments at equal steps of the
            number of interactions, the last one just after the last interaction.

    Returns:
        Increasing float64 [S]. Moments with nothing before them are dropped, and equal ones joined,
        with a log line: S may be smaller than ``n_snapshots``, but never zero.
    """
    if recipe.snapshot_times is not None:
        return np.asarray(recipe.snapshot_times, np.float64)
    n = recipe.n_snapshots
    inner = np.quantile(times, np.arange(1, n) / n, method="higher")
    last = np.nextafter(times.max(), np.inf)
    moments = np.unique(np.append(inner, last))
    moments = moments[moments > times.min()]
    if len(moments) < n:
        logger.warning(
            "%d of %d snapshots are left: too many interactions share a time", len(moments), n
        )
    return moments
