"""Sums and times over the events strictly before a query: the base of all leak-free statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
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

    Events with equal key and time keep their order.

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
        self._stamps = np.unique(time)
        self._stride = len(self._stamps) + 1
        # Small ids are their own rank; only wide combined keys pay for a sort.
        dense = key.size > 0 and int(key.min()) >= 0 and int(key.max()) < 4 * key.size + 1024
        self._keys: Ints | None = None if dense else np.unique(key)
        n_keys = int(key.max()) + 1 if self._keys is None else len(self._keys)
        rank = key if self._keys is None else _search(self._keys, key)
        code = rank * self._stride + _search(self._stamps, time)
        #: ``[E]`` positions of the events in the order (key, time).
        self.order: Ints = np.argsort(code, kind="stable").astype(np.int64, copy=False)
        self._code = code[self.order]
        #: ``[E]`` times in that order.
        self.time: Floats = time[self.order]
        self._first = np.searchsorted(
            self._code, np.arange(n_keys + 1, dtype=np.int64) * self._stride
        )

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
        n_keys = len(self._first) - 1
        if self._keys is None:
            known = (key >= 0) & (key < n_keys)
            rank = np.where(known, key, 0)
        else:
            rank = np.minimum(_search(self._keys, key), max(n_keys - 1, 0))
            known = self._keys[rank] == key if n_keys else np.zeros(len(key), dtype=bool)
        if n_keys == 0:
            empty = np.zeros(len(key), dtype=np.int64)
            return empty, empty.copy()
        start = self._first[rank]
        end = _search(self._code, rank * self._stride + _search(self._stamps, time))
        end = np.where(known, end, start)
        return start.astype(np.int64, copy=False), end.astype(np.int64, copy=False)

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


def _search(haystack: NDArray[Any], needles: NDArray[Any]) -> Ints:
    """``searchsorted(left)`` that stays in cache: many unsorted needles are sorted first."""
    if len(needles) < 65_536 or len(haystack) < 65_536:
        return np.searchsorted(haystack, needles, "left").astype(np.int64, copy=False)
    if bool(np.all(needles[1:] >= needles[:-1])):
        return np.searchsorted(haystack, needles, "left").astype(np.int64, copy=False)
    order = np.argsort(needles)
    out = np.empty(len(needles), dtype=np.int64)
    out[order] = np.searchsorted(haystack, needles[order], "left")
    return out
