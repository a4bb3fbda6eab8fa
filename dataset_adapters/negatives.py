"""Negatives, drawn once, in the adapter: distinct in a group, never what the user took there.

Positive-only sets get their negatives here, with a recorded seed, so that every model sees the
same rows. Nothing loops over rows: all open draws of all groups are made together, those that are
forbidden or repeated are thrown away, and the groups that are still short draw again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
#: Rounds of rejection before a group's candidates are listed one by one.
ROUNDS = 60


def member(sorted_keys: Ints, keys: Ints) -> NDArray[np.bool_]:
    """Whether each key is among ``sorted_keys``.

    Args:
        sorted_keys: ``[M]`` ascending.
        keys: ``[N]``.

    Returns:
        ``[N]``.
    """
    if not len(sorted_keys):
        return np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[at] == keys)


def first_of_each(keys: Ints) -> NDArray[np.bool_]:
    """Mark the first occurrence of each key.

    Args:
        keys: ``[N]``.

    Returns:
        ``[N]``, True where no equal key stands before.
    """
    mask = np.zeros(len(keys), dtype=bool)
    mask[np.unique(keys, return_index=True)[1]] = True
    return mask


def draw_distinct(
    need: Ints,
    draw: Callable[[Ints], Ints],
    forbidden: Callable[[Ints, Ints], NDArray[np.bool_]],
    n_items: int,
    rest: Callable[[Ints], tuple[Ints, Ints]],
    rng: np.random.Generator,
    rounds: int = ROUNDS,
) -> tuple[Ints, Ints]:
    """Draw distinct, allowed items for every group.

    Rejection keeps the distribution exact: within a group the outcome is that of drawing one item
    after the other from ``draw`` given that it is allowed and new.

    Args:
        need: ``[G]`` items wanted by each group.
        draw: Groups ``[K]`` -> one item each ``[K]``, independent, with replacement.
        forbidden: (groups ``[K]``, items ``[K]``) -> which pairs may not be.
        n_items: Items are 0 .. ``n_items`` - 1.
        rest: Groups ``[K]``, ascending -> all their candidates, as (groups, items): for those that
            are still short after ``rounds``, which fill up uniformly from what is left.
        rng: Orders what ``rest`` gives.
        rounds: Rounds of rejection.

    Returns:
        (groups, items), sorted by group and item; groups with fewer allowed candidates than wanted
        get all of them.
    """
    missing = need.astype(np.int64).copy()
    taken = np.zeros(0, dtype=np.int64)
    groups = np.arange(len(need), dtype=np.int64)

    def keep(keys: Ints) -> None:
        nonlocal taken
        # np.unique would hash; both parts are short or sorted already.
        taken = np.sort(np.concatenate([taken, keys]))
        missing[:] = missing - np.bincount(keys // n_items, minlength=len(missing))

    for _ in range(rounds):
        asked = np.repeat(groups, missing)
        if not len(asked):
            break
        items = draw(asked)
        keys = asked * n_items + items
        good = ~forbidden(asked, items) & ~member(taken, keys)
        keys = keys[good]
        keep(keys[first_of_each(keys)])
    short = np.flatnonzero(missing)
    if len(short):
        asked, items = rest(short)
        keys = asked * n_items + items
        keys = np.unique(keys[~forbidden(asked, items) & ~member(taken, keys)])
        keys = keys[np.lexsort((rng.random(len(keys)), keys // n_items))]
        owner = keys // n_items
        rank = np.arange(len(keys)) - np.searchsorted(owner, owner, side="left")
        keep(keys[rank < missing[owner]])
    return taken // n_items, taken % n_items


def spans(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """List the positions of several ranges.

    Args:
        starts: ``[K]``.
        stops: ``[K]``, at least ``starts``.

    Returns:
        (number of the range, position), both as long as all ranges together.
    """
    sizes = stops - starts
    owner = np.repeat(np.arange(len(starts), dtype=np.int64), sizes)
    first = np.cumsum(sizes) - sizes
    return owner, np.arange(len(owner), dtype=np.int64) - first[owner] + starts[owner]


@dataclass(frozen=True)
class Taken:
    """Positives of a set that has nothing else, in the order of time.

    Args:
        user, item: ``[N]`` codes from 0.
        time: ``[N]`` ascending.
        n_items: Number of items of the catalogue, those without a positive included.
    """

    user: Ints
    item: Ints
    time: NDArray[np.float64]
    n_items: int


@dataclass(frozen=True)
class Sampling:
    """How negatives are drawn for positives.

    Args:
        kind: ``popularity``: in proportion to the positives of items strictly before; ``uniform``.
        per_positive: How many.
        window: Popularity is counted over this long before the row, in the unit of time; infinite:
            from the start.
        warm_up: Where fewer positives than this share of all precede, popularity is that of the
            first share in time, a fixed window: there is nothing else to count yet.
        fixed_until: Popularity of every row is that of all positives up to this time, a fixed
            window, for sets that know no time but an order within each user. None: as of the row.
        uniform_share: Share of uniform draws among those by popularity, so that an item nobody
            took lately can be a negative too; otherwise being new would give a positive away.
    """

    kind: str = "popularity"
    per_positive: int = 5
    window: float = np.inf
    warm_up: float = 0.01
    fixed_until: float | None = None
    uniform_share: float = 0.1


def popularity_ranges(
    time: NDArray[np.float64], at: NDArray[np.float64], sampling: Sampling
) -> tuple[Ints, Ints]:
    """Range of the positives that popularity is counted over.

    Args:
        time: ``[N]`` of the positives, ascending.
        at: ``[G]`` times to look back from.
        sampling: Window and warm-up.

    Returns:
        (start, stop), each ``[G]``; never empty.
    """
    if sampling.fixed_until is not None:
        stop = np.full(len(at), max(1, np.searchsorted(time, sampling.fixed_until, "right")))
        return np.zeros(len(at), dtype=np.int64), stop.astype(np.int64)
    warm = min(max(1, round(sampling.warm_up * len(time))), len(time))
    # Whole stamps: which of several equal ones come first must not matter.
    warm = int(np.searchsorted(time, time[warm - 1], "right"))
    stop = np.searchsorted(time, at, "left")
    start = np.searchsorted(time, at - sampling.window, "left")
    early = stop < warm
    stop = np.where(early, warm, stop)
    start = np.where(early, 0, np.minimum(start, stop - 1))
    return start.astype(np.int64), stop.astype(np.int64)


def sample_negatives(
    taken: Taken, wanted: NDArray[np.bool_], sampling: Sampling, seed: int
) -> tuple[Ints, Ints]:
    """Draw negatives for positives, at their users and times.

    An item that the user took before or at that time is never drawn; one taken later may be: at
    the time of the row it was not. Negatives of one user and time are distinct.

    Args:
        taken: All positives: popularity is counted over all of them.
        wanted: ``[N]`` positives that get negatives.
        sampling: How.
        seed: Of the draws.

    Returns:
        (position of the positive, item) of each negative, in the order of positions. Where nothing
        is left to draw there are fewer.
    """
    rng = np.random.default_rng(seed)
    n = taken.n_items
    rows = np.flatnonzero(wanted)
    order = rows[np.lexsort((rows, taken.user[rows], taken.time[rows]))]
    user, time = taken.user[order], taken.time[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(user) != 0) | (np.diff(time) != 0)
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(order)))
    pairs, earliest = np.unique(taken.user * n + taken.item, return_index=True)
    start, stop = popularity_ranges(taken.time, time[first], sampling)

    def draw(groups: Ints) -> Ints:
        anything = rng.integers(0, n, len(groups))
        if sampling.kind == "uniform":
            return anything
        popular = taken.item[rng.integers(start[groups], stop[groups])]
        return np.where(rng.random(len(groups)) < sampling.uniform_share, anything, popular)

    def forbidden(groups: Ints, items: Ints) -> NDArray[np.bool_]:
        keys = user[first[groups]] * n + items
        at = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
        known = taken.time[earliest[at]] <= time[first[groups]]
        return np.asarray((pairs[at] == keys) & known)

    def rest(groups: Ints) -> tuple[Ints, Ints]:
        return np.repeat(groups, n), np.tile(np.arange(n, dtype=np.int64), len(groups))

    need = size * sampling.per_positive
    groups, items = draw_distinct(need, draw, forbidden, n, rest, rng)
    # Shared out evenly: which positive of a visit a negative stands with has no meaning.
    rank = np.arange(len(groups)) - np.searchsorted(groups, groups, "left")
    owner = order[first[groups] + rank % size[groups]]
    back = np.lexsort((items, owner))
    return owner[back], items[back]
