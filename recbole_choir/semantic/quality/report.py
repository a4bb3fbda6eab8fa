"""The quality report of a table: what its groups look like and how much they know."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.prefix_groups import memberships, prefix_ids
from recbole_choir.semantic.frames.categories import CATEGORY
from recbole_choir.semantic.profiles.verbalize import is_descriptive
from recbole_choir.semantic.quality.lift import LabelledRows, lift_report
from recbole_choir.semantic.quantizers.codebooks import collision_rate
from recbole_choir.table_format import ITEM_ID, USER_ID

SIZE_EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
TOP_CATEGORIES = 50

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SnapshotGroups:
    """The groups of one snapshot.

    Args:
        time: Time of the snapshot.
        codes: int [n_users, M], negative where a user has none.
        group: int64 [n_users] number of the group that a user reads (after back-off), -1 for none.
        level: int64 [n_users] level of that group, 0 for none.
    """

    time: float
    codes: NDArray[np.integer]
    group: NDArray[np.int64]
    level: NDArray[np.int64]

    def belongs(self) -> NDArray[np.int64]:
        """All groups [n_users, k] that each user is a member of, -1 for none."""
        return memberships(self.codes, self.group, self.level)


def quality_report(
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    pairs: pd.DataFrame,
    kinds: dict[str, Any],
    snapshots: Sequence[SnapshotGroups],
    n_clusters: Sequence[int],
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the groups of every snapshot.

    Args:
        interactions: ``user_id``, ``item_id``, ``timestamp``, ``label``.
        users: ``user_id`` and attributes, in the order of the snapshots' arrays.
        pairs: Item and category.
        kinds: Field -> token or float, of :func:`~.priors.attribute_kinds`.
        snapshots: The groups, in the order of time.
        n_clusters: Codewords at each level.
        seed: Seed of the random controls.

    Returns:
        Plain values. ``snapshots``: for each, users with a group, groups read, histogram of their
        sizes and users by the level backed off to, share of codewords in use, share of the users
        who share their full code, attribute consistency
        (mean share of the mode, weighted by members, next to the share of the whole population's
        mode) and the share of purchases in a group's 50 largest categories (all of them where
        there are fewer). A group's members are all users of its prefix
        (:mod:`recbole_choir.prefix_groups`). ``lift_gauc``: see :func:`~.lift.lift_report`.
        ``attribute_cells``: the attributes that its control within cells holds still, the cells
        (different combinations of their values, a missing one among them) of the users with a
        group in the last snapshot, and the share of these who are alone in theirs, which no
        permutation moves; None without such attributes.

    References:
        ChoirRec, section 5.5 (semantic group consistency: 83 % and 60 % there).
    """
    user_row = pd.Index(users[USER_ID].astype(str)).get_indexer(pd.Index(interactions[USER_ID]))
    bought = interactions[interactions["label"] > 0]
    bought_user = user_row[(interactions["label"] > 0).to_numpy(bool)]
    reports = []
    belongs = [groups.belongs() for groups in snapshots]
    for index, groups in enumerate(snapshots, 1):
        before = (bought["timestamp"] < groups.time).to_numpy(bool)
        reports.append(
            {
                "index": index,
                "time": groups.time,
                **_shape(groups, n_clusters),
                "attribute_consistency": _consistency(belongs[index - 1], users, kinds),
                "top_categories": _concentration(
                    belongs[index - 1][bought_user[before]], bought[ITEM_ID][before], pairs
                ),
            }
        )
    fields, cells = attribute_cells(users, list(kinds))
    lift = lift_report(
        _labelled_rows(interactions, user_row, pairs, len(users)),
        np.array([s.time for s in snapshots]),
        np.stack([s.group for s in snapshots]),
        seed=seed,
        belongs=belongs,
        cells=cells if fields else None,
    )
    records = [{str(k): _plain(v) for k, v in row.items()} for row in lift.to_dict("records")]
    return {
        "snapshots": reports,
        "lift_gauc": records,
        "attribute_cells": _cells(fields, cells[snapshots[-1].group >= 0]) if fields else None,
    }


def attribute_cells(users: pd.DataFrame, names: Sequence[str]) -> tuple[list[str], Ints]:
    """Number the users by the combination of their attributes.

    Args:
        users: Attributes, one row a user.
        names: Those to look at; one that names single users, such as a zip code, is left out: it
            would leave everybody alone.

    Returns:
        The names that count, and int64 [n_users] the number of each user's cell.
    """
    fields = [name for name in names if is_descriptive(users[name])]
    cell = np.zeros(len(users), np.int64)
    for name in fields:
        value, _ = pd.factorize(users[name])  # -1: missing, a value like any other
        _, cell = np.unique(cell * (value.max() + 2) + value + 1, return_inverse=True)
    return fields, cell.reshape(-1).astype(np.int64)


def _cells(fields: list[str], cells: Ints) -> dict[str, Any]:
    _, size = np.unique(cells, return_counts=True)
    alone = float((size == 1).sum() / len(cells)) if len(cells) else None
    return {"fields": fields, "users": len(cells), "cells": len(size), "users_alone": alone}


def quality_table(report: dict[str, Any]) -> str:
    """Write the report as text that people read."""
    lines = ["How much the groups know: GAUC of the as-of group x category lift alone", ""]
    cells = report["attribute_cells"]
    head = f"{'segment':<10}{'rows':>10}{'users':>9}{'in groups':>11}{'gauc':>9}{'random':>9}"
    if cells is not None:
        head += f"{'in cells':>10}{'beyond':>9}"
    lines += [head, "-" * len(head)]
    for row in report["lift_gauc"]:
        lines.append(
            f"{row['segment']:<10}{row['rows']:>10,}{row['users']:>9,}"
            f"{_figure(row['with_group'], '11.1%')}{_figure(row['gauc'], '9.4f')}"
            f"{_figure(row['random'], '9.4f')}"
            + ("" if cells is None else _figure(row["within_cells"], "10.4f"))
            + ("" if cells is None else _figure(row["beyond_attributes"], "+9.4f"))
        )
    lines += [
        "",
        "level_1 .. level_5: equal fifths of the users by positives before the snapshot;",
        "random: the same groups with permuted members, the measure of knowing nothing.",
    ]
    if cells is None:
        lines.append("No attribute describes users: nothing to compare the groups with.")
    else:
        lines += [
            f"in cells: members permuted among users of equal {', '.join(cells['fields'])};",
            "beyond: gauc less that, what a group knows beyond these attributes. "
            f"{cells['cells']:,} cells",
            f"of {cells['users']:,} users, {_figure(cells['users_alone'], '.1%')} of them alone in "
            "theirs, which nothing moves.",
        ]
    for snapshot in report["snapshots"]:
        lines += ["", *_snapshot_lines(snapshot)]
    return "\n".join(lines) + "\n"


def _snapshot_lines(s: dict[str, Any]) -> list[str]:
    sizes = "  ".join(f"{name}: {n}" for name, n in s["group_sizes"].items() if n)
    levels = "  ".join(f"level {name}: {n}" for name, n in s["users_by_level"].items())
    usage = "  ".join(f"{used}/{k}" for used, k in s["codewords_used"])
    consistency = s["attribute_consistency"]
    top = s["top_categories"]
    lines = [
        f"Snapshot {s['index']} (time {s['time']:.0f})",
        f"  users with a group  {s['users_with_group']:,} of {s['users']:,} in {s['groups']:,}",
        f"  group sizes         {sizes}",
        f"  users reading       {levels}",
        f"  codewords in use    {usage}",
        f"  sharing a full code {s['collision_rate']:.1%}",
    ]
    if consistency["mean"] is not None:
        lines.append(
            f"  attribute mode      {consistency['mean']:.1%} of a group's members share it"
            f" ({consistency['population']:.1%} of all users)"
        )
    if top["share"] is not None:
        lines.append(
            f"  top {top['n']:<3} categories  {top['share']:.1%} of a group's purchases"
            f" ({top['population']:.1%} of all purchases)"
        )
    return lines


def _shape(groups: SnapshotGroups, n_clusters: Sequence[int]) -> dict[str, Any]:
    known = groups.group >= 0
    sizes = sizes_of_read_groups(groups)
    return {
        "users": len(groups.group),
        "users_with_group": int(known.sum()),
        "groups": len(sizes),
        "group_sizes": size_histogram(sizes),
        "users_by_level": by_level(groups),
        "codewords_used": codewords_used(groups, n_clusters),
        "collision_rate": collision_rate(groups.codes[known]),
    }


def size_histogram(sizes: NDArray[np.int64]) -> dict[str, int]:
    """How many groups have a size in each range."""
    edges = [*SIZE_EDGES, np.inf]
    histogram = np.histogram(sizes, bins=edges)[0] if len(sizes) else np.zeros(len(SIZE_EDGES), int)
    names = [f"{a}-{b - 1}" if b - 1 > a else f"{a}" for a, b in itertools.pairwise(SIZE_EDGES)]
    names.append(f"{edges[-2]}+")
    return {name: int(n) for name, n in zip(names, histogram)}


def by_level(groups: SnapshotGroups) -> dict[str, int]:
    """How many read a group of each level; level 0: none."""
    n_levels = groups.codes.shape[1]
    return {str(m): int((groups.level == m).sum()) for m in range(n_levels + 1)}


def codewords_used(groups: SnapshotGroups, n_clusters: Sequence[int]) -> list[list[int]]:
    """Codewords in use and codewords, for each level."""
    codes = groups.codes[groups.group >= 0]
    return [[len(np.unique(codes[:, m])), int(k)] for m, k in enumerate(n_clusters)]


def sizes_of_read_groups(groups: SnapshotGroups) -> NDArray[np.int64]:
    """Members of each group that somebody reads, those who read a deeper one included."""
    prefixes = prefix_ids(groups.codes)
    sizes = []
    for level in range(1, groups.codes.shape[1] + 1):
        column = prefixes[:, level - 1]
        read = np.unique(column[groups.level == level])
        sizes.append(np.bincount(column[column >= 0], minlength=1)[read])
    return np.concatenate(sizes).astype(np.int64)


def _consistency(belongs: Ints, users: pd.DataFrame, kinds: dict[str, Any]) -> dict[str, Any]:
    """Share of members with the mode of their group, by field, and of all users with theirs."""
    fields: dict[str, float] = {}
    population: dict[str, float] = {}
    for field in [f for f, kind in kinds.items() if kind == "token"]:
        known = (belongs >= 0).any(axis=1) & users[field].notna().to_numpy(bool)
        if not known.any():
            continue
        values = users[field].astype(str).to_numpy(object)
        user, column = np.nonzero(known[:, None] & (belongs >= 0))
        members = pd.Series(values[user])
        counts = members.groupby([belongs[user, column], values[user]]).size()
        fields[field] = float(counts.groupby(level=0).max().sum() / len(user))
        population[field] = float(pd.Series(values[known]).value_counts().max() / known.sum())
    return {
        "mean": float(np.mean(list(fields.values()))) if fields else None,
        "population": float(np.mean(list(population.values()))) if fields else None,
        "fields": fields,
    }


def _concentration(belongs: Ints, item: pd.Series, pairs: pd.DataFrame) -> dict[str, Any]:
    """Share of purchases in the largest categories: mean over groups, and of everybody."""
    n = min(TOP_CATEGORIES, pairs[CATEGORY].nunique())
    event, column = np.nonzero(belongs >= 0)
    rows = pd.DataFrame(
        {"group": belongs[event, column], ITEM_ID: item.to_numpy(object)[event], "event": event}
    ).merge(pairs, on=ITEM_ID)
    if len(rows) == 0:
        return {"n": n, "share": None, "population": None}
    counts = rows.groupby(["group", CATEGORY]).size().sort_values(ascending=False, kind="stable")
    top = counts.groupby(level=0).head(n).groupby(level=0).sum()
    total = counts.groupby(level=0).sum()
    everyone = rows.drop_duplicates(["event", CATEGORY])[CATEGORY].value_counts()
    return {
        "n": n,
        "share": float((top / total).mean()),
        "population": float(everyone.head(n).sum() / everyone.sum()),
    }


def _labelled_rows(
    interactions: pd.DataFrame, user_row: NDArray[np.integer], pairs: pd.DataFrame, n_users: int
) -> LabelledRows:
    category, _ = pd.factorize(pairs[CATEGORY], sort=True)
    items = pd.DataFrame({ITEM_ID: pairs[ITEM_ID].to_numpy(object), "category": category})
    rows = pd.DataFrame(
        {ITEM_ID: interactions[ITEM_ID].to_numpy(object), "row": np.arange(len(interactions))}
    )
    exploded = rows.merge(items, on=ITEM_ID).sort_values(["row", "category"])
    return LabelledRows(
        user=np.asarray(user_row, np.int64),
        time=interactions["timestamp"].to_numpy(np.float64),
        label=(interactions["label"].to_numpy(np.float64) > 0).astype(np.float64),
        pair_row=exploded["row"].to_numpy(np.int64),
        pair_category=exploded["category"].to_numpy(np.int64),
        n_users=n_users,
    )


def _plain(value: Any) -> Any:
    """A value as JSON knows it; nan is null."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _figure(value: float | None, form: str) -> str:
    width = int(form.lstrip("+").split(".")[0] or 0)
    return f"{'-':>{width}}" if value is None else f"{value:{form}}"
