"""What a group knows for its members: attributes and a behaviour sequence (paper 4.3.2, 4.3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from recbole_choir.errors import DataError
from recbole_choir.prefix_groups import prefix_ids
from recbole_choir.semantic.frames.categories import CATEGORY
from recbole_choir.table_format import (
    ATTR_PREFIX,
    GROUP_ID,
    ITEM_ID,
    LEVEL,
    N_EVENTS,
    SEQUENCE,
    SIZE,
    USER_ID,
    group_id_of,
)

AttributeKind = Literal["token", "float"]

_GROUP = "group"


def attribute_kinds(users: pd.DataFrame) -> dict[str, AttributeKind]:
    """Tell discrete from continuous attributes by the column's type.

    Returns:
        Field -> ``"float"`` for floating point columns and ``"token"`` for all others, in the
        order of the columns. A column of lists has no mode and is left out.
    """
    kinds: dict[str, AttributeKind] = {}
    for field in users.columns:
        if field == USER_ID:
            continue
        values = users[field]
        if pd.api.types.is_float_dtype(values):
            kinds[str(field)] = "float"
        elif not values.map(_is_list).any():
            kinds[str(field)] = "token"
    return kinds


def choose_levels(
    prefixes: np.ndarray, min_members: int, agg_level: int | Literal["backoff"]
) -> np.ndarray:
    """Level of the prefix that each user reads: int64 [n], from 1; 0 for no group.

    With ``"backoff"`` it is the deepest prefix that at least ``min_members`` users share. Where
    even the first level has fewer, the first level it is: a small group beats none.
    """
    n_levels = prefixes.shape[1]
    known = prefixes[:, 0] >= 0
    if agg_level != "backoff":
        return np.where(known, agg_level, 0).astype(np.int64)
    level = np.where(known, 1, 0).astype(np.int64)
    for i in range(1, n_levels):
        size = np.bincount(prefixes[known, i], minlength=1)
        level[known] = np.where(size[prefixes[known, i]] >= min_members, i + 1, level[known])
    return level


def group_names(codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Group id as text of each row's prefix of that level: object [n], None for level 0."""
    names = np.full(len(codes), None, object)
    for level in np.unique(levels[levels > 0]):
        rows = np.flatnonzero(levels == level)
        distinct, where = np.unique(codes[rows, :level], axis=0, return_inverse=True)
        text = np.array([group_id_of(prefix) for prefix in distinct], object)
        names[rows] = text[where.reshape(-1)]
    return names


def group_priors(
    positives: pd.DataFrame,
    users: pd.DataFrame,
    codes: np.ndarray,
    pairs: pd.DataFrame,
    kinds: Mapping[str, AttributeKind],
    top_categories: int = 10,
    sequence_length: int = 50,
) -> pd.DataFrame:
    """Sum up every group of one snapshot, at every level.

    Args:
        positives: Events with label 1 strictly before the snapshot: ``user_id``, ``item_id``,
            ``timestamp``.
        users: ``user_id`` and attributes, n rows.
        codes: int [n, M], in the order of ``users``; negative where a user has no group.
        pairs: Item and category, of :func:`~.categories.category_pairs`.
        kinds: Attributes to sum up, of :func:`attribute_kinds`.
        top_categories: Categories that a sequence draws from; 10 (docs/gaps.md C18).
        sequence_length: Items in a sequence at most; 50, as in a user's own history.

    Returns:
        Frame ``group_id``, ``level``, ``size``, ``n_events``, ``attr_<field>`` (mode over the
        members where it is known, ties to the smallest value; mean for continuous ones; missing
        if no member has it), ``sequence`` (list of raw item ids, earliest mean time first).

    References:
        ChoirRec, sections 4.3.2 and 4.3.3.
    """
    prefixes = prefix_ids(codes)
    user_row = pd.Index(users[USER_ID].astype(str)).get_indexer(
        pd.Index(positives[USER_ID].astype(str))
    )
    if (user_row < 0).any():
        stranger = positives[USER_ID].iloc[int(np.argmax(user_row < 0))]
        raise DataError(f"positives.user_id: expected users of the users frame, got '{stranger}'")
    blocks = []
    for level in range(1, codes.shape[1] + 1):
        group = prefixes[:, level - 1]
        members = group >= 0
        n_groups = int(group.max()) + 1 if len(group) else 0
        if n_groups == 0:
            continue
        names = np.empty(n_groups, object)
        names[group[members]] = group_names(codes[members], np.full(int(members.sum()), level))
        event_group = group[user_row]
        events = pd.DataFrame(
            {
                _GROUP: event_group,
                ITEM_ID: positives[ITEM_ID].astype(str).to_numpy(object),
                "timestamp": positives["timestamp"].to_numpy(np.float64),
            }
        )[event_group >= 0]
        block = pd.DataFrame(
            {
                GROUP_ID: names,
                LEVEL: np.full(n_groups, level, np.int32),
                SIZE: np.bincount(group[members], minlength=n_groups).astype(np.int32),
                N_EVENTS: np.bincount(events[_GROUP], minlength=n_groups).astype(np.int32),
            }
        )
        for field, kind in kinds.items():
            values = _mean if kind == "float" else _mode
            block[ATTR_PREFIX + field] = values(group, users[field], n_groups)
        sequences = group_sequences(events, pairs, top_categories, sequence_length)
        filled = sequences.reindex(range(n_groups))
        block[SEQUENCE] = [s if isinstance(s, list) else [] for s in filled]
        blocks.append(block)
    if not blocks:
        columns = [GROUP_ID, LEVEL, SIZE, N_EVENTS, *(ATTR_PREFIX + f for f in kinds), SEQUENCE]
        return pd.DataFrame({c: pd.Series(dtype=object) for c in columns})
    return pd.concat(blocks, ignore_index=True)


def group_sequences(
    events: pd.DataFrame,
    pairs: pd.DataFrame,
    top_categories: int = 10,
    length: int = 50,
) -> pd.Series:
    """Build each group's behaviour sequence in the paper's two stages.

    1. The ``top_categories`` categories with the most purchases of the group (an item counts for
       each of its categories; ties by name).
    2. ``length`` places are shared out among them in proportion to those purchases (largest
       remainder; ties to the larger category) and filled with the category's most popular items
       of the group, the largest category first. An item appears once. Places that a category cannot
       fill go to the most popular items left in the others.

    Args:
        events: ``group`` (int), ``item_id``, ``timestamp``; one row a purchase.
        pairs: Item and category.
        top_categories: K_cat.
        length: Places.

    Returns:
        Series group -> list of item ids by mean purchase time within the group, earliest first
        (ties by item id). Groups without purchases of items with a category are left out.

    References:
        ChoirRec, section 4.3.3; docs/gaps.md C18.
    """
    # Numbers instead of names from here on: item codes follow the order of the names, so that
    # ties by code are ties by name.
    item_code, item_names = pd.factorize(events[ITEM_ID], sort=True)
    category_code, _ = pd.factorize(pairs[CATEGORY], sort=True)
    known = pd.DataFrame(
        {
            "item": pd.Index(item_names).get_indexer(pairs[ITEM_ID]),
            "category": category_code,
        }
    )
    known = known[known["item"] >= 0]
    rows = pd.DataFrame(
        {
            _GROUP: events[_GROUP].to_numpy(np.int64),
            "item": item_code,
            "timestamp": events["timestamp"].to_numpy(np.float64),
        }
    )
    items = (
        rows.groupby([_GROUP, "item"])["timestamp"].agg(count="size", mean_time="mean")
    ).reset_index()
    items["row"] = np.arange(len(items))
    candidates = items.merge(known, on="item", how="inner")
    quota = _quotas(candidates, top_categories, length)
    candidates = candidates.merge(quota, on=[_GROUP, "category"], how="inner")
    candidates = candidates.sort_values(
        [_GROUP, "rank", "count", "item"], ascending=[True, True, False, True]
    )
    chosen = items.loc[_fill_places(candidates, len(items), length)]
    chosen = chosen.sort_values([_GROUP, "mean_time", "item"])
    names = pd.Series(np.asarray(item_names, object)[chosen["item"]], index=chosen.index)
    return names.groupby(chosen[_GROUP]).agg(list)


def _quotas(candidates: pd.DataFrame, top_categories: int, length: int) -> pd.DataFrame:
    """Places of each group's top categories: group, category, rank, quota (largest remainder)."""
    counts = candidates.groupby([_GROUP, "category"])["count"].sum().reset_index()
    counts = counts.sort_values([_GROUP, "count", "category"], ascending=[True, False, True])
    counts["rank"] = counts.groupby(_GROUP).cumcount()
    counts = counts[counts["rank"] < top_categories]
    total = counts.groupby(_GROUP)["count"].transform("sum")
    # In whole numbers: a remainder computed in floats would break ties by rounding.
    share = counts["count"] * length
    counts["quota"] = share // total
    counts["remainder"] = share % total
    left = length - counts.groupby(_GROUP)["quota"].transform("sum")
    order = counts.sort_values([_GROUP, "remainder", "rank"], ascending=[True, False, True])
    place = order.groupby(_GROUP).cumcount().reindex(counts.index)
    counts["quota"] += (place < left).astype(np.int64)
    return counts[[_GROUP, "category", "rank", "quota"]]


def _fill_places(candidates: pd.DataFrame, n_rows: int, length: int) -> np.ndarray:
    """Choose the (group, item) rows of the sequences, walking down the categories by rank.

    Args:
        candidates: row, group, rank, quota, count; sorted by group, rank and popularity.
        n_rows: Number of (group, item) rows.
        length: Places of a sequence.

    Returns:
        bool [n_rows].
    """
    taken = np.zeros(n_rows, bool)
    for rank in np.unique(candidates["rank"]):  # at most top_categories rounds, whatever the data
        open_ = candidates[(candidates["rank"] == rank) & ~taken[candidates["row"]]]
        wins = open_.groupby(_GROUP).cumcount() < open_["quota"]
        taken[open_.loc[wins, "row"]] = True
    group_of = np.zeros(n_rows, np.int64)
    group_of[candidates["row"]] = candidates[_GROUP]
    n_groups = int(group_of.max(initial=-1)) + 1
    room = length - np.bincount(group_of[taken], minlength=n_groups)
    spare = candidates[~taken[candidates["row"]]].drop_duplicates("row")
    spare = spare.sort_values([_GROUP, "count", "item"], ascending=[True, False, True])
    fits = spare.groupby(_GROUP).cumcount().to_numpy() < room[spare[_GROUP]]
    taken[spare.loc[fits, "row"]] = True
    return taken


def _mode(group: np.ndarray, values: pd.Series, n_groups: int) -> np.ndarray:
    """Most frequent known value per group, ties to the smallest: object [G], None if unknown."""
    text = values.astype(str).to_numpy(object)
    text[values.isna().to_numpy(bool)] = None
    rows = pd.DataFrame({_GROUP: group, "value": pd.Series(text)})
    rows = rows[(rows[_GROUP] >= 0) & rows["value"].notna() & (rows["value"] != "")]
    out = np.full(n_groups, None, object)
    if len(rows) == 0:
        return out
    counts = rows.groupby([_GROUP, "value"]).size().rename("n").reset_index()
    counts = counts.sort_values([_GROUP, "n", "value"], ascending=[True, False, True])
    first = counts.drop_duplicates(_GROUP)
    out[first[_GROUP].to_numpy(np.int64)] = first["value"].to_numpy(object)
    return out


def _mean(group: np.ndarray, values: pd.Series, n_groups: int) -> np.ndarray:
    """Mean of the known values per group: float64 [G], nan if unknown."""
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    known = (group >= 0) & np.isfinite(numbers)
    total = np.bincount(group[known], numbers[known], minlength=n_groups)
    count = np.bincount(group[known], minlength=n_groups)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray)
