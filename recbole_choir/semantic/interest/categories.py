"""The category of a clicked item as the target of a classification."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.semantic.frames.categories import CATEGORY, category_pairs, has_categories
from recbole_choir.table_format import ITEM_ID

logger = logging.getLogger(__name__)

#: More classes than this cost more than they tell; rarer categories are no targets.
MAX_CLASSES: Final = 4096


@dataclass(frozen=True)
class CategoryTargets:
    """Classes of items.

    Args:
        names: object [C], sorted; empty where items have no categories.
        classes: int64 [I, P], each item's classes, padded with -1.
    """

    names: NDArray[np.object_]
    classes: NDArray[np.int64]


def category_targets(
    items: pd.DataFrame, item_ids: NDArray[np.object_], events: NDArray[np.int64]
) -> CategoryTargets:
    """Number the categories of the items that training knows.

    An item with several categories (genres, a path from coarse to fine) is one target whose mass
    is shared by all of them.

    Args:
        items: ``item_id`` and ``category``.
        item_ids: object [I].
        events: int64 [E], items of the training events: a category that none of them has is left
            out, since nothing could be learned of it.

    References:
        AKT-Rec, Eq. 2; docs/gaps.md A11 (multi-class).
    """
    pairs = category_pairs(items)
    none = CategoryTargets(np.zeros(0, object), np.zeros((len(item_ids), 0), np.int64))
    if not has_categories(pairs):
        return none
    row = pd.Index(item_ids).get_indexer(pd.Index(pairs[ITEM_ID].to_numpy(object)))
    name = pairs[CATEGORY].to_numpy(object)[row >= 0]
    row = row[row >= 0]
    weight = np.bincount(events, minlength=len(item_ids))[row]
    counts = pd.Series(weight).groupby(name).sum()
    counts = counts[counts > 0].sort_index().sort_values(ascending=False, kind="stable")
    if len(counts) > MAX_CLASSES:
        logger.info("interest: %d of %d categories are targets", MAX_CLASSES, len(counts))
    names = np.sort(np.asarray(counts.index[:MAX_CLASSES], object))
    if len(names) == 0:
        return none
    number = pd.Index(names).get_indexer(pd.Index(name))
    row, number = row[number >= 0], number[number >= 0]
    order = np.lexsort((number, row))
    row, number = row[order], number[order]
    per_item = np.bincount(row, minlength=len(item_ids))
    slot = np.arange(len(row)) - np.repeat(np.cumsum(per_item) - per_item, per_item)
    classes = np.full((len(item_ids), int(per_item.max(initial=0))), -1, np.int64)
    classes[row, slot] = number
    return CategoryTargets(names, classes)
