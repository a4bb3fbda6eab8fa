"""Sums and times over the events strictly before a query: the base of all leak-free statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_choir.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_LOW_BITS = 32


def combine_keys(a: NDArray[np.integer], b: NDArray[np.integer]) -> Ints:
    """Join two ids into one int64 key; different pairs never give the same key.

    The key does not depend on the other rows, so keys of events and of queries may be made apart.

    Args:
        a: ``[N]`` ids in ``[0, 2**31)``.
        b: ``[N]`` ids in ``[0, 2**32)``.

    Returns:
        ``[N]`` int64 keys ``a * 2**32 + b``.

    Raises:
        DataError: An id is out of range.
    """
    a = np.asarray(a, dtype=np.int64)
    b = np.asarray(b, dtype=np.int64)
    for name, ids, bits in (("a", a, 31), ("b", b, _LOW_BITS)):
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= 1 << bits):
            raise DataError(
                f"combine_keys: {name} expected ids in [0, 2**{bits}),"
                f" got [{int(ids.min())}, {int(ids.max())}]"
            )
    return (a << _LOW_BITS) | b


class AsOfIndex:
    """Events sorted once by (key, time), asked many times for what lies strictly before a query.

    Events with equal key and time keep their order. Cheapest when they come in the order of time.

    Args:
        key: ``[E]`` non-negative integer keys.
        time: ``[E]`` float64 times.
    """

    def __init__(self, key: NDArray[np.integer], time: Floats) -> None:
        key = np.asarray(key, dtype=np.int64)
        time = np.asarray(time, dtype=np.float64)
        if key.shape != time.shape or key.ndim != 1:
            raise DataError(
                f"as-of index: expected [E] keys and times, got {key.shape}, {time.shape}"
            )
        by_time = None if _ascending(time) else np.argsort(time, kind="stable")
        if by_time is not None:
            key, time = key[by_time], time[by_time]
        self._stamps = time
        # A stable sort by key of events in time order is a sort by (key, time).
        ordered, position = _sort(key)
        #: ``[E]`` positions of the events in the order (key, time).
        self.order: Ints = position if by_time is None else by_time[position]
        #: ``[E]`` times in that order.
        self.time: Floats = time[position]
        new = np.ones(len(key), dtype=bool)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        first = np.flatnonzero(new)
        self._keys = ordered[first]
        #: ``[K + 1]`` where the events of each distinct key begin in that order, and the end.
        self.first: Ints = np.append(first, len(key))
        # (key, number of events that are earlier in time) as one sorted number.
        self._stride = len(key) + 1
        self._code = np.repeat(np.arange(len(first)), np.diff(self.first)) * self._stride + position
        # Ids are looked up in a table, wide combined keys by bisection.
        top = int(self._keys[-1]) if len(first) else -1
        self._rank: Ints | None = None
        if 0 <= top < 4 * len(key) + 1024 and int(self._keys[0]) >= 0:
            self._rank = np.full(top + 1, -1, dtype=np.int64)
            self._rank[self._keys] = np.arange(len(first))

    def bounds(self, key: NDArray[np.integer], time: Floats) -> tuple[Ints, Ints]:
        """Find the events of each query's key strictly before its time.

        Args:
            key: ``[Q]`` keys; one that no event has finds nothing.
            time: ``[Q]`` float64 times.

        Returns:
            ``(start, end)``, each int64 ``[Q]``: a half-open range in the sorted order.
        """
        key = np.asarray(key, dtype=np.int64)
        time = np.asarray(time, dtype=np.float64)
        if not len(self._keys):
            empty = np.zeros(len(key), dtype=np.int64)
            return empty, empty.copy()
        if self._rank is not None:
            inside = (key >= 0) & (key < len(self._rank))
            rank = self._rank[np.where(inside, key, 0)]
            known = inside & (rank >= 0)
        else:
            rank = np.minimum(_search(self._keys, key), len(self._keys) - 1)
            known = self._keys[rank] == key
        rank = np.where(known, rank, 0)
        start = self.first[rank]
        end = _search(self._code, rank * self._stride + _search(self._stamps, time))
        return start, np.where(known, end, start)

    def sum(self, weight: NDArray[np.generic], start: Ints, end: Ints) -> Floats:
        """Sum a weight of the events over ranges; exact for whole numbers below 2**53.

        Args:
            weight: ``[E]`` or ``[E, k]``, in the order in which the events were given.
            start, end: ``[Q]`` ranges from :meth:`bounds`.

        Returns:
            ``[Q]`` or ``[Q, k]`` float64.
        """
        weight = np.asarray(weight, dtype=np.float64)[self.order]
        total = np.zeros((len(weight) + 1, *weight.shape[1:]))
        np.cumsum(weight, axis=0, out=total[1:])
        return total[end] - total[start]


def asof_sum(
    event_key: NDArray[np.integer],
    event_time: Floats,
    query_key: NDArray[np.integer],
    query_time: Floats,
    weight: NDArray[np.generic] | None = None,
) -> Floats:
    """Sum the weights of the events with the query's key and a time STRICTLY before the query's.

    Args:
        event_key, event_time: ``[E]`` int64 keys and float64 times.
        query_key, query_time: ``[Q]`` the same of the queries.
        weight: ``[E]`` or ``[E, k]``; None counts the events.

    Returns:
        float64 ``[Q]`` or ``[Q, k]``; zero where nothing lies before. O((E + Q) log E).
    """
    index = AsOfIndex(event_key, event_time)
    start, end = index.bounds(query_key, query_time)
    return (end - start).astype(np.float64) if weight is None else index.sum(weight, start, end)


def asof_last(
    event_key: NDArray[np.integer],
    event_time: Floats,
    query_key: NDArray[np.integer],
    query_time: Floats,
) -> Floats:
    """Time of the newest event with the query's key strictly before the query; NaN if none.

    Args:
        event_key, event_time: ``[E]`` int64 keys and float64 times.
        query_key, query_time: ``[Q]`` the same of the queries.

    Returns:
        float64 ``[Q]``.
    """
    index = AsOfIndex(event_key, event_time)
    start, end = index.bounds(query_key, query_time)
    out = np.full(len(start), np.nan)
    found = end > start
    out[found] = index.time[end[found] - 1]
    return out


def _ascending(values: NDArray[Any]) -> bool:
    return bool(np.all(values[1:] >= values[:-1]))


def _sort(values: NDArray[Any]) -> tuple[Ints, Ints]:
    """Sort int64 stably: values and positions. torch's radix sort is three times numpy's."""
    ordered, position = torch.sort(torch.from_numpy(np.ascontiguousarray(values)), stable=True)
    return ordered.numpy(), position.numpy()


def _search(haystack: NDArray[Any], needles: NDArray[Any]) -> Ints:
    """``searchsorted(left)`` that stays in cache: many unsorted needles are sorted first."""
    if min(len(needles), len(haystack)) < 65_536 or _ascending(needles):
        return np.searchsorted(haystack, needles, "left").astype(np.int64, copy=False)
    if needles.dtype == np.int64:
        ordered, position = _sort(needles)
    else:
        position = np.argsort(needles)
        ordered = needles[position]
    out = np.empty(len(needles), dtype=np.int64)
    out[position] = np.searchsorted(haystack, ordered, "left")
    return out
