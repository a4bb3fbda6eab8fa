"""What a prompt says about a user: structured, in steps coarse enough to stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.semantic.frames.categories import CATEGORY, category_pairs, has_categories
from recbole_choir.semantic.frames.frames import (
    ITEM_ID,
    LABEL,
    QUERY,
    TIMESTAMP,
    USER_ID,
    Frames,
)
from recbole_choir.semantic.profiles import verbalize as v

#: How often, by the power of two: 1, 2-3, 4-7, 8-15, 16 and more. A prompt that gave counts would
#: change, and cost, with every purchase.
HOW_OFTEN: Final = ("once", "a few times", "several times", "often", "very often")

MAX_CATEGORIES: Final = 6
MAX_DISTINCTIVE: Final = 4
MAX_QUERIES: Final = 5

# Several times at least, and twice as large a share as the catalogue's.
_DISTINCTIVE_STEP: Final = 2
_DISTINCTIVE_RATIO: Final = 2.0

_HABITS: Final = (v.ACTIVITY, v.BREADTH, v.REPEAT, v.PRICE)

WindowsEnd = Literal["last_event", "snapshot"]


class FactTable:
    """The facts about every user of a snapshot; one user's are put together when asked for.

    ::

        step of a count n          floor(log2 n)
        categories of a window     by step, then the rarer in the catalogue first, then by name
        distinctive                step >= 2, and 2^step / sum of 2^step >= 2 x catalogue share

    Everything is made from steps instead of counts, so that one more purchase that crosses no
    step leaves a user's facts as they are, and with them the prompt and its profile.

    Args:
        frames: Interactions strictly before ``frames.time``, users and items.
        described: The facts of :func:`~recbole_choir.semantic.profiles.verbalize.verbalize` about
            the same frames: habits and titles are taken from it.
        windows_days: Recent and medium window, in days.
        windows_end: ``last_event``: windows end at each user's newest purchase or query, so that
            time alone changes no prompt, and a user who does nothing is not asked about again.
            ``snapshot``: they end at the snapshot (the paper does not say).
        fields: Attributes to leave out, and any of ``category``, ``title``, ``query``.
        titles: Name the newest items. Off by default: every purchase changes them.

    References:
        ChoirRec, section 4.2.1 (input formulation).
    """

    def __init__(
        self,
        frames: Frames,
        described: pd.DataFrame,
        windows_days: Sequence[float] = (7, 30),
        windows_end: WindowsEnd = "last_event",
        leave_out: frozenset[str] = frozenset(),
        titles: bool = False,
    ) -> None:
        self.user_ids: NDArray[np.object_] = frames.users[USER_ID].to_numpy(object)
        users = frames.users.drop(columns=[c for c in frames.users.columns if c in leave_out])
        self._attributes = v.attribute_values(users)
        self._habits = [described[name].to_numpy(object) for name in _HABITS]
        shown = titles and "title" not in leave_out
        self._titles = described[v.TITLES].to_numpy(object) if shown else None

        events = frames.interactions
        row = pd.Index(self.user_ids).get_indexer(pd.Index(events[USER_ID].to_numpy(object)))
        time = events[TIMESTAMP].to_numpy(np.float64)
        bought = (events[LABEL].to_numpy(np.float64) > 0) & (row >= 0)
        query = _queries(events, row, "query" in leave_out)
        #: int64 [n_users], purchases and search queries: what there is to generalise from.
        self.n_events = np.bincount(row[bought | (query != "")], minlength=len(self.user_ids))

        end = np.full(len(self.user_ids), frames.time)
        if windows_end == "last_event":
            end = np.full(len(self.user_ids), -np.inf)
            active = bought | (query != "")
            np.maximum.at(end, row[active], time[active])
        age = np.where(row >= 0, end[row] - time, np.inf) / v.DAY  # [N]

        pairs = category_pairs(frames.items)
        lengths = [*windows_days, np.inf]
        self._windows: list[_Lists] = []
        self._distinctive: _Lists | None = None
        if has_categories(pairs) and "category" not in leave_out:
            items = events[ITEM_ID].to_numpy(object)
            share = pairs[CATEGORY].value_counts(normalize=True)
            for days in lengths:
                inside = bought & (age <= days)
                counts = _steps(row[inside], items[inside], pairs, share)
                self._windows.append(_top(counts, MAX_CATEGORIES, len(self.user_ids)))
            self._distinctive = _distinctive(counts, len(self.user_ids))
        self._labels = [window_label(days) for days in lengths]
        recent = (query != "") & (age <= windows_days[1])
        self._queries = _newest(row[recent], query[recent], time[recent], len(self.user_ids))

    def __len__(self) -> int:
        return len(self.user_ids)

    def of(self, row: int) -> dict[str, Any]:
        """The facts about the user in that row of ``frames.users``; the user's id is not in them.

        Returns:
            ``attributes``: name -> value. ``windows``: of ``{label, categories: [{name, often}]}``
            from recent to ever; a window that says the same as the next longer one is left out.
            ``distinctive``, ``queries``, ``titles``, ``habits``: texts.
        """
        attributes = {
            name: values[row] for name, values in self._attributes.items() if values[row] != ""
        }
        windows = []
        longer: list[tuple[str, str]] = []
        for label, lists in zip(reversed(self._labels), reversed(self._windows)):
            named = lists.of(row)
            if named and named != longer:
                categories = [{"name": name, "often": often} for name, often in named]
                windows.append({"label": label, "categories": categories})
            longer = named
        titles = self._titles[row] if self._titles is not None else ""
        return {
            "attributes": attributes,
            "windows": windows[::-1],
            "distinctive": [n for n, _ in self._distinctive.of(row)] if self._distinctive else [],
            "queries": [q for q, _ in self._queries.of(row)],
            "titles": titles.split(" / ") if titles else [],
            "habits": [values[row] for values in self._habits if values[row] != ""],
        }


def window_label(days: float) -> str:
    """What a window is called in a prompt."""
    known = {1.0: "last day", 7.0: "last week", 30.0: "last month", 365.0: "last year"}
    return "ever" if np.isinf(days) else known.get(float(days), f"last {days:g} days")


class _Lists:
    """A list of (text, text) per user, kept as columns: rows are sorted by user."""

    def __init__(
        self,
        user: NDArray[np.integer],
        first: NDArray[np.object_],
        second: NDArray[np.object_],
        n_users: int,
    ) -> None:
        self._start = np.searchsorted(user, np.arange(n_users + 1))
        self._first, self._second = first, second

    def of(self, row: int) -> list[tuple[str, str]]:
        part = slice(self._start[row], self._start[row + 1])
        return list(zip(self._first[part], self._second[part]))


def _steps(
    row: NDArray[np.integer], items: NDArray[np.object_], pairs: pd.DataFrame, share: pd.Series
) -> pd.DataFrame:
    """Purchases by user and category: columns user, category, step, share (of the catalogue)."""
    by_item = pd.DataFrame({"user": row, ITEM_ID: items}).groupby(["user", ITEM_ID], sort=False)
    joined = by_item.size().rename("n").reset_index().merge(pairs, on=ITEM_ID)
    counts = joined.groupby(["user", CATEGORY])["n"].sum().reset_index()
    counts["step"] = np.floor(np.log2(counts["n"].to_numpy(np.float64))).astype(np.int64)
    counts["share"] = counts[CATEGORY].map(share).astype(np.float64)
    return counts


def _top(counts: pd.DataFrame, k: int, n_users: int) -> _Lists:
    ordered = counts.sort_values(
        ["user", "step", "share", CATEGORY], ascending=[True, False, True, True]
    )
    top = ordered.groupby("user", sort=False).head(k)
    often = np.array(HOW_OFTEN, object)[np.minimum(top["step"], len(HOW_OFTEN) - 1)]
    return _Lists(top["user"].to_numpy(), top[CATEGORY].to_numpy(object), often, n_users)


def _distinctive(counts: pd.DataFrame, n_users: int) -> _Lists:
    weight = np.exp2(counts["step"].to_numpy(np.float64))
    mine = weight / pd.Series(weight).groupby(counts["user"].to_numpy()).transform("sum")
    ratio = (mine.to_numpy() / counts["share"].to_numpy()).round(6)
    kept = counts.assign(ratio=ratio)
    kept = kept[(kept["step"] >= _DISTINCTIVE_STEP) & (kept["ratio"] >= _DISTINCTIVE_RATIO)]
    ordered = kept.sort_values(["user", "ratio", CATEGORY], ascending=[True, False, True])
    top = ordered.groupby("user", sort=False).head(MAX_DISTINCTIVE)
    names = top[CATEGORY].to_numpy(object)
    return _Lists(top["user"].to_numpy(), names, names, n_users)


def _queries(events: pd.DataFrame, row: NDArray[np.integer], left_out: bool) -> NDArray[np.object_]:
    """Each event's search query as text, empty where it has none: object [N]."""
    if left_out or QUERY not in events.columns:
        return np.full(len(events), "", object)
    text = v.value_text(events[QUERY])
    return np.where(row >= 0, text, "").astype(object)


def _newest(
    row: NDArray[np.integer],
    query: NDArray[np.object_],
    time: NDArray[np.float64],
    n_users: int,
) -> _Lists:
    """The newest distinct queries of each user, newest first."""
    rows = pd.DataFrame({"user": row, "query": query, "time": time})
    last = rows.groupby(["user", "query"], sort=False)["time"].max().reset_index()
    last = last.sort_values(["user", "time", "query"], ascending=[True, False, True])
    top = last.groupby("user", sort=False).head(MAX_QUERIES)
    names = top["query"].to_numpy(object)
    return _Lists(top["user"].to_numpy(), names, names, n_users)
