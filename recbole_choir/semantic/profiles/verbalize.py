"""What is known about each user before a snapshot, as short English phrases (paper 4.2.1).

The phrases name things in order of importance instead of giving numbers, and nothing in them
depends on the other users' behaviour: a user who did nothing new since the last snapshot keeps
the same words, so the profile is neither written nor encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd

from recbole_choir.semantic.frames.categories import CATEGORY, category_pairs, has_categories
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.table_format import ITEM_ID, USER_ID

WindowsEnd = Literal["last_event", "snapshot"]

ATTRIBUTES: Final = "attributes"
RECENT: Final = "recent"
MEDIUM: Final = "medium"
LONG: Final = "long"
DISTINCTIVE: Final = "distinctive"
TITLES: Final = "titles"
QUERIES: Final = "queries"
ACTIVITY: Final = "activity"
BREADTH: Final = "breadth"
REPEAT: Final = "repeat"
PRICE: Final = "price"

#: Columns of the facts, in order; every cell is text, empty where nothing is known.
FACTS: Final = (
    USER_ID,
    ATTRIBUTES,
    RECENT,
    MEDIUM,
    LONG,
    DISTINCTIVE,
    TITLES,
    QUERIES,
    ACTIVITY,
    BREADTH,
    REPEAT,
    PRICE,
)

DAY: Final = 86_400.0
MAX_CATEGORIES: Final = 5
MAX_DISTINCTIVE: Final = 5
MAX_TITLES: Final = 3
MAX_QUERIES: Final = 5
MAX_VALUE_LENGTH: Final = 40
MAX_ATTRIBUTES: Final = 12

#: What a window without a purchase says.
NOTHING: Final = "nothing"

#: Values that say no more than a missing one.
EMPTY_VALUES: Final = frozenset({"", "other", "unknown", "none", "nan", "n/a", "null"})
SEXES: Final = {"m": "male", "f": "female"}

# An attribute with fewer users than this per value (a zip code) names users, it does not
# describe them: in a text it is noise.
MIN_USERS_PER_VALUE: Final = 5

# A category counts as distinctive with this many purchases and this multiple of its share of
# the catalogue. The catalogue does not change with time; the population's taste does.
MIN_DISTINCTIVE_COUNT: Final = 3
MIN_DISTINCTIVE_RATIO: Final = 2.0


def verbalize(
    frames: Frames,
    windows_days: Sequence[float] = (7, 30),
    max_categories: int = MAX_CATEGORIES,
    windows_end: WindowsEnd = "last_event",
) -> pd.DataFrame:
    """Describe every user of ``frames.users`` from what happened before ``frames.time``.

    Purchases (rows with label 1) are counted by category in three windows, each purchase in exactly
    one::

        age a of a purchase, in days before the end, and lengths w1 < w2
        recent   a <= w1        medium   w1 < a <= w2        long   w2 < a

    An item with several categories counts for each.

    Args:
        frames: Interactions strictly before ``frames.time``, users and items. A column ``query``
            of the interactions holds search queries.
        windows_days: Lengths of the recent and of the medium window, in days. The paper gives
            none; a week and a month.
        max_categories: Categories named per window; 5 keeps a profile below about 120 tokens.
        windows_end: ``last_event``: the windows of a user end at its newest purchase, so that time
            alone changes no text, as in the prompts of language models; ``snapshot``: at
            ``frames.time``. The paper does not say.

    Returns:
        Frame with the text columns ``FACTS``, one row per user in the order of ``frames.users``:

        ``attributes``: ``age 24, gender M``; missing values and attributes that name single users
        are left out. ``recent``, ``medium``, ``long``: category names, most bought first, and
        ``nothing`` where a user has purchases but none there; all three are empty for a user
        without purchases, and where items have no categories. ``distinctive``: categories bought at
        least twice as often, over all windows, as their share of the catalogue. ``titles``: the
        newest items. ``queries``: the newest distinct ones of the last ``windows_days[1]`` days
        before the snapshot. ``activity``, ``breadth``, ``repeat``, ``price``: habits in words.

    References:
        ChoirRec, section 4.2.1 (input formulation: recent, medium and long-term behaviour).
    """
    user_ids = frames.users[USER_ID].astype(str).to_numpy(object)
    facts = pd.DataFrame({name: np.full(len(user_ids), "", object) for name in FACTS})
    facts[USER_ID] = user_ids
    facts[ATTRIBUTES] = attribute_phrases(frames.users)

    events = frames.interactions
    bought = events[events["label"] > 0]
    bought = pd.DataFrame(
        {
            USER_ID: bought[USER_ID].astype(str).to_numpy(object),
            ITEM_ID: bought[ITEM_ID].astype(str).to_numpy(object),
            "timestamp": bought["timestamp"].to_numpy(np.float64),
        }
    )
    pairs = category_pairs(frames.items)
    end: float | pd.Series = frames.time
    if windows_end == "last_event":
        end = bought.groupby(USER_ID)["timestamp"].transform("max")
    age_days = (end - bought["timestamp"]) / DAY

    columns: dict[str, pd.Series] = {}
    if has_categories(pairs):
        window = np.searchsorted(
            np.asarray(windows_days, np.float64), age_days.to_numpy(np.float64)
        )
        buyers = pd.Index(bought[USER_ID].unique())
        for at, name in enumerate((RECENT, MEDIUM, LONG)):
            top = _top(_count(bought[window == at], pairs), max_categories)
            columns[name] = _join(top).reindex(buyers).fillna(NOTHING)
        ever = _count(bought, pairs)
        columns[DISTINCTIVE] = _join(_distinctive(ever, pairs))
        columns[BREADTH] = _breadth(ever)
    columns[TITLES] = _titles(bought, frames.items)
    columns[ACTIVITY] = _activity(bought)
    columns[REPEAT] = _repeat(bought)
    columns[PRICE] = _price(bought, frames.items)
    if "query" in events.columns:
        columns[QUERIES] = _queries(events, frames.time - windows_days[1] * DAY)
    for name, values in columns.items():
        facts[name] = values.reindex(user_ids).fillna("").to_numpy(object)
    return facts


def attribute_phrases(users: pd.DataFrame) -> np.ndarray:
    """Write each user's known attributes as ``name value, name value`` (object array [n])."""
    phrases = np.full(len(users), "", object)
    for label, values in attribute_values(users).items():
        phrase = np.where(values == "", "", label + " " + values)
        gap = np.where((phrases != "") & (phrase != ""), ", ", "")
        phrases = phrases + gap.astype(object) + phrase.astype(object)
    return phrases


def attribute_values(users: pd.DataFrame) -> dict[str, np.ndarray]:
    """Label of each attribute that describes users -> its values as text, "" where unknown [n]."""
    out: dict[str, np.ndarray] = {}
    fields = [c for c in users.columns if c != USER_ID]
    for field in [f for f in fields if is_descriptive(users[f])][:MAX_ATTRIBUTES]:
        values = pd.Series(value_text(users[field]), dtype=object)
        if str(field).lower() in ("gender", "sex"):
            values = values.map(lambda value: SEXES.get(value.lower(), value))
        empty = values.str.lower().isin(EMPTY_VALUES).to_numpy(bool)
        label = str(field).replace("_", " ").strip()
        out[label] = np.where(empty, "", values.to_numpy(object)).astype(object)
    return out


def is_descriptive(values: pd.Series) -> bool:
    """Whether an attribute describes users: numbers do, names do if users share them.

    A name shared by fewer than five users on average (an address, a zip code) does not, unless
    the frame is so small that nothing could be shared.
    """
    if pd.api.types.is_float_dtype(values):
        return bool(values.notna().any())
    known = value_text(values)
    known = known[known != ""]
    n_values = len(pd.unique(known))
    return n_values > 0 and (
        n_values <= 2 * MIN_USERS_PER_VALUE or len(known) >= MIN_USERS_PER_VALUE * n_values
    )


def value_text(values: pd.Series) -> np.ndarray:
    """Attribute values as text, empty where missing: object array [n].

    Numbers are rounded to two significant digits, names cut at 40 characters.
    """
    missing = values.isna().to_numpy(bool)
    if pd.api.types.is_float_dtype(values):
        numbers = np.where(missing, 0.0, values.to_numpy(np.float64, na_value=0.0))
        magnitude = np.floor(np.log10(np.maximum(np.abs(numbers), 1e-12)))
        scale = np.power(10.0, magnitude - 1)
        rounded = pd.Series(np.round(numbers / scale) * scale)
        text = rounded.map("{:.10g}".format).to_numpy(object)
    else:
        text = values.astype(str).str.strip().str.slice(0, MAX_VALUE_LENGTH).to_numpy(object)
    return np.where(missing, "", text).astype(object)


def _count(bought: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Purchases by user and category: columns user_id, category, n."""
    by_item = bought.groupby([USER_ID, ITEM_ID], sort=False).size().rename("n").reset_index()
    joined = by_item.merge(pairs, on=ITEM_ID, how="inner")
    return joined.groupby([USER_ID, CATEGORY])["n"].sum().reset_index()


def _top(counts: pd.DataFrame, k: int, by: str = "n") -> pd.DataFrame:
    """The ``k`` categories with the largest ``by`` per user, ties by name, in order."""
    ordered = counts.sort_values([USER_ID, by, CATEGORY], ascending=[True, False, True])
    return ordered.groupby(USER_ID, sort=False).head(k)


def _join(rows: pd.DataFrame, column: str = CATEGORY, gap: str = ", ") -> pd.Series:
    """Join each user's names in their order."""
    names = rows[column].astype(str).str.slice(0, MAX_VALUE_LENGTH)
    return names.groupby(rows[USER_ID], sort=False).agg(gap.join)


def _distinctive(counts: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Categories that a user buys more often than the catalogue offers them, strongest first."""
    catalogue = pairs[CATEGORY].value_counts(normalize=True)
    share = counts["n"] / counts.groupby(USER_ID)["n"].transform("sum")
    ratio = (share / counts[CATEGORY].map(catalogue).astype(np.float64)).round(6)
    enough = (counts["n"] >= MIN_DISTINCTIVE_COUNT) & (ratio >= MIN_DISTINCTIVE_RATIO)
    return _top(counts.assign(ratio=ratio)[enough], MAX_DISTINCTIVE, by="ratio")


def _titles(bought: pd.DataFrame, items: pd.DataFrame) -> pd.Series:
    """Titles of the newest distinct items, newest first; ties in time by item id."""
    if "title" not in items.columns:
        return pd.Series(dtype=object)
    names = pd.Series(value_text(items["title"]), index=items[ITEM_ID].astype(str), dtype=object)
    # Library order, "Piano, The", reads as two titles in a list.
    title = names.str.replace(r"^(.*), (The|A|An)$", r"\2 \1", regex=True)
    newest = bought.groupby([USER_ID, ITEM_ID], sort=False)["timestamp"].max().reset_index()
    newest["title"] = newest[ITEM_ID].map(title)
    newest = newest[newest["title"].notna() & (newest["title"] != "")]
    newest = newest.sort_values([USER_ID, "timestamp", ITEM_ID], ascending=[True, False, True])
    return _join(newest.groupby(USER_ID, sort=False).head(MAX_TITLES), "title", " / ")


def _queries(events: pd.DataFrame, since: float) -> pd.Series:
    """The newest distinct search queries since a time, newest first."""
    rows = pd.DataFrame(
        {
            USER_ID: events[USER_ID].astype(str).to_numpy(object),
            "query": value_text(events["query"]),
            "timestamp": events["timestamp"].to_numpy(np.float64),
        }
    )
    rows = rows[(rows["query"] != "") & (rows["timestamp"] >= since)]
    newest = rows.groupby([USER_ID, "query"], sort=False)["timestamp"].max().reset_index()
    newest = newest.sort_values([USER_ID, "timestamp", "query"], ascending=[True, False, True])
    return _join(newest.groupby(USER_ID, sort=False).head(MAX_QUERIES), "query")


def _in_words(values: pd.Series, edges: Sequence[float], words: Sequence[str]) -> pd.Series:
    """Name the interval ``[edges[i-1], edges[i])`` that each value falls in."""
    slot = np.searchsorted(np.asarray(edges), values.to_numpy(np.float64), side="right")
    return pd.Series(np.asarray(words, object)[slot], index=values.index)


def _activity(bought: pd.DataFrame) -> pd.Series:
    words = ("just starting", "occasional", "regular", "frequent", "very frequent")
    return _in_words(bought.groupby(USER_ID).size(), (3, 10, 30, 100), words)


def _breadth(counts: pd.DataFrame) -> pd.Series:
    """How widely purchases spread over categories: their effective number, 1 / sum of shares^2."""
    share = counts["n"] / counts.groupby(USER_ID)["n"].transform("sum")
    effective = 1.0 / (share**2).groupby(counts[USER_ID]).sum()
    known = counts.groupby(USER_ID)["n"].sum() >= MIN_DISTINCTIVE_COUNT
    words = ("single-minded taste", "focused taste", "varied taste", "broad taste")
    return _in_words(effective[known], (1.5, 4, 8), words)


def _repeat(bought: pd.DataFrame) -> pd.Series:
    """Whether the same items are bought again; unsaid where hardly any are."""
    rows = bought.groupby(USER_ID).size()
    again = 1.0 - bought.groupby(USER_ID)[ITEM_ID].nunique() / rows
    words = ("", "some repeat choices", "loyal to the same items")
    return _in_words(again, (0.1, 0.4), words)


def _price(bought: pd.DataFrame, items: pd.DataFrame) -> pd.Series:
    """Price level of the purchases among the items' own terciles, where items have a price."""
    if "price" not in items.columns or not pd.api.types.is_numeric_dtype(items["price"]):
        return pd.Series(dtype=object)
    price = pd.Series(items["price"].to_numpy(np.float64), index=items[ITEM_ID].astype(str))
    if not price.notna().any():
        return pd.Series(dtype=object)
    paid = bought[ITEM_ID].map(price).astype(np.float64).groupby(bought[USER_ID]).median().dropna()
    low, high = np.nanquantile(price, [1 / 3, 2 / 3])
    words = ("low prices", "medium prices", "high prices")
    return _in_words(paid, (low, np.nextafter(high, np.inf)), words)
