"""Atomic files looked at before they are read: one streamed pass, all findings at once.

What makes a run wrong or impossible is an error, what may be meant is a warning. Memory holds one
block of a file and its distinct ids.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recbole_choir.data.disguises import Disguises
from recbole_choir.errors import DataError, nearest

TYPES: Final = ("token", "token_seq", "float", "float_seq")
BLOCK: Final = 8 << 20
#: Least plausible value of a time in ms, us and ns, where seconds are expected: the year 5138.
UNITS: Final = ((1e17, "ns", 1e9), (1e14, "us", 1e6), (1e11, "ms", 1e3))
FACTORS: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
#: Seconds of 1970 to 2100: years outside are possible, and hardly meant.
LATEST: Final = 4_102_444_800.0
#: The year 1980, in seconds: times that were declared smaller units and end before were seconds.
EARLY: Final = 315_532_800.0
#: Seconds of 30 years: no log is that long, and stamps of 0 next to real ones make one so.
LONG: Final = 946_728_000.0
#: What float32, in which models compute, holds at most.
LARGEST: Final = 3.4e38
#: A number as RecBole's reader takes it; Python's float takes 1_000 as well.
_NUMBER: Final = re.compile(
    r"\s*[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|inf|infinity|nan)\s*", re.I | re.A
)
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
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
        threshold: From which rating on a row is a positive; None: the label column holds 0 and 1.
        read: Columns that are loaded, by suffix of the file; None: all of them.
        contexts: Columns of ``.inter`` that models may read.
        title: Column of ``.item`` that is read as text, loaded or not; None: none.
        attributes: Columns of ``.user`` and ``.item`` that models or groups may read, by suffix;
            None: all that are loaded.
        dropped: Columns whose rows are left out by their values on purpose.
    """

    user: str
    item: str
    time: str
    label: str
    separator: str = "\t"
    encoding: str = "utf-8"
    time_unit: str = "s"
    threshold: float | None = None
    read: dict[str, set[str] | None] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    title: str | None = None
    attributes: dict[str, set[str] | None] = field(default_factory=dict)
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
    ids: dict[str, _Ids] = {}
    for path, kind in files:
        file = _File(path, kind, expected)
        found += file.findings()
        if kind == "inter":
            ids |= file.ids  # of pre-split files those of the last
        elif kind in ("user", "item") and not any(f.level == "error" for f in found):
            found += _strangers(ids, file)
    return found


def _strangers(ids: dict[str, _Ids], side: _File) -> Iterator[Finding]:
    """None of the interactions' ids has attributes: another dataset's, or written otherwise."""
    for name, own in side.ids.items():
        rows = ids.get(name)
        if rows is not None and own.distinct and not rows.distinct & own.distinct:
            here, there = (min(i.distinct) for i in (own, rows))
            text = f"expected ids of the interactions such as {there!r}, got none, such as {here!r}"
            yield Finding("error", side.path.name, name, text)


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
        self.ids: dict[str, _Ids] = {}

    def findings(self) -> list[Finding]:
        """Look at the file; where quotes seem to matter, once more with quotes as in CSV."""
        try:
            names = self._header()
            self._look(names)
            if self.broken:
                plain, self.found = self.found, []
                self.quoting, self.broken = True, False
                self._look(names)
                if self.broken or not self._closed():
                    self.found = plain
        except _Stop:
            pass
        except OSError as error:
            self._error("", f"cannot be read: {error.strerror or error}")
        return self.found

    def _closed(self) -> bool:
        """Whether the last quote of the file is closed, which a reader of CSV does not tell."""
        expected = self.expected
        try:
            with self.path.open(encoding=expected.encoding, errors="replace", newline="") as file:
                for _ in csv.reader(file, delimiter=expected.separator, strict=True):
                    pass
        except csv.Error:
            return False
        return True

    def _error(self, column: str, text: str) -> None:
        self.found.append(Finding("error", self.path.name, column, text))

    def _warn(self, column: str, text: str) -> None:
        self.found.append(Finding("warning", self.path.name, column, text))

    # --- the header ------------------------------------------------------------------------------

    def _header(self) -> list[tuple[str, str]]:
        """Name and type of each column."""
        with self.path.open("rb") as file:
            raw = file.read(4)
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
            with self.path.open(encoding=encoding, errors="replace") as lines:
                text = lines.readline(1 << 20).rstrip("\n")
        except UnicodeError:  # utf-16 without its mark
            text = "\ufffd"
        if "\ufffd" in text:
            self._error("", f"header: expected text in {encoding}; set encoding, such as latin-1")
            raise _Stop
        if "\0" in text:
            self._error("", f"header: expected text in {encoding}, got NUL; set encoding: utf-16")
            raise _Stop
        columns, names = [], []
        for cell in text.split(self.expected.separator):
            name, colon, kind = cell.rpartition(":")
            if not colon or kind not in TYPES:
                self._error(
                    "",
                    f"header: expected name:type with a type of {', '.join(TYPES)}, got "
                    f"{cell[:40]!r} (field_separator is {self.expected.separator!r})",
                )
                raise _Stop
            columns.append((name, kind))
            names.append(name)
        for name in sorted({n for n in names if names.count(n) > 1}):
            self._error(name, "is twice in the header")
            raise _Stop
        self._needed(names)
        self._types(columns)
        return columns

    def _types(self, columns: list[tuple[str, str]]) -> None:
        """Ids are tokens, the time and the label are numbers: RecBole reads by the type."""
        e = self.expected
        want = {e.user: "token", e.item: "token"}
        if self.kind in ("inter", "past"):
            want[e.time] = "float"
        if self.kind == "inter":
            want[e.label] = "float"
        wrong = [(n, k) for n, k in columns if want.get(n, k) != k]
        for name, kind in wrong:
            self._error(name, f"expected the type {want[name]}, got {kind}")
        if wrong:
            raise _Stop

    def _needed(self, names: list[str]) -> None:
        want = {
            "inter": (
                self.expected.user,
                self.expected.item,
                self.expected.time,
                self.expected.label,
            ),
            "past": (self.expected.user, self.expected.item, self.expected.time),
            "user": (self.expected.user,),
            "item": (self.expected.item,),
        }[self.kind]
        listed = sorted(self.expected.read.get(self.kind) or ())
        if self.kind == "item" and self.expected.title is not None:
            listed.append(self.expected.title)
        missing = [n for n in dict.fromkeys((*want, *listed)) if n not in names]
        if missing:
            near = nearest(missing[0], [n for n in names if n not in want])
            self._error(
                "",
                f"expected the columns {', '.join(missing)}, got {', '.join(names)[:200]}"
                f"{near if missing[0] in listed else ''} "
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
        self.ids = {n: r for n, r in readers.items() if isinstance(r, _Ids)}
        disguises = self._disguises(dict(keep), readers)
        label, time = (readers.get(n) for n in (self.expected.label, self.expected.time))
        rows = 0
        for block in self._blocks([n for n, _ in columns], [n for n, _ in keep]):
            for name, reader in readers.items():
                reader.take(block.column(name), rows)
                if isinstance(reader, _Attribute):
                    reader.compare(block.column(name), block.column(self._own_id()))
            if disguises is not None and isinstance(label, _Labels):
                stamps = time.last if isinstance(time, _Times) else None
                disguises.take(block, label.classes(), stamps)
            rows += block.num_rows
        if not rows:
            self._error("", "has a header and no rows")
            return
        for reader in readers.values():
            reader.end(rows)
        for name, level, text in disguises.told() if disguises is not None else ():
            if level == "error":
                self._error(name, f"{text}; take it out of context_fields")
            else:
                self._warn(name, f"{text}: is it known before the label is?")

    def _disguises(self, kinds: dict[str, str], readers: dict[str, _Column]) -> Disguises | None:
        """The columns that models read of a row, to be compared with its label, time and ids."""
        e = self.expected
        names = [n for n in e.contexts if n in kinds and n not in (*self._ids(), e.time, e.label)]
        if self.kind != "inter" or not names:
            return None
        return Disguises(names, kinds, self._ids())

    def _own_id(self) -> str:
        return self.expected.user if self.kind == "user" else self.expected.item

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
            return _Labels(self, name)
        if kind == "float":
            return _Numbers(self, name)
        described = e.attributes.get(self.kind, set())
        if self.kind in ("user", "item") and (described is None or name in described):
            return _Attribute(self, name)
        return _Column(self, name)

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
        self.undecodable = self.nul = False

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
        if not self.nul and _has_nul(values):
            self.nul = True
            self.file._error(self.name, "expected text, got a NUL in it: the file is damaged")
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            if not self.undecodable:
                self.undecodable = True
                row = _first(values, lambda v: not _is_utf8(v))
                self.file._error(
                    self.name,
                    f"expected {self.file.expected.encoding}, got bytes "
                    f"{values[row].as_py()[:20]!r} after row {first}; set encoding, such as "
                    "latin-1",
                )
            texts = [v.as_py().decode("utf-8", "replace") for v in values]
            return pa.array(texts, pa.string())


def _has_nul(values: pa.Array) -> bool:
    content = values.buffers()[2]
    return content is not None and b"\0" in memoryview(content).tobytes().rstrip(b"\0")


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _first(values: pa.Array, wrong: Any) -> int:
    return next(i for i, v in enumerate(values) if wrong(v.as_py()))


class _Attribute(_Column):
    """What models or groups know of a user or item: not its id once more."""

    same = True

    def compare(self, values: pa.Array, ids: pa.Array) -> None:
        """One block, with the ids of its rows."""
        self.same = self.same and bool(pc.all(pc.equal(values, ids)).as_py())

    def end(self, rows: int) -> None:
        super().end(rows)
        if self.same and rows > 1:
            self.file._error(
                self.name,
                f"it is {self.file._own_id()} in another form: an id says nothing of ids that "
                "training has not seen; take it out of the attributes",
            )


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
        distinct = pc.unique(values)  # a few per cent of the rows: all that follows looks at these
        texts = self._text(distinct, first)
        new = texts.to_pylist()
        blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
        if pc.any(blank).as_py():
            self.missing += int(pc.sum(pc.is_in(values, distinct.filter(blank))).as_py())
        if self.once:
            seen = [v for v in new if v in self.distinct]
            inside = len(values) - len(new)
            self.doubles += inside + len(seen)
            if (inside or seen) and not self.example:
                counts = pc.value_counts(values)
                twice = [c["values"].as_py() for c in counts if c["counts"].as_py() > 1]
                self.example = (seen or [twice[0].decode("utf-8", "replace")])[0]
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

    last: np.ndarray[Any, Any]

    def take(self, values: pa.Array, first: int) -> None:
        numbers = self.last = self._numbers(values, first)
        finite = numbers[np.isfinite(numbers)]
        self.infinite += int((np.abs(numbers) > LARGEST).sum())
        self.missing += int(np.isnan(numbers).sum()) - self._counted
        self._counted = 0
        if len(finite):
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))
        self._look(finite)

    def _look(self, finite: np.ndarray[Any, Any]) -> None:
        """A block's numbers, for a column that says more of them."""

    def _numbers(self, values: pa.Array, first: int) -> np.ndarray[Any, Any]:
        try:
            texts = values.cast(pa.string())
            try:
                return texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid:  # with missing ones among them
                texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
                return texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            texts = self._text(values, first)
            out = np.full(len(texts), np.nan)
            for i, text in enumerate(texts.to_pylist()):
                if _NUMBER.fullmatch(text):
                    out[i] = float(text)
                elif text.strip():
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
            needed = (self.needed and self.file.kind == "inter") or self.missing == rows
            say = self.file._error if needed else self.file._warn
            drop = f"; val_interval: {{{self.name}: '(-inf,inf)'}} drops them"
            if not needed:
                drop = ""
            elif self.missing == rows:
                drop = "; take it out of load_col"
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
                self.file._error(
                    self.name,
                    f"expected {declared}, got times up to {self.high:.6g}, which look like {unit} "
                    f"(the year {_year(self.high / factor)}); set time_unit: {unit}",
                )
                return
        if declared != "s" and seconds < EARLY <= self.high:
            self.file._error(
                self.name,
                f"expected {declared}, got times up to {self.high:.6g}, which look like s (the "
                f"year {_year(self.high)}); set time_unit: s",
            )
            return
        low = self.low / FACTORS[declared]
        if seconds > LATEST:
            self.file._warn(self.name, f"times reach the year {_year(seconds)}")
        elif low < 0:
            self.file._warn(self.name, f"times begin before 1970, in the year {_year(low)}")
        elif seconds - low > LONG and self.name not in self.file.expected.dropped:
            self.file._warn(
                self.name,
                f"times go from the year {_year(low)} to {_year(seconds)}: are all meant?",
            )


def _year(seconds: float) -> int:
    return int(1970 + seconds // 31_556_952)


class _Labels(_Numbers):
    """Labels 0 and 1, both of them; or ratings, more than one."""

    needed = True

    def __init__(self, file: _File, name: str) -> None:
        super().__init__(file, name)
        self.values: set[float] = set()

    def _look(self, finite: np.ndarray[Any, Any]) -> None:
        if len(self.values) <= 10:
            self.values.update(np.unique(finite)[:11].tolist())

    def end(self, rows: int) -> None:
        super().end(rows)
        if self.bad or not self.values or self.name in self.file.expected.dropped:
            return
        shown = ", ".join(f"{v:g}" for v in sorted(self.values)[:5])
        threshold = self.file.expected.threshold
        if threshold is not None:
            if (self.low >= threshold) == (self.high >= threshold):
                self.file._error(
                    self.name,
                    f"expected ratings on both sides of the threshold {threshold:g}, got "
                    f"{self.low:g} to {self.high:g}",
                )
        elif not self.values <= {0.0, 1.0}:
            self.file._error(self.name, f"expected labels 0 and 1, got {shown}; see threshold")
        elif len(self.values) == 1:
            self.file._error(self.name, f"expected both classes, got {shown} in every row")

    def classes(self) -> np.ndarray[Any, Any]:
        """Labels of the last block: 0 and 1, NaN where there is none."""
        threshold = self.file.expected.threshold
        ones = self.last == 1 if threshold is None else self.last >= threshold
        return np.where(np.isfinite(self.last), ones, np.nan)
