"""Statistics of items as discrete levels in words (AKT-Rec 3.1.1)."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.frames import ITEM_ID, LABEL, Frames, outcome_columns
from recbole_choir.semantic.items.base import item_ids_of

Floats = NDArray[np.float64]

WORDS: Final = ("very low", "low", "medium", "high", "very high")

#: Events that a rate is shrunk by: with fewer, an item says little about itself.
PRIOR: Final = 20.0

#: How far beyond an edge, as a share of the level's width, a value must lie to change its level.
SLACK: Final = 1.0

POPULARITY: Final = "popularity"
POSITIVE_RATE: Final = "positive rate"


class StatisticLevels:
    """Popularity and rates of items as one of five words each.

    ::

        popularity_i = log((events of i + 1/2) / events in all)
        rate_i       = (hits of i + m r) / (events of i + m),   r the rate of all events, m = 20
        edges        = quintiles over the items with an event, fitted once

    "Hits" are positives (a click-through rate where the events are exposures), and the events with
    a value > 0 in each further column of 0 and 1 that the interactions carry (``conversion``,
    ``cart``). A level that changes makes the item's text new and its embedding paid for again, so
    nothing but the item's own events moves it: edges and ``r`` stay those of the fit, popularity is
    a share, so that growing totals change no level, and an item keeps the level that it had at the
    fit until it lies a level's width beyond an edge (on ml-1m a tenth of the texts change from one
    snapshot to the next, four tenths without that). A statistic that is the same for all
    items says nothing and is left out.

    References:
        AKT-Rec, section 3.1.1 (N-day CTR, CVR, cart rates in discrete levels).
    """

    def __init__(self) -> None:
        self._edges: dict[str, Floats] = {}
        self._base: dict[str, float] = {}
        self._outcomes: list[str] = []
        self._level: pd.DataFrame | None = None  # of the items of the fit, -1: no event

    def fit(self, frames: Frames) -> StatisticLevels:
        """Fit edges and rates on the events before ``frames.time``."""
        self._outcomes = outcome_columns(frames.interactions)
        self._base = {
            name: float(hits.mean()) if len(hits) else 0.0
            for name, hits in self._hits(frames.interactions).items()
        }
        values = self._values(frames)
        seen = values.notna().any(axis=1).to_numpy(bool)
        self._edges = {}
        for name in values.columns:
            known = values.loc[seen, name].to_numpy(np.float64)
            if len(known) and known.min() < known.max():
                self._edges[name] = np.quantile(known, np.arange(1, len(WORDS)) / len(WORDS))
        self._level = self._levels(values)
        return self

    def words(self, frames: Frames) -> pd.DataFrame:
        """A column of words per statistic, in the order of ``frames.items``; None without events.

        Raises:
            DataError: ``fit`` was not called.
        """
        if self._level is None:
            raise DataError("item statistics: expected fitted levels, got none: call fit first")
        values = self._values(frames)
        now = self._levels(values)
        before = self._level.reindex(now.index).fillna(-1)
        names = np.array([*WORDS, None], dtype=object)
        out = {}
        for name, edges in self._edges.items():
            level, old = now[name].to_numpy(np.int64), before[name].to_numpy(np.int64)
            value = values[name].to_numpy(np.float64)
            stays = (level >= 0) & (old >= 0) & _near(value, old, edges)
            out[name] = names[np.where(stays, old, level)]
        return pd.DataFrame(out, index=np.arange(len(now)))

    def _values(self, frames: Frames) -> pd.DataFrame:
        """Popularity and rates by item id, nan without events."""
        events = frames.interactions
        ids = item_ids_of(frames)
        item = pd.Index(ids).get_indexer(pd.Index(events[ITEM_ID].to_numpy(object)))
        known = item >= 0
        n = np.bincount(item[known], minlength=len(ids)).astype(np.float64)
        out = {POPULARITY: np.log((n + 0.5) / max(len(events), 1))}
        for name, hits in self._hits(events).items():
            own = np.bincount(item[known], hits[known], minlength=len(ids))
            out[name] = (own + PRIOR * self._base[name]) / (n + PRIOR)
        values = pd.DataFrame(out, index=ids)
        values.loc[n == 0] = np.nan
        return values

    def _hits(self, events: pd.DataFrame) -> dict[str, Floats]:
        """Hits [E], 0 or 1, of each rate by its name."""
        out = {POSITIVE_RATE: (events[LABEL].to_numpy(np.float64) > 0).astype(np.float64)}
        for column in self._outcomes:
            name = column.replace("_", " ").strip().lower()
            name = name if name.endswith("rate") else f"{name} rate"
            hit = events[column].astype(np.float64).fillna(0.0).to_numpy() > 0
            out[name] = hit.astype(np.float64)
        return out

    def _levels(self, values: pd.DataFrame) -> pd.DataFrame:
        """Level of each value, -1 where there is none."""
        out = {}
        for name, edges in self._edges.items():
            value = values[name].to_numpy(np.float64)
            level = np.searchsorted(edges, value, side="right")
            out[name] = np.where(np.isnan(value), -1, level)
        return pd.DataFrame(out, index=values.index)


def _near(value: Floats, level: NDArray[np.int64], edges: Floats) -> NDArray[np.bool_]:
    """Whether a value lies in a level, or beyond its edges by less than the slack."""
    low = np.append(-np.inf, edges)
    high = np.append(edges, np.inf)
    width = np.append(np.insert(np.diff(edges), 0, edges[1] - edges[0]), edges[-1] - edges[-2])
    at = np.maximum(level, 0)
    return (value >= low[at] - SLACK * width[at]) & (value <= high[at] + SLACK * width[at])
