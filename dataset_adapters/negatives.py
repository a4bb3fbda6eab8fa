"""Negatives, drawn once, in the adapter: distinct in a group, never what the user took there.

Positive-only sets get their negatives here, with a recorded seed, so that every model sees the
same rows. Nothing loops over rows: all open draws of all groups are made together, those that are
forbidden or repeated are thrown away, and the groups that are still short draw again.
"""

from __future__ import annotations

from collections.abc import Callable

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
