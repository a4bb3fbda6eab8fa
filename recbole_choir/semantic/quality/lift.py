"""How much a grouping knows: the GAUC of its group x category lift alone, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.data.asof import asof_sum, combine_keys
from recbole_choir.evaluator import gauc

N_LEVELS = 5
N_PERMUTATIONS = 3

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelledRows:
    """Labelled interactions in whole numbers.

    Args:
        user: int64 [N] row of the user.
        time: float64 [N].
        label: float64 [N], 0 or 1.
        pair_row: int64 [P] interaction of each (interaction, category) pair.
        pair_category: int64 [P].
        n_users: Number of users.
    """

    user: Ints
    time: Floats
    label: Floats
    pair_row: Ints
    pair_category: Ints
    n_users: int


def lift_report(
    rows: LabelledRows,
    snapshot_times: Floats,
    groups: NDArray[np.integer],
    prior: float = 20.0,
    seed: int = 0,
    belongs: Sequence[NDArray[np.integer]] | None = None,
    cells: Ints | None = None,
) -> pd.DataFrame:
    """Rank the rows after each snapshot by what the user's group likes, and measure the ranking.

    A row reads the newest snapshot strictly before it. Its score is the mean over its categories
    of ``log(((pos + m r) / (exp + m)) / r)``: positives and exposures of the other members of the
    user's group with that category strictly before the row, against the rate r of all other
    users. Rows without a snapshot are left out; rows without a group or category score 0.

    Args:
        rows: All labelled interactions.
        snapshot_times: [S], increasing.
        groups: int [S, n_users] the group a user reads, negative where it has none.
        prior: m, pseudo-exposures.
        seed: Seed of the controls: the same groups with permuted members, three times each.
        belongs: For each snapshot int [n_users, k], all groups that a user is a member of, of
            :func:`~recbole_choir.prefix_groups.memberships`; by default the one it reads.
        cells: int64 [n_users] users who share all their attributes; without them there is no
            control within cells.

    Returns:
        One row for all users and one for each of five equal activity levels (by positives before
        the snapshot, users with rows after it): ``segment``, ``rows``, ``users`` (users counted
        once per snapshot), ``with_group`` (share of rows), ``gauc``, ``random``; with ``cells``
        also ``within_cells`` (members permuted among the users of a cell alone: what the
        attributes know) and ``beyond_attributes``, ``gauc`` less that; nan where nobody has both
        labels. A user's own events are left out, so what is left of a group that knows nothing
        leans a little against the user's taste: compare with ``random``, not with 0.5.
    """
    snapshot = np.searchsorted(snapshot_times, rows.time, side="left") - 1
    # A user's activity differs from snapshot to snapshot, so it is ranked within each of them.
    unit = combine_keys(np.maximum(snapshot, 0), rows.user)
    level = np.full(len(rows.user), -1)
    pairs = np.arange(len(rows.pair_row))
    own = _asof_pairs(rows, rows.user[rows.pair_row], pairs)
    everyone = _asof_pairs(rows, np.zeros(len(pairs), np.int64), pairs)
    base = _base_rate(rows)
    controls: list[Ints | None] = [None] * N_PERMUTATIONS
    controls += [] if cells is None else [cells] * N_PERMUTATIONS
    scores = np.zeros((1 + len(controls), len(rows.user)))
    with_group = np.zeros(len(rows.user), bool)
    # Two streams: a report without cells has the same random control.
    rng, rng_cells = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    for s in range(len(snapshot_times)):
        at = np.flatnonzero(snapshot == s)
        if len(at) == 0:
            continue
        level[at] = _activity_levels(rows, float(snapshot_times[s]), rows.user[at])
        read = np.asarray(groups[s], np.int64)
        member = read[:, None] if belongs is None else np.asarray(belongs[s], np.int64)
        with_group[at] = read[rows.user[at]] >= 0
        scores[0, at] = _lift(rows, at, read, member, own, everyone, base, prior)
        for p, among in enumerate(controls, 1):
            user = _permuted(read >= 0, among, rng if among is None else rng_cells)
            scores[p, at] = _lift(rows, at, read[user], member[user], own, everyone, base, prior)
    out = []
    for name, segment in _segments(snapshot, level):
        figures = [_gauc(rows, one, unit, segment) for one in scores]
        row: dict[str, Any] = {
            "segment": name,
            "rows": int(segment.sum()),
            "users": len(np.unique(unit[segment])),
            "with_group": float(with_group[segment].mean()) if segment.any() else np.nan,
            "gauc": figures[0],
            "random": float(np.mean(figures[1 : 1 + N_PERMUTATIONS])),
        }
        if cells is not None:
            row["within_cells"] = float(np.mean(figures[1 + N_PERMUTATIONS :]))
            row["beyond_attributes"] = row["gauc"] - row["within_cells"]
        out.append(row)
    return pd.DataFrame(out)


def _segments(snapshot: Ints, level: Ints) -> list[tuple[str, NDArray[np.bool_]]]:
    levels = [(f"level_{i + 1}", (snapshot >= 0) & (level == i)) for i in range(N_LEVELS)]
    return [("all", snapshot >= 0), *levels]


def _gauc(rows: LabelledRows, score: Floats, unit: Ints, segment: NDArray[np.bool_]) -> float:
    if not segment.any():
        return float("nan")
    return gauc(rows.label[segment], score[segment], unit[segment])


def _activity_levels(rows: LabelledRows, time: float, users: Ints) -> Ints:
    """Level 0..4 of each of ``users``: five equal parts of the distinct ones, by positives."""
    before = rows.time < time
    positives = np.bincount(rows.user[before], rows.label[before], minlength=rows.n_users)
    distinct, where = np.unique(users, return_inverse=True)
    rank = np.empty(len(distinct), np.int64)
    rank[np.argsort(positives[distinct], kind="stable")] = np.arange(len(distinct))
    return (rank * N_LEVELS // max(len(distinct), 1))[where]


def _permuted(known: NDArray[np.bool_], cells: Ints | None, rng: np.random.Generator) -> Ints:
    """Whose place each user takes: a permutation of the users with a group, within their cells.

    The groups and their sizes stay the same. Without cells all users are one.
    """
    user = np.arange(len(known))
    at = np.flatnonzero(known)
    drawn = rng.permutation(at)
    if cells is not None:
        # both in the order of their cells: a cell's users change places among themselves
        at = at[np.argsort(cells[at], kind="stable")]
        drawn = drawn[np.argsort(cells[drawn], kind="stable")]
    user[at] = drawn
    return user


def _base_rate(rows: LabelledRows) -> Floats:
    """Share of positives strictly before each row, a half where there is nothing yet: [N]."""
    zero = np.zeros(len(rows.user), np.int64)
    weight = np.stack([np.ones(len(rows.user)), rows.label], axis=1)
    count = asof_sum(zero, rows.time, zero, rows.time, weight)
    return (count[:, 1] + 1.0) / (count[:, 0] + 2.0)


def _asof_pairs(
    rows: LabelledRows, owner: Ints, pairs: Ints, members: Ints | None = None
) -> Floats:
    """Counts of each asked pair's owner and category; zero where the owner is negative: [Q, 2].

    Args:
        rows: The rows.
        owner: int64 [P] whose counts each pair asks for.
        pairs: The pairs that ask.
        members: int64 [P, k] for which users each pair counts; by default its owner alone.
    """
    counted = owner[:, None] if members is None else members
    event, column = np.nonzero(counted >= 0)
    key = combine_keys(counted[event, column], rows.pair_category[event])
    asked = combine_keys(np.maximum(owner[pairs], 0), rows.pair_category[pairs])
    time = rows.time[rows.pair_row]
    weight = np.stack([np.ones(len(event)), rows.label[rows.pair_row[event]]], axis=1)
    counts = asof_sum(key, time[event], asked, time[pairs], weight)
    return counts * (owner[pairs] >= 0)[:, None]


def _lift(
    rows: LabelledRows,
    at: Ints,
    read: Ints,
    belongs: Ints,
    own: Floats,
    everyone: Floats,
    base: Floats,
    prior: float,
) -> Floats:
    """Mean lift over the categories of each row in ``at``: float64 [len(at)]."""
    position = np.full(len(rows.user), -1)
    position[at] = np.arange(len(at))
    pairs = np.flatnonzero(position[rows.pair_row] >= 0)
    row = rows.pair_row[pairs]
    user = rows.user[rows.pair_row]
    owner = read[user]
    group = _asof_pairs(rows, owner, pairs, belongs[user])
    others = group - own[pairs] * (owner[pairs] >= 0)[:, None]
    population = everyone[pairs] - own[pairs]
    rate = (population[:, 1] + prior * base[row]) / (population[:, 0] + prior)
    lift = np.log((others[:, 1] + prior * rate) / (others[:, 0] + prior) / rate)
    # No evidence is a tie. Computed, it would be a rounding error around 0, which ranks.
    lift[others[:, 0] == 0] = 0.0
    total = np.bincount(position[row], lift, minlength=len(at))
    count = np.bincount(position[row], minlength=len(at))
    return total / np.maximum(count, 1)
