"""Reading one raw file: found in any compression, hashed, checked row by row, in chunks."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import logging
import lzma
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from recbole_choir.errors import DataError

from .limits import Bounded

log = logging.getLogger(__name__)

SUFFIXES = ("", ".gz", ".xz", ".bz2", ".zip")
#: What stands between two columns once a separator of several characters has been replaced.
UNIT_SEPARATOR = "\x1f"
#: What a file that is damaged or of another format raises.
UNREADABLE = (
    UnicodeDecodeError,
    EOFError,
    OSError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,  # a zip of a method that Python lacks
)
_BLOCK = 1 << 20
_MAX_EXAMPLES = 3
#: Above this share of bad rows a file is not in the format it is taken for.
MAX_BAD_SHARE = 0.01


@dataclass(frozen=True)
class RawFile:
    """What is known of one official raw file.

    Args:
        name: File name without any compression suffix, e.g. ``ratings.dat``. A ``.tar`` holds
            files of one form, each with its own header; they are read as one.
        columns: Names for its columns, in order.
        separator: What stands between columns; may be longer than one character.
        numeric: Columns that must hold finite numbers; other rows count as bad.
        required: Columns that must not be empty; a line with too few fields shows up here.
        rows: Row count of the official edition; None: not checked.
        sha256: Of the uncompressed official file; None: not checked.
        encoding: Character encoding.
        header: Whether the first line holds names.
        quoted: Whether fields may stand in double quotes.
    """

    name: str
    columns: tuple[str, ...]
    separator: str = ","
    numeric: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    rows: int | None = None
    sha256: str | None = None
    encoding: str = "utf-8"
    header: bool = False
    quoted: bool = False


@dataclass
class FileReport:
    """What was found in one raw file.

    Args:
        name: Name of the file as stored.
        sha256: Of the uncompressed content; empty until the file was read to its end.
        rows: Good rows.
        bad: Reason to number of rows left out for it.
        examples: The first bad rows, as text.
    """

    name: str
    sha256: str = ""
    rows: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def bad_rows(self) -> int:
        """Number of rows left out, over all reasons."""
        return sum(self.bad.values())

    def reject(self, reason: str, rows: pd.DataFrame) -> None:
        """Count ``rows`` as bad for ``reason`` and keep the first few as examples."""
        if len(rows) == 0:
            return
        self.bad[reason] = self.bad.get(reason, 0) + len(rows)
        missing = _MAX_EXAMPLES - len(self.examples)
        for values in rows.head(max(missing, 0)).itertuples(index=False):
            self.examples.append(" | ".join(str(v) for v in values))


class _ByteSource(io.RawIOBase):
    """Uncompressed bytes that are hashed, counted in lines and given a one-byte separator."""

    def __init__(self, stream: IO[bytes], separator: str) -> None:
        super().__init__()
        self._stream = stream
        self._old = separator.encode()
        self._new = UNIT_SEPARATOR.encode()
        self._carry = b""
        self._ready = b""
        self._last = b"\n"
        self._hash = hashlib.sha256()
        self.lines = 0

    @property
    def sha256(self) -> str:
        """Hash of all bytes read so far."""
        return self._hash.hexdigest()

    def readable(self) -> bool:
        return True

    def _fill(self) -> bool:
        block = self._stream.read(_BLOCK)
        if block:
            self._hash.update(block)
            self.lines += block.count(b"\n")
            self._last = block[-1:]
        elif self._last != b"\n":
            self.lines += 1  # the last line has no line end
            self._last = b"\n"
        if len(self._old) == 1:
            self._ready = block
            return bool(block)
        data = (self._carry + block).replace(self._old, self._new)
        # A separator may straddle two blocks: hold back what could be its first part.
        keep = 0
        if block:
            lengths = range(len(self._old) - 1, 0, -1)
            keep = next((k for k in lengths if data.endswith(self._old[:k])), 0)
        self._carry = data[len(data) - keep :]
        self._ready = data[: len(data) - keep]
        return bool(block) or bool(self._ready)

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        while not self._ready:
            if not self._fill():
                return 0
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n


class _TarSource(io.RawIOBase):
    """The files of a tar archive, one after the other, as one file with one header.

    Args:
        stream: The uncompressed archive.
        header: Whether each file starts with a line of names.
    """

    def __init__(self, stream: IO[bytes], header: bool) -> None:
        super().__init__()
        self._archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 closed by close()
        self._header = header
        self._files = 0
        self._ended = False
        self._current: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._archive.close()
        super().close()

    def _next(self) -> bool:
        # A stream cannot be asked again for what follows its end.
        while not self._ended:
            member = self._archive.next()
            if member is None:
                self._ended = True
                break
            opened = self._archive.extractfile(member) if member.isfile() else None
            if opened is not None:
                self._current = opened
                if self._header and self._files:
                    opened.readline()
                self._files += 1
                return True
        return False

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        while True:
            if self._current is None and not self._next():
                return 0
            block = b"" if self._current is None else self._current.read(len(buffer))
            if block:
                buffer[: len(block)] = block
                return len(block)
            self._current = None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as it lies on disk."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _open(path: Path, stack: ExitStack) -> IO[bytes]:
    """Open a plain or compressed file for reading bytes."""
    if path.suffix not in SUFFIXES[1:]:
        return stack.enter_context(path.open("rb"))
    return io.BufferedReader(Bounded(_decompressed(path, stack), path), _BLOCK)


def _decompressed(path: Path, stack: ExitStack) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", stack.enter_context(gzip.open(path, "rb")))
    if path.suffix == ".xz":
        return stack.enter_context(lzma.open(path, "rb"))
    if path.suffix == ".bz2":
        return stack.enter_context(bz2.open(path, "rb"))
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [m for m in archive.infolist() if not m.is_dir()]
    if len(members) != 1:
        raise DataError(f"{path}: expected a zip with one file, got {len(members)}; unpack it")
    if members[0].flag_bits & 1:
        raise DataError(f"{path}: expected a zip without a password; unpack it")
    return stack.enter_context(archive.open(members[0]))


class RawFolder:
    """The raw files of one dataset, found in a folder in any supported compression.

    Args:
        path: The folder.
        files: The files that must be there.
        source: Where the files can be had, for the error message.
        progress: Whether to show a progress bar per file.

    Raises:
        DataError: The folder or one of its files is missing.
    """

    def __init__(
        self, path: Path, files: tuple[RawFile, ...], source: str, progress: bool = False
    ) -> None:
        self.path = path
        self.progress = progress
        self.reports: dict[str, FileReport] = {}
        self._files = {f.name: f for f in files}
        self._paths: dict[str, Path] = {}
        for raw in files:
            stored = find_file(path, raw.name)
            if stored is None:
                rows = f" ({raw.rows:,} rows)" if raw.rows is not None else ""
                raise DataError(
                    f"{path}: raw file '{raw.name}'{rows} is missing, expected it plain or with "
                    f"{', '.join(SUFFIXES[1:])}; get it from {source}"
                )
            self._paths[raw.name] = stored

    def stored_hashes(self) -> dict[str, str]:
        """File name as stored to the SHA-256 of its bytes on disk."""
        return {p.name: file_sha256(p) for p in self._paths.values()}

    def chunks(self, name: str, rows: int = 500_000) -> Iterator[pd.DataFrame]:
        """Yield the good rows of one file as text columns; fill its report.

        Args:
            name: Name of a :class:`RawFile`.
            rows: Rows of a chunk; bounds the memory, whatever the size of the file.

        Yields:
            Frames with the file's columns, all text exactly as in the file.

        Raises:
            DataError: The file cannot be decoded or too many of its rows are bad.
        """
        raw = self._files[name]
        path = self._paths[name]
        report = self.reports[name] = FileReport(name=path.name)
        try:
            yield from self._read(raw, path, report, rows)
        except UNREADABLE as err:
            cure = "get the file again"
            if isinstance(err, UnicodeDecodeError):
                cure += ", or, of own data, say csv: {encoding: latin-1}"
            raise DataError(
                f"{path}: cannot be read as {raw.encoding} text: {err}; {cure}"
            ) from err
        except pd.errors.ParserError as err:
            reason = " ".join(str(err).split())
            raise DataError(
                f"{path}: cannot be read as a table: {reason}; is a quote not closed?"
            ) from err
        except pd.errors.EmptyDataError as err:
            raise DataError(f"{path}: is empty, expected columns {list(raw.columns)}") from err
        self.finish(raw, report)

    def text(self, name: str) -> str:
        """Return the whole content of one file, such as a small JSON file; start its report.

        Args:
            name: Name of a :class:`RawFile`. The caller sets the rows of its report.

        Raises:
            DataError: The file cannot be decoded.
        """
        raw, path = self._files[name], self._paths[name]
        try:
            with ExitStack() as stack:
                content = _open(path, stack).read()
            text = content.decode(raw.encoding)
        except UNREADABLE as err:
            raise DataError(
                f"{path}: cannot be read as {raw.encoding} text: {err}; get the file again"
            ) from err
        self.reports[name] = FileReport(path.name, sha256=hashlib.sha256(content).hexdigest())
        return text

    def _read(
        self, raw: RawFile, path: Path, report: FileReport, rows: int
    ) -> Iterator[pd.DataFrame]:
        seen = 0
        with ExitStack() as stack:
            stream = _open(path, stack)
            if raw.name.endswith(".tar"):
                stream = cast("IO[bytes]", stack.enter_context(_TarSource(stream, raw.header)))
            source = _ByteSource(stream, raw.separator)
            reader = stack.enter_context(
                pd.read_csv(
                    io.BufferedReader(source, _BLOCK),
                    sep=raw.separator if len(raw.separator) == 1 else UNIT_SEPARATOR,
                    names=list(raw.columns),
                    header=0 if raw.header else None,
                    index_col=False,
                    dtype=str,
                    keep_default_na=False,
                    quoting=csv.QUOTE_MINIMAL if raw.quoted else csv.QUOTE_NONE,
                    encoding=raw.encoding,
                    skip_blank_lines=False,
                    # Counted: below through the number of lines, or by what pandas says of them.
                    on_bad_lines="warn" if raw.quoted else "skip",
                    chunksize=rows,
                    engine="c",
                )
            )
            bar = stack.enter_context(
                tqdm(total=raw.rows, desc=path.name, unit=" rows", disable=not self.progress)
            )
            for chunk in _counted_chunks(reader, report):
                seen += len(chunk)
                good = self._good_rows(raw, chunk, report)
                report.rows += len(good)
                bar.update(len(chunk))
                yield good
            while source.read(_BLOCK):
                pass  # nothing is left, unless the parser stopped early: hash the whole file
            report.sha256 = source.sha256
            # Line breaks inside quotes make lines and rows differ.
            too_long = source.lines - int(raw.header) - seen
            if too_long > 0 and not raw.quoted:
                report.bad["too many fields"] = too_long

    @staticmethod
    def _good_rows(raw: RawFile, chunk: pd.DataFrame, report: FileReport) -> pd.DataFrame:
        blank = (chunk == "").all(axis=1)
        chunk = chunk[~blank]  # an empty line is no row
        empty = (chunk[list(raw.required)] == "").any(axis=1)
        report.reject("empty or too few fields", chunk[empty])
        chunk = chunk[~empty]
        wrong = pd.Series(False, index=chunk.index)
        for column in raw.numeric:
            values = pd.to_numeric(chunk[column], errors="coerce").to_numpy(np.float64)
            wrong |= ~np.isfinite(values)
        report.reject("not a number", chunk[wrong])
        return chunk[~wrong].reset_index(drop=True)

    def finish(self, raw: RawFile, report: FileReport) -> None:
        """Say how many rows of a file were left out.

        Raises:
            DataError: Too many: the file is not in the format it is taken for.
        """
        path = self._paths[raw.name]
        if not report.bad_rows:
            return
        total = report.rows + report.bad_rows
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in report.bad.items())
        example = f", e.g. '{report.examples[0]}'" if report.examples else ""
        if report.bad_rows > MAX_BAD_SHARE * total:
            raise DataError(
                f"{path}: {report.bad_rows:,} of {total:,} rows are bad ({reasons}{example}), "
                f"expected columns {list(raw.columns)} separated by '{raw.separator}'"
            )
        log.warning(
            "%s: %s of %s rows left out (%s%s)",
            path,
            f"{report.bad_rows:,}",
            f"{total:,}",
            reasons,
            example,
        )


def _counted_chunks(reader: Iterator[pd.DataFrame], report: FileReport) -> Iterator[pd.DataFrame]:
    """Chunks of a reader; lines with too many fields, which pandas warns of, are counted.

    The number of lines does not tell them, because a quoted field may hold line breaks.
    """
    while True:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            chunk = next(reader, None)
        skipped = sum(str(w.message).count("Skipping line") for w in said)
        if skipped:
            report.bad["too many fields"] = report.bad.get("too many fields", 0) + skipped
        if chunk is None:
            return
        yield chunk


def read_head(path: Path, encoding: str) -> str:
    """First line of a plain or compressed file.

    Raises:
        DataError: The file cannot be decoded.
    """
    try:
        with ExitStack() as stack:
            return _open(path, stack).readline().decode(encoding)
    except UNREADABLE as err:
        raise DataError(f"{path}: cannot be read as {encoding} text: {err}") from err


def find_file(folder: Path, name: str) -> Path | None:
    """Return ``folder/name`` in whichever compression it is stored, or None."""
    for suffix in SUFFIXES:
        path = folder / (name + suffix)
        if path.is_file():
            return path
    return None
