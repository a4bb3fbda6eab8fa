"""How much a grouping knows: the GAUC of its group x category lift alone, before any training."""

from __future__ import annotations

from dataclasses import dataclass

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
) -> pd.DataFrame:
    """Rank the rows after each snapshot by what the user's group likes, and measure the ranking.

    A row reads the newest snapshot strictly before it. Its score is the mean over its categories
    of ``log(((pos + m r) / (exp + m)) / r)``: positives and exposures of the other members of the
    user's group with that category strictly before the row, against the rate r of all other
    users. Rows without a snapshot are left out; rows without a group or category score 0.

    Args:
        rows: All labelled interactions.
        snapshot_times: [S], increasing.
        groups: int [S, n_users], negative where a user has no group.
        prior: m, pseudo-exposures.
        seed: Seed of the control: the same groups with permuted members, three times.

    Returns:
        One row for all users and one for each of five equal activity levels (by positives before
        the snapshot, users with rows after it): ``segment``, ``rows``, ``users`` (users counted
        once per snapshot), ``with_group`` (share of rows), ``gauc``, ``random``; nan where nobody
        has both labels. A user's own events are left out, so what is left of a group that knows
        nothing leans a little against the user's taste: compare with ``random``, not with 0.5.
    """
    snapshot = np.searchsorted(snapshot_times, rows.time, side="left") - 1
    # A user's activity differs from snapshot to snapshot, so it is ranked within each of them.
    unit = combine_keys(np.maximum(snapshot, 0), rows.user)
    level = np.full(len(rows.user), -1)
    pairs = np.arange(len(rows.pair_row))
    own = _asof_pairs(rows, rows.user[rows.pair_row], pairs)
    everyone = _asof_pairs(rows, np.zeros(len(pairs), np.int64), pairs)
    base = _base_rate(rows)
    scores = np.zeros((1 + N_PERMUTATIONS, len(rows.user)))
    with_group = np.zeros(len(rows.user), bool)
    rng = np.random.default_rng(seed)
    for s in range(len(snapshot_times)):
        at = np.flatnonzero(snapshot == s)
        if len(at) == 0:
            continue
        level[at] = _activity_levels(rows, float(snapshot_times[s]), rows.user[at])
        members = np.asarray(groups[s], np.int64)
        with_group[at] = members[rows.user[at]] >= 0
        for p in range(1 + N_PERMUTATIONS):
            shown = members if p == 0 else _permuted(members, rng)
            scores[p, at] = _lift(rows, at, shown, own, everyone, base, prior)
    out = []
    for name, segment in _segments(snapshot, level):
        out.append(
            {
                "segment": name,
                "rows": int(segment.sum()),
                "users": len(np.unique(unit[segment])),
                "with_group": float(with_group[segment].mean()) if segment.any() else np.nan,
                "gauc": _gauc(rows, scores[0], unit, segment),
                "random": float(np.mean([_gauc(rows, one, unit, segment) for one in scores[1:]])),
            }
        )
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


def _permuted(members: Ints, rng: np.random.Generator) -> Ints:
    """The same groups, of the same sizes, with their members drawn at random."""
    out = members.copy()
    known = members >= 0
    out[known] = rng.permutation(members[known])
    return out


def _base_rate(rows: LabelledRows) -> Floats:
    """Share of positives strictly before each row, a half where there is nothing yet: [N]."""
    zero = np.zeros(len(rows.user), np.int64)
    weight = np.stack([np.ones(len(rows.user)), rows.label], axis=1)
    count = asof_sum(zero, rows.time, zero, rows.time, weight)
    return (count[:, 1] + 1.0) / (count[:, 0] + 2.0)


def _asof_pairs(rows: LabelledRows, owner: Ints, pairs: Ints) -> Floats:
    """Counts of each asked pair's owner and category; zero where the owner is negative: [Q, 2]."""
    known = owner >= 0
    key = combine_keys(np.maximum(owner, 0), rows.pair_category)
    time = rows.time[rows.pair_row]
    weight = np.stack([np.ones(len(owner)), rows.label[rows.pair_row]], axis=1)
    counts = asof_sum(key[known], time[known], key[pairs], time[pairs], weight[known])
    return counts * known[pairs, None]


def _lift(
    rows: LabelledRows,
    at: Ints,
    members: Ints,
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
    owner = members[rows.user][rows.pair_row]
    group = _asof_pairs(rows, owner, pairs)
    others = group - own[pairs] * (owner[pairs] >= 0)[:, None]
    population = everyone[pairs] - own[pairs]
    rate = (population[:, 1] + prior * base[row]) / (population[:, 0] + prior)
    lift = np.log((others[:, 1] + prior * rate) / (others[:, 0] + prior) / rate)
    # No evidence is a tie. Computed, it would be a rounding error around 0, which ranks.
    lift[others[:, 0] == 0] = 0.0
    total = np.bincount(position[row], lift, minlength=len(at))
    count = np.bincount(position[row], minlength=len(at))
    return total / np.maximum(count, 1)
