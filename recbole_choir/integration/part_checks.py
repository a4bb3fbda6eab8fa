"""Before training: can what the run is judged by be computed on every part of the split?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError

_NAMES: Final = ("training", "validation", "test")
#: Metrics that need rows of both labels; GAUC needs them of one user.
_OF_ORDER: Final = ("auc", "gauc")


def check_parts(config: Any, dataset: Any) -> None:
    """Refuse a split of which a part lacks rows, or the labels that its metrics need.

    Args:
        config: The run's configuration.
        dataset: The dataset, split.

    Raises:
        DataError: One line that names all such parts.
    """
    events, wrong = dataset.row_inputs.events, []
    metrics = {str(m).lower() for m in config["metrics"]}
    needs: tuple[set[str], ...] = ({"auc"}, {str(config["valid_metric"]).lower()}, metrics)
    for name, rows, wanted in zip(_NAMES, dataset.row_inputs.parts, needs, strict=True):
        label, user = events.label[rows], events.user[rows]
        if not len(rows):
            wrong.append(f"the {name} part has no rows")
        elif label.min() == label.max() and wanted & set(_OF_ORDER):
            wrong.append(
                f"expected both labels in the {name} part, got {label[0]:g} in all of its "
                f"{len(rows)} rows"
            )
        elif "gauc" in wanted and not _mixed(user, label):
            wrong.append(f"expected a user with both labels in the {name} part for GAUC, got none")
    if wrong:
        raise DataError(
            f"eval_args.split: {'; '.join(wrong)}; choose another split, or metrics and "
            "valid_metric that need no order, such as LogLoss"
        )


def _mixed(user: NDArray[np.int64], label: NDArray[np.float32]) -> bool:
    """Whether some user has rows of both labels."""
    return bool(np.intersect1d(user[label == 1], user[label == 0]).size)
