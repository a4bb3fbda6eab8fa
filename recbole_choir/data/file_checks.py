"""Atomic files looked at before they are read: one streamed pass, all findings at once.

What makes a run wrong or impossible is an error, what may be meant is a warning. Memory holds one
block of a file and its distinct ids.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recbole_choir.errors import DataError

TYPES: Final = ("token", "token_seq", "float", "float_seq")
BLOCK: Final = 8 << 20
#: Least plausible value of a time in ms, us and ns, where seconds are expected: the year 5138.
UNITS: Final = ((1e17, "ns", 1e9), (1e14, "us", 1e6), (1e11, "ms", 1e3))
FACTORS: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
#: Seconds of 1970 to 2100: years outside are possible, and hardly meant.
LATEST: Final = 4_102_444_800.0
#: Distinct values of a column up to which its relation to the label is counted.
FEW_VALUES: Final = 1_000
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a file.

    Attributes:
        level: ``error`` refuses the run, ``warning`` lets it go on.
        file: Its name.
        column: Its column; empty for the whole file.
        text: What is there, what was expected, and what to do.
    """

    level: Literal["error", "warning"]
    file: str
    column: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}{f', {self.column}' if self.column else ''}: {self.text}"


@dataclass(frozen=True)
class Expected:
    """What the columns of a dataset's files mean.

    Args:
        user, item, time, label: Names of the columns; ``label`` is the rating where ``binary`` is
            false.
        separator: Between fields.
        encoding: Of the files.
        time_unit: ``s``, ``ms``, ``us`` or ``ns``: what the file's times are declared to be.
        binary: Whether the label column holds 0 and 1 itself.
        read: Columns that are loaded, by suffix of the file; None: all of them.
        contexts: Columns of ``.inter`` that models may read.
        dropped: Columns whose rows without a number are left out on purpose.
    """

    user: str
    item: str
    time: str
    label: str
    separator: str = "\t"
    encoding: str = "utf-8"
    time_unit: str = "s"
    binary: bool = True
    read: dict[str, set[str] | None] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    dropped: frozenset[str] = frozenset()


def check_files(files: Sequence[tuple[Path, str]], expected: Expected) -> list[Finding]:
    """Look at all files of a dataset.

    Args:
        files: Path and kind of each: ``inter``, ``user``, ``item`` or ``past``.
        expected: What their columns mean.

    Returns:
        The findings, in the order of the files.
    """
    found: list[Finding] = []
    for path, kind in files:
        found += _File(path, kind, expected).findings()
    return found


def refuse(found: Iterable[Finding]) -> None:
    """Raise what is an error.

    Raises:
        DataError: One line with all errors.
    """
    errors = [str(f) for f in found if f.level == "error"]
    if errors:
        head = f"{len(errors)} things are wrong with the files: " if len(errors) > 1 else ""
        raise DataError(head + "; ".join(errors))


class _Stop(Exception):
    pass


class _File:
    """One pass over one file."""

    def __init__(self, path: Path, kind: str, expected: Expected) -> None:
        self.path, self.kind, self.expected = path, kind, expected
        self.found: list[Finding] = []
        self.quoting = False
        self.broken = False

    def findings(self) -> list[Finding]:
        """Look at the file; where quotes seem to matter, once more with quotes as in CSV."""
        try:
            names = self._header()
            self._look(names)
            if self.broken:
                plain, self.found = self.found, []
                self.quoting, self.broken = True, False
                self._look(names)
                if self.broken:
                    self.found = plain
        except _Stop:
            pass
        except OSError as error:
            self._error("", f"cannot be read: {error.strerror or error}")
        return self.found

    def _error(self, column: str, text: str) -> None:
        self.found.append(Finding("error", self.path.name, column, text))

    def _warn(self, column: str, text: str) -> None:
        self.found.append(Finding("warning", self.path.name, column, text))

    # --- the header ------------------------------------------------------------------------------

    def _header(self) -> list[tuple[str, str]]:
        """Name and type of each column."""
        with self.path.open("rb") as file:
            raw = file.readline(1 << 20)
        if not raw:
            self._error("", "is empty: expected a header such as user_id:token")
            raise _Stop
        encoding = self.expected.encoding
        for mark, name in _BOMS:
            if raw.startswith(mark) and codecs.lookup(encoding).name != codecs.lookup(name).name:
                self._error(
                    "",
                    f"starts with the byte order mark of {name}: expected {encoding}; set "
                    f"encoding: {name}, or write the file without the mark",
                )
                raise _Stop
        try:
            text = raw.decode(encoding).rstrip("\r\n")
        except (UnicodeDecodeError, LookupError) as error:
            self._error("", f"header: expected {encoding}: {error}; set encoding, such as latin-1")
            raise _Stop from None
        columns, names = [], []
        for cell in text.split(self.expected.separator):
            name, colon, kind = cell.rpartition(":")
            if not colon or kind not in TYPES:
                self._error(
                    "",
                    f"header: expected name:type with a type of {', '.join(TYPES)}, got {cell!r} "
                    f"(field_separator is {self.expected.separator!r})",
                )
                raise _Stop
            columns.append((name, kind))
            names.append(name)
        for name in sorted({n for n in names if names.count(n) > 1}):
            self._error(name, "is twice in the header")
            raise _Stop
        self._needed(names)
        return columns

    def _needed(self, names: list[str]) -> None:
        want = {
            "inter": (self.expected.user, self.expected.item, self.expected.time),
            "past": (self.expected.user, self.expected.item, self.expected.time),
            "user": (self.expected.user,),
            "item": (self.expected.item,),
        }[self.kind]
        missing = [n for n in want if n not in names]
        if missing:
            self._error(
                "",
                f"expected the columns {', '.join(missing)}, got {', '.join(names)} "
                f"(field_separator is {self.expected.separator!r})",
            )
            raise _Stop

    def _look(self, names: list[tuple[str, str]]) -> None:
        with contextlib.suppress(_Stop):
            self._body(names)

    # --- the body --------------------------------------------------------------------------------

    def _body(self, columns: list[tuple[str, str]]) -> None:
        wanted = self.expected.read.get(self.kind)
        keep = [(n, k) for n, k in columns if wanted is None or n in wanted or n in self._ids()]
        readers = {name: self._reader(name, kind) for name, kind in keep}
        pairs = _Pairs(self) if self.kind == "inter" else None
        rows = 0
        for block in self._blocks([n for n, _ in columns], [n for n, _ in keep]):
            for name, reader in readers.items():
                reader.take(block.column(name), rows)
            if pairs is not None:
                pairs.take(block)
            rows += block.num_rows
        if not rows:
            self._error("", "has a header and no rows")
            return
        for reader in readers.values():
            reader.end(rows)
        if pairs is not None:
            pairs.end()

    def _ids(self) -> tuple[str, str]:
        return self.expected.user, self.expected.item

    def _reader(self, name: str, kind: str) -> _Column:
        e = self.expected
        if name in self._ids():
            alone = {"user": e.user, "item": e.item}.get(self.kind) == name
            return _Ids(self, name, once=alone)
        if name == e.time and self.kind in ("inter", "past"):
            return _Times(self, name)
        if name == e.label and self.kind == "inter":
            return _Labels(self, name, kind)
        return _Numbers(self, name) if kind == "float" else _Column(self, name)

    def _blocks(self, names: list[str], keep: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from pacsv.open_csv(
                str(self.path),
                pacsv.ReadOptions(
                    column_names=names,
                    skip_rows=1,
                    block_size=BLOCK,
                    encoding=codecs.lookup(self.expected.encoding).name,
                ),
                pacsv.ParseOptions(
                    delimiter=self.expected.separator,
                    quote_char='"' if self.quoting else False,
                    newlines_in_values=self.quoting,
                ),
                pacsv.ConvertOptions(
                    column_types={n: pa.binary() for n in names},
                    include_columns=keep,
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            text = " ".join(str(error).split())
            if "Empty CSV" in text:
                return
            row = re.search(r"Expected (\d+) columns, got (\d+): ?(.*)", text)
            if row:
                text = f"expected {row[1]} fields in each row, got {row[2]} in {row[3][:60]!r}"
            self._error("", text)
            self.broken = True
            raise _Stop from None


class _Column:
    """A column of tokens: text that can be read, quotes that are closed."""

    def __init__(self, file: _File, name: str) -> None:
        self.file, self.name = file, name
        self.quotes = 0
        self.undecodable = False

    def take(self, values: pa.Array, first: int) -> None:
        """One block; ``first`` is the number of rows before it."""
        self._text(values, first)

    def end(self, rows: int) -> None:
        """What is known after the last block."""
        if self.quotes:
            self.file.broken = True
            self.file._error(
                self.name,
                f'{self.quotes} values start with a quote ("), and not all are closed: everything '
                "up to the next one would be read as one value; remove or double it",
            )

    def _text(self, values: pa.Array, first: int) -> pa.Array:
        if not self.file.quoting:
            starts = pc.starts_with(values, b'"')
            self.quotes += int(pc.sum(starts).as_py() or 0)
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            if not self.undecodable:
                self.undecodable = True
                row = _first(values, lambda v: not _is_utf8(v))
                self.file._error(
                    self.name,
                    f"expected {self.file.expected.encoding}, got bytes "
                    f"{values[row].as_py()[:20]!r} in row {first + row}; set encoding, such as "
                    "latin-1",
                )
            texts = [v.as_py().decode("utf-8", "replace") for v in values]
            return pa.array(texts, pa.string())


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _first(values: pa.Array, wrong: Any) -> int:
    return next(i for i, v in enumerate(values) if wrong(v.as_py()))


class _Ids(_Column):
    """Ids: none is missing; two that differ by case or blanks alone are told."""

    def __init__(self, file: _File, name: str, once: bool) -> None:
        super().__init__(file, name)
        self.once = once
        self.missing = 0
        self.distinct: set[str] = set()
        self.doubles = 0
        self.example = ""

    def take(self, values: pa.Array, first: int) -> None:
        texts = self._text(values, first)
        self.missing += int(pc.sum(pc.equal(texts, "")).as_py() or 0)
        new = pc.unique(texts).to_pylist()
        if self.once:
            seen = [v for v in new if v in self.distinct]
            inside = len(texts) - len(new)
            self.doubles += inside + len(seen)
            if (inside or seen) and not self.example:
                counts = pc.value_counts(texts)
                twice = [c["values"].as_py() for c in counts if c["counts"].as_py() > 1]
                self.example = (seen or twice)[0]
        self.distinct.update(new)

    def end(self, rows: int) -> None:
        super().end(rows)
        if self.missing:
            self.file._error(self.name, f"expected an id in every row, got none in {self.missing}")
        if self.doubles:
            self.file._error(
                self.name,
                f"expected each id once, got {self.doubles} rows too many, such as of "
                f"{self.example!r}: which attributes are its own?",
            )
        folded: dict[str, str] = {}
        pairs = []
        for value in self.distinct:
            key = value.strip().casefold()
            if folded.setdefault(key, value) != value:
                pairs.append((folded[key], value))
        if pairs:
            one, two = sorted(min(pairs))
            self.file._warn(
                self.name,
                f"{len(pairs)} ids differ from another by case or blanks alone, such as {one!r} "
                f"and {two!r}: they count as different",
            )


class _Numbers(_Column):
    """Numbers: text is an error, a missing one is told, an infinite one is an error."""

    needed = False

    def __init__(self, file: _File, name: str) -> None:
        super().__init__(file, name)
        self.bad, self.bad_example = 0, ""
        self.missing = self.infinite = 0
        self.low, self.high = np.inf, -np.inf
        self._counted = 0  # NaN of this block that are told as text

    def take(self, values: pa.Array, first: int) -> None:
        numbers = self._numbers(self._text(values, first))
        finite = numbers[np.isfinite(numbers)]
        self.infinite += int(np.isinf(numbers).sum())
        self.missing += int(np.isnan(numbers).sum()) - self._counted
        self._counted = 0
        if len(finite):
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))
        self._look(finite)

    def _look(self, finite: np.ndarray[Any, Any]) -> None:
        """A block's numbers, for a column that says more of them."""

    def _numbers(self, texts: pa.Array) -> np.ndarray[Any, Any]:
        try:
            return texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            out = np.full(len(texts), np.nan)
            for i, text in enumerate(texts.to_pylist()):
                try:
                    out[i] = float(text)
                except ValueError:
                    if text.strip():
                        self.bad += 1
                        self._counted += 1
                        self.bad_example = self.bad_example or text
            return out

    def end(self, rows: int) -> None:
        super().end(rows)
        if self.bad:
            self.file._error(
                self.name,
                f"expected numbers, got {self.bad_example[:40]!r} ({self.bad} such rows)",
            )
        if self.infinite:
            self.file._error(self.name, f"expected finite numbers, got {self.infinite} infinite")
        dropped = self.name in self.file.expected.dropped
        if self.missing and not dropped:
            needed = self.needed and self.file.kind == "inter"
            say = self.file._error if needed else self.file._warn
            drop = f"; val_interval: {{{self.name}: '(-inf,inf)'}} drops them" if needed else ""
            say(
                self.name,
                f"expected a number in every row, got {self.missing} of {rows} without{drop}",
            )


class _Times(_Numbers):
    """Times in seconds, or in the unit that is declared."""

    needed = True

    def end(self, rows: int) -> None:
        super().end(rows)
        if not np.isfinite(self.high):
            return
        declared = self.file.expected.time_unit
        seconds = self.high / FACTORS[declared]
        for least, unit, factor in UNITS:
            if seconds >= least:
                year = 1970 + self.high / factor / 31_556_952
                self.file._error(
                    self.name,
                    f"expected {declared}, got times up to {self.high:.6g}, which look like {unit} "
                    f"(the year {int(year)}); set time_unit: {unit}",
                )
                return
        if seconds > LATEST:
            year = 1970 + seconds / 31_556_952
            self.file._warn(self.name, f"times reach the year {int(year)}")


class _Labels(_Numbers):
    """Labels 0 and 1, both of them; or ratings, more than one."""

    needed = True

    def __init__(self, file: _File, name: str, kind: str) -> None:
        super().__init__(file, name)
        self.kind = kind
        self.values: set[float] = set()

    def _look(self, finite: np.ndarray[Any, Any]) -> None:
        if len(self.values) <= 10:
            self.values.update(np.unique(finite)[:11].tolist())

    def end(self, rows: int) -> None:
        super().end(rows)
        if self.kind != "float":
            self.file._error(self.name, f"expected the type float, got {self.kind}")
            return
        if self.bad:
            return
        shown = ", ".join(f"{v:g}" for v in sorted(self.values)[:5])
        if self.file.expected.binary and not self.values <= {0.0, 1.0}:
            self.file._error(self.name, f"expected labels 0 and 1, got {shown}; see threshold")
        elif len(self.values) == 1:
            self.file._error(self.name, f"expected both classes, got {shown} in every row")


class _Pairs:
    """Columns that models may read, against the label: is one of them the label in disguise?"""

    def __init__(self, file: _File) -> None:
        e = file.expected
        self.file = file
        self.names = [n for n in e.contexts if n not in (e.user, e.item, e.time, e.label)]
        self.counts: dict[str, dict[bytes, list[int]]] = {n: {} for n in self.names}

    def take(self, block: pa.RecordBatch) -> None:
        e = self.file.expected
        known = block.schema.names
        if e.label not in known or not e.binary:
            return
        positive = pc.equal(block.column(e.label).cast(pa.binary()), b"1")
        label = pc.or_(positive, pc.starts_with(block.column(e.label), b"1.0"))
        for name in list(self.counts):
            if name not in known:
                continue
            table = pa.table({"v": block.column(name), "y": label.cast(pa.int64())})
            grouped = table.group_by("v").aggregate([("y", "sum"), ("y", "count")])
            counts = self.counts[name]
            for value, ones, n in zip(
                *(grouped.column(i).to_pylist() for i in range(3)), strict=True
            ):
                kept = counts.setdefault(value, [0, 0])
                kept[0] += ones
                kept[1] += n
            if len(counts) > FEW_VALUES:
                del self.counts[name]

    def end(self) -> None:
        for name, counts in self.counts.items():
            total = np.array(list(counts.values()), dtype=np.float64).reshape(-1, 2)
            n, ones = total[:, 1].sum(), total[:, 0].sum()
            if n == 0 or ones in (0, n) or len(total) < 2:
                continue
            pure = (total[:, 0] == 0) | (total[:, 0] == total[:, 1])
            # a value seen once is pure by chance: only values with five rows say something
            often = total[:, 1] >= 5
            if often.any() and pure.all() and total[often, 1].sum() > 0.9 * n:
                self.file._error(
                    name,
                    "each of its values has one label only: it is the label in another form; take "
                    "it out of context_fields",
                )
                continue
            rate = ones / n
            between = (total[:, 1] * (total[:, 0] / total[:, 1] - rate) ** 2).sum() / n
            explained = between / (rate * (1 - rate))
            if explained > 0.8:
                self.file._warn(
                    name,
                    f"its values explain {explained:.0%} of the label's variance: is it known "
                    "before the label is?",
                )
