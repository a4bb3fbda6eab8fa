"""How long the vectors of users are, by how active the users were in training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recbole_choir.errors import DataError
from recbole_choir.evaluator.segments import N_LEVELS

NORM_COLUMNS = ("users", "rows_from", "rows_to", "mean", "low", "median", "high")


def norms_by_activity(
    vectors: npt.ArrayLike, train_rows: npt.ArrayLike
) -> dict[str, dict[str, float]]:
    """Lengths of user vectors, by training rows.

    Users without training rows are ``new``; the others are ranked by their rows, equal counts in
    order of id, and cut into five parts of equal size. These are users of the training rows:
    ``level_1`` to ``level_5`` of :class:`~recbole_choir.evaluator.Segments` are users of the rows
    that are evaluated.

    Args:
        vectors: ``[n_users, d]`` by internal id; row 0 is the padding id and is left out.
        train_rows: int ``[n_users]``, training rows of each user.

    Returns:
        ``new``, ``level_1`` to ``level_5`` -> ``users``, ``rows_from`` and ``rows_to`` (fewest and
        most training rows), ``mean``, and the quartiles ``low``, ``median``, ``high`` of the
        Euclidean norm. Parts without users are left out.

    Raises:
        DataError: If the sizes differ or a vector is not finite.

    References:
        ChoirRec, Figure 1b: vectors of users of low activity are smaller, near zero.
    """
    x = np.asarray(vectors, dtype=np.float64)
    rows = np.asarray(train_rows)
    if x.ndim != 2 or rows.shape != (len(x),):
        raise DataError(
            f"norms of users: expected vectors [n, d] and rows [n], got {x.shape} and {rows.shape}"
        )
    norm = np.linalg.norm(x, axis=1)
    if not np.isfinite(norm).all():
        raise DataError("norms of users: expected finite vectors, got nan or infinity")
    ids = np.arange(1, len(x))
    seen = ids[rows[1:] > 0]
    ranked = seen[np.argsort(rows[seen], kind="stable")]
    level = np.arange(len(ranked)) * N_LEVELS // max(len(ranked), 1) + 1
    parts = {"new": ids[rows[1:] == 0]}
    parts |= {f"level_{k}": ranked[level == k] for k in range(1, N_LEVELS + 1)}
    return {name: _describe(norm[part], rows[part]) for name, part in parts.items() if part.size}


def _describe(norm: npt.NDArray[np.float64], rows: npt.NDArray[np.integer]) -> dict[str, float]:
    quartiles = np.quantile(norm, [0.25, 0.5, 0.75]).tolist()
    values = (norm.size, int(rows.min()), int(rows.max()), float(norm.mean()), *quartiles)
    return dict(zip(NORM_COLUMNS, values))
