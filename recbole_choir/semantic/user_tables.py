"""Rows of a table's users and groups, snapshot after snapshot."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_choir.prefix_groups import prefix_ids
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.groups.priors import (
    AttributeKind,
    choose_levels,
    group_names,
    group_priors,
)
from recbole_choir.semantic.groups.users import Grouping
from recbole_choir.semantic.quality.report import SnapshotGroups
from recbole_choir.settings.recipe import Recipe
from recbole_choir.table_format import GROUP_ID, SNAPSHOT, USER_ID, code_column

logger = logging.getLogger(__name__)


def user_tables(
    frames: Frames,
    moments: NDArray[np.float64],
    grouping: Grouping,
    pairs: pd.DataFrame,
    kinds: dict[str, AttributeKind],
    recipe: Recipe,
    show_progress: bool,
) -> tuple[pd.DataFrame, pd.DataFrame, list[SnapshotGroups]]:
    """Rows of users.parquet and groups.parquet, and the groups for the quality report."""
    user_parts, group_parts, snapshots = [], [], []
    bar = tqdm(moments, desc="group priors", unit="snapshot", disable=not show_progress)
    for index, moment in enumerate(bar):
        codes = grouping.codes[index]
        prefixes = prefix_ids(codes)
        levels = choose_levels(prefixes, recipe.min_members, recipe.agg_level)
        names = group_names(codes, levels)
        user_parts.append(_user_rows(index + 1, frames.users[USER_ID], codes, names))
        positives = frames.before(float(moment)).positives
        priors = group_priors(
            positives,
            frames.users,
            codes,
            pairs,
            kinds,
            recipe.top_categories,
            recipe.sequence_length,
        )
        priors.insert(0, SNAPSHOT, np.full(len(priors), index + 1, np.int32))
        group_parts.append(priors)
        number, _ = pd.factorize(pd.Series(names, dtype=object), sort=True)
        snapshots.append(SnapshotGroups(float(moment), codes, number.astype(np.int64), levels))
        small = _count_small(prefixes, levels, recipe.min_members)
        if small:
            logger.info(
                "snapshot %d: %d users read a group of fewer than %d members: no larger prefix",
                *(index + 1, small, recipe.min_members),
            )
    users = pd.concat(user_parts, ignore_index=True)
    return users, pd.concat(group_parts, ignore_index=True), snapshots


def _user_rows(
    snapshot: int, user_ids: pd.Series, codes: NDArray[np.int32], names: NDArray[np.object_]
) -> pd.DataFrame:
    columns: dict[str, Any] = {
        SNAPSHOT: np.full(len(codes), snapshot, np.int32),
        USER_ID: user_ids.to_numpy(object),
    }
    for level in range(codes.shape[1]):
        columns[code_column(level + 1)] = codes[:, level]
    columns[GROUP_ID] = pd.Series(names, dtype=object)
    return pd.DataFrame(columns)


def _count_small(prefixes: NDArray[np.int64], levels: NDArray[np.int64], min_members: int) -> int:
    """Users whose group has fewer members than asked for."""
    total = 0
    for level in range(1, prefixes.shape[1] + 1):
        column = prefixes[:, level - 1]
        known = column >= 0
        sizes = np.bincount(column[known], minlength=1)
        mine = (levels == level) & known
        total += int((sizes[column[mine]] < min_members).sum())
    return total
