"""Columns that models may read, against the label, the time and the ids of the same rows.

A column that is one of them in another form is an error, one that nearly is a warning with the
figure. Rows stream by; what is kept is a table of counts for columns of few values, a thinned
sample for numbers, and a dictionary for a column that could still be an id under other names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

#: Distinct values of a column up to which each is counted with its labels.
FEW_VALUES: Final = 20_000
#: Rows up to which numbers are kept for ranks and correlations; then every second one, and so on.
SAMPLE: Final = 50_000
#: Rows by which nearly every pair of columns is found to be no renaming.
GLANCE: Final = 1_000
#: Chance below which an agreement of all rows is none.
CHANCE: Final = 1e-9
#: Standard errors from which a relation is none of chance.
SIGMAS: Final = 6.0
#: A context of shown rows that explains so much of the label's variance has hardly been known
#: before it: on real logs position, hour and device explain a few per cent.
EXPLAINED: Final = 0.25
#: The same for a number: the area under the ROC curve of it alone, or of its negative.
ALONE: Final = 0.9
#: |correlation| with the time from which a number is the time itself, or nearly so.
SAME_TIME: Final = 0.9999
NEAR_TIME: Final = 0.95

Level = Literal["error", "warning"]
Told = tuple[str, Level, str]
Array = NDArray[np.float64]


class Disguises:
    """All context columns of one file.

    Args:
        contexts: Their names.
        kinds: Type of each in the header.
        ids: Names of the columns of users and items.
    """

    def __init__(self, contexts: list[str], kinds: dict[str, str], ids: tuple[str, ...]) -> None:
        self._ids = ids
        self._values = {name: _Counts() for name in contexts}
        self._numbers = {name: _Sample() for name in contexts if "seq" not in kinds[name]}
        self._names = {(name, one): _Renaming() for name in contexts for one in ids}

    def take(self, block: pa.RecordBatch, label: Array, time: Array | None) -> None:
        """One block of rows, its labels (NaN: none) and its times."""
        for name, counts in self._values.items():
            counts.take(block.column(name), label)
        for name, sample in self._numbers.items():
            sample.take(block.column(name), label, time)
        for (name, other), renaming in self._names.items():
            renaming.take(block.column(name), block.column(other))

    def told(self) -> Iterator[Told]:
        """Column, level and text of what was found; one of a column."""
        for name in self._values:
            yield from ((name, *found) for found in self._of(name))

    def _of(self, name: str) -> Iterator[tuple[Level, str]]:
        for other in self._ids:
            if self._names[name, other].holds:
                yield "error", f"it is {other} in another form"
                return
        sample = self._numbers.get(name)
        near = 0.0 if sample is None else sample.with_time()
        if near >= SAME_TIME:
            yield "error", f"it is the time in another form (correlation {near:.5f})"
            return
        if self._values[name].decides_the_label():
            yield "error", "each of its values has one label only: it is the label in another form"
            return
        alone = 0.5 if sample is None else sample.with_label()
        if alone >= 1:
            yield (
                "error",
                "a bound tells the labels of its values apart: it is the label in another form",
            )
            return
        explained = self._values[name].explained()
        if explained >= EXPLAINED:
            yield "warning", f"its values explain {explained:.0%} of the label's variance"
        elif alone >= ALONE:
            yield "warning", f"its values alone give an AUC of {alone:.3f}"
        elif near >= NEAR_TIME:
            yield "warning", f"its correlation with the time is {near:.3f}"


class _Counts:
    """Rows and positives of each value, while there are few values."""

    def __init__(self) -> None:
        self.table: pa.Table | None = None
        self.many = False

    def take(self, values: pa.Array, label: Array) -> None:
        if self.many:
            return
        rows = pa.table({"v": values, "ones": label, "n": np.isfinite(label).astype(np.float64)})
        new = _summed(rows)
        self.table = new if self.table is None else _summed(pa.concat_tables([self.table, new]))
        if len(self.table) > FEW_VALUES:
            self.many, self.table = True, None

    def _columns(self) -> tuple[Array, Array, float]:
        """Rows and positives of each value, and the share of positives; empty where no use."""
        empty = np.zeros(0)
        if self.table is None:
            return empty, empty, 0.0
        n, ones = (self.table.column(c).to_numpy() for c in ("n", "ones"))
        n, ones = n[n > 0], np.nan_to_num(ones[n > 0])
        total = n.sum()
        rate = float(ones.sum() / total) if total else 0.0
        return (n, ones, rate) if 0 < rate < 1 and len(n) > 1 else (empty, empty, 0.0)

    def decides_the_label(self) -> bool:
        """Whether all rows of each value have one label, and that not by chance."""
        n, ones, rate = self._columns()
        if not len(n) or not ((ones == 0) | (ones == n)).all():
            return False
        chance = np.logaddexp(n * math.log(rate), n * math.log1p(-rate))
        return bool(chance[n > 1].sum() < math.log(CHANCE))

    def explained(self) -> float:
        """Share of the label's variance between values, less what chance gives; 0 if it may be."""
        n, ones, rate = self._columns()
        if not len(n):
            return 0.0
        total, free = n.sum(), len(n) - 1
        share = float((n * (ones / n - rate) ** 2).sum() / (total * rate * (1 - rate)))
        by_chance = free / total
        if share * total - free < SIGMAS * math.sqrt(2 * free) or by_chance >= 1:
            return 0.0
        return max(0.0, (share - by_chance) / (1 - by_chance))


def _summed(rows: pa.Table) -> pa.Table:
    sums = rows.group_by("v").aggregate([("ones", "sum"), ("n", "sum")])
    return sums.rename_columns([c.removesuffix("_sum") for c in sums.column_names])


class _Sample:
    """Numbers with labels and times of evenly spaced rows."""

    def __init__(self) -> None:
        self.rows: Array = np.zeros((0, 3))
        self.step, self.next, self.text = 1, 0, False

    def take(self, values: pa.Array, label: Array, time: Array | None) -> None:
        start, count = self.next, len(values)
        if self.text or start >= count:
            self.next = start - count
            return
        chosen = np.arange(start, count, self.step)
        numbers = _as_numbers(values.take(pa.array(chosen)))
        if numbers is None:
            self.text, self.rows = True, np.zeros((0, 3))
            return
        stamps = np.full(len(chosen), np.nan) if time is None else time[chosen]
        self.rows = np.concatenate([self.rows, np.column_stack([numbers, label[chosen], stamps])])
        self.next = int(chosen[-1]) + self.step - count
        while len(self.rows) > SAMPLE:
            self.rows, self.step = self.rows[::2], self.step * 2

    def with_time(self) -> float:
        """|Pearson correlation| with the time; 0 where one of the two is constant."""
        rows = self.rows[np.isfinite(self.rows[:, [0, 2]]).all(axis=1)]
        if len(rows) < 20:
            return 0.0
        x, y = (rows[:, i] - rows[:, i].mean() for i in (0, 2))
        scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
        return abs(float((x * y).sum())) / scale if scale > 0 else 0.0

    def with_label(self) -> float:
        """AUC of the number alone, or of its negative; .5 where that may be chance."""
        rows = self.rows[np.isfinite(self.rows[:, :2]).all(axis=1)]
        labels, values = rows[:, 1] == 1, rows[:, 0]
        ones, zeros = float(labels.sum()), float((~labels).sum())
        if min(ones, zeros) < 10:
            return 0.5
        _, at, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(count) - (count - 1) / 2)[at]
        area = (ranks[labels].sum() - ones * (ones + 1) / 2) / (ones * zeros)
        error = math.sqrt((ones + zeros + 1) / (12 * ones * zeros))
        return 0.5 if abs(area - 0.5) < SIGMAS * error else float(max(area, 1 - area))


def _as_numbers(values: pa.Array) -> Array | None:
    """Numbers, or ISO dates as seconds; an empty text is missing; None: neither."""
    try:
        texts = values.cast(pa.string())
        missing = pc.equal(texts, "")
        texts = pc.if_else(missing, pa.scalar(None, pa.string()), texts)
        try:
            numbers = texts.cast(pa.float64())
        except pa.ArrowInvalid:
            numbers = texts.cast(pa.timestamp("ms")).cast(pa.int64()).cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    found: Array = numbers.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


class _Renaming:
    """Whether a column is an id under other names: each value with one id, each id with one."""

    def __init__(self) -> None:
        self.possible, self.rows = True, 0
        self.forth: dict[Any, Any] = {}
        self.back: dict[Any, Any] = {}

    @property
    def holds(self) -> bool:
        """Whether it is, and that not because every row has values of its own."""
        again = self.rows - len(self.forth)
        return self.possible and len(self.forth) > 2 and again >= 20

    def take(self, values: pa.Array, ids: pa.Array) -> None:
        if not self.possible:
            return
        for start, length in ((0, GLANCE), (GLANCE, len(values))):
            part = values.slice(start, length), ids.slice(start, length)
            pairs = pa.table({"a": part[0], "b": part[1]}).group_by(["a", "b"]).aggregate([])
            for value, one in zip(*(pairs.column(c).to_pylist() for c in "ab"), strict=True):
                if (
                    self.forth.setdefault(value, one) != one
                    or self.back.setdefault(one, value) != value
                ):
                    self.possible = False
                    self.forth, self.back = {}, {}
                    return
        self.rows += len(values)
