"""Items and their categories as one long table of pairs."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from recbole_choir.table_format import ITEM_ID

logger = logging.getLogger(__name__)

CATEGORY = "category"
PSEUDO_CATEGORY = "all items"


def category_pairs(items: pd.DataFrame) -> pd.DataFrame:
    """List every (item, category) pair once.

    Args:
        items: Frame with ``item_id`` and, where the dataset has it, ``category``: a list of names
            (genres, or a path from coarse to fine) or one name. Empty names are left out.

    Returns:
        Frame ``item_id``, ``category``, sorted and without duplicates. An item without a category
        has no row. With no ``category`` column, or an empty one, every item is in one
        pseudo-category ``"all items"`` and a line is logged.
    """
    if CATEGORY in items.columns:
        pairs = items[[ITEM_ID, CATEGORY]].explode(CATEGORY)
        pairs = pairs.dropna(subset=[CATEGORY])
        names = pairs[CATEGORY].astype(str).str.strip()
        pairs = pd.DataFrame(
            {
                ITEM_ID: pairs[ITEM_ID].astype(str).to_numpy(object),
                CATEGORY: names.to_numpy(object),
            }
        )
        pairs = pairs[pairs[CATEGORY] != ""]
        if len(pairs):
            return pairs.drop_duplicates().sort_values([ITEM_ID, CATEGORY]).reset_index(drop=True)
    logger.info("items have no categories: all %d items form one pseudo-category", len(items))
    ids = np.sort(items[ITEM_ID].astype(str).unique().astype(object))
    return pd.DataFrame({ITEM_ID: ids, CATEGORY: np.full(len(ids), PSEUDO_CATEGORY, object)})


def has_categories(pairs: pd.DataFrame) -> bool:
    """Whether the pairs of :func:`category_pairs` carry real categories."""
    return bool(len(pairs)) and not bool((pairs[CATEGORY] == PSEUDO_CATEGORY).all())
