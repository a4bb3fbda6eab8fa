"""Metrics on labelled rows and the activity segments they are reported for (pure numpy)."""

from __future__ import annotations

from recbole_choir.evaluator.gauc import (
    WEIGHTINGS,
    GAUCReport,
    check_weighting,
    gauc,
    gauc_report,
    user_auc,
    weighted_mean_auc,
)
from recbole_choir.evaluator.metrics import auc, logloss
from recbole_choir.evaluator.pairs import PairCounts
from recbole_choir.evaluator.segments import (
    ASOF_NAMES,
    SEGMENT_COLUMNS,
    SEGMENT_NAMES,
    Segments,
    segment_metrics,
)

__all__ = [
    "ASOF_NAMES",
    "SEGMENT_COLUMNS",
    "SEGMENT_NAMES",
    "WEIGHTINGS",
    "GAUCReport",
    "PairCounts",
    "Segments",
    "auc",
    "check_weighting",
    "gauc",
    "gauc_report",
    "logloss",
    "segment_metrics",
    "user_auc",
    "weighted_mean_auc",
]
