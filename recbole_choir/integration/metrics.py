"""Metrics on labelled rows under RecBole's names, GAUC among them.

RecBole's own ``GAUC`` ranks all candidates of a user and cannot stand next to AUC and LogLoss. The
evaluator here has a registry of its own, so that RecBole's stays as it is for other code in the
process: ``gauc`` means the labelled GAUC in a run of this package, and the ranking one elsewhere.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from recbole.evaluator import DataStruct, metric_types, metrics_dict
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.metrics import LogLoss
from recbole.utils import EvaluatorType

from recbole_choir.errors import ConfigError, DataError, nearest
from recbole_choir.evaluator import check_weighting, gauc_report, logloss
from recbole_choir.integration.predictions import Predictions


class LabelledGAUC(AbstractMetric):
    """GAUC of labelled rows as a RecBole metric; weighted by the config's ``gauc_weighting``."""

    metric_type = EvaluatorType.VALUE
    metric_need = ["rec.score", "data.label", "data.user"]  # noqa: RUF012 (RecBole's interface)
    smaller = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.weighting = check_weighting(config["gauc_weighting"] or "impressions")

    def calculate_metric(self, dataobject: DataStruct) -> dict[str, float]:
        """Return ``{"gauc": value}``, rounded to ``metric_decimal_place``."""
        report = gauc_report(
            dataobject.get("data.label").numpy(),
            dataobject.get("rec.score").numpy(),
            dataobject.get("data.user").numpy(),
            self.weighting,
        )
        return {"gauc": round(report.value, self.decimal_place)}


class LabelledLogLoss(LogLoss):
    """RecBole's LogLoss, also of a single row, of which it makes a scalar on numpy 1.26."""

    def metric_info(self, preds: npt.NDArray[Any], trues: npt.NDArray[Any]) -> float:
        """Return the mean negative log-likelihood, with RecBole's clipping."""
        return logloss(trues, preds)


def labelled_metrics() -> dict[str, type[AbstractMetric]]:
    """Lower-case names of the metrics that labelled rows have, and their classes."""
    known = {
        name: cls for name, cls in metrics_dict.items() if metric_types[name] == EvaluatorType.VALUE
    }
    return {**known, "gauc": LabelledGAUC, "logloss": LabelledLogLoss}


class LabelledEvaluator:
    """RecBole's ``Evaluator`` for labelled rows: its metric classes, and the labelled GAUC.

    Args:
        config: The run's configuration; ``metrics``, ``metric_decimal_place``, ``gauc_weighting``.

    Raises:
        ConfigError: If a metric is unknown or ranks candidates.
    """

    def __init__(self, config: Any) -> None:
        known = labelled_metrics()
        self.metrics = [str(name).lower() for name in config["metrics"]]
        for name in self.metrics:
            if name not in known:
                raise ConfigError(
                    f"metrics: expected any of {', '.join(sorted(known))} for labelled rows, "
                    f"got '{name}'{nearest(name, known)}"
                )
        self.metric_class = {name: known[name](config) for name in self.metrics}

    def evaluate(self, dataobject: DataStruct) -> OrderedDict[str, float]:
        """Compute every metric, in the order of the config.

        Args:
            dataobject: With ``rec.score`` and ``data.label`` ``[N, 1]`` and ``data.user`` ``[N]``.
        """
        result: OrderedDict[str, float] = OrderedDict()
        for name in self.metrics:
            result.update(self.metric_class[name].calculate_metric(dataobject))
        return OrderedDict((name, float(value)) for name, value in result.items())


def data_struct(predictions: Predictions) -> DataStruct:
    """Hand predictions to RecBole's metric classes.

    Raises:
        DataError: If there are no rows, or a score is not a finite number: RecBole's AUC would make
            a figure of it.
    """
    n_rows = len(predictions.scores)
    if n_rows == 0:
        raise DataError("evaluation: expected at least one row, got none")
    bad = ~np.isfinite(predictions.scores)
    if bad.any():
        raise DataError(
            f"scores: expected finite predictions, got {int(bad.sum())} of {n_rows} that are not, "
            f"the first in row {int(np.flatnonzero(bad)[0])}"
        )
    struct = DataStruct()
    # [N, 1]: RecBole squeezes the last dimension, which would make a scalar of a single row
    struct.set("rec.score", torch.from_numpy(predictions.scores).unsqueeze(-1))
    struct.set("data.label", torch.from_numpy(predictions.labels).unsqueeze(-1))
    struct.set("data.user", torch.from_numpy(predictions.users))
    return struct
