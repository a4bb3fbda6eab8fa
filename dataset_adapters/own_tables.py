"""Reading CSV and Parquet files whose columns a user named, in chunks of text."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_choir.errors import DataError, nearest

from .own_mapping import LIST_SEPARATOR
from .raw import SUFFIXES, UNREADABLE, FileReport, RawFile, RawFolder, read_head
from .text import clean_text

PARQUET = (".parquet", ".pq")
_ROWS = 200_000


def find_files(folder: Path, patterns: Sequence[str], where: str) -> list[str]:
    """Names of the files of one table, relative to the folder, in the order of their names.

    Args:
        folder: Where to look.
        patterns: Names or patterns; a name may be stored compressed (``clicks.csv.gz``).
        where: Place in the YAML, for the message.

    Raises:
        DataError: A name or pattern finds nothing.
    """
    found: list[str] = []
    for pattern in patterns:
        names = [
            str(path.relative_to(folder))
            for suffix in SUFFIXES
            for path in sorted(folder.glob(pattern + suffix))
            if path.is_file()
        ]
        if not names:
            some = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else []
            lies = f"there are {', '.join(some)}" if some else "the folder is empty or missing"
            raise DataError(
                f"{where}: no file '{pattern}' in '{folder}'{nearest(pattern, some)}; {lies}"
            )
        found += [name for name in names if name not in found]
    return found


def raw_files(
    folder: Path, names: Sequence[str], needed: Sequence[str], separator: str, encoding: str
) -> list[RawFile]:
    """Describe files as :class:`RawFile`, with the columns that their heads name.

    Args:
        folder: Where they lie.
        names: Relative to it.
        needed: Columns that no row may lack.
        separator, encoding: Of CSV files.
    """
    files = []
    for name in names:
        if name.endswith(PARQUET):
            columns = tuple(_parquet(folder / name).schema_arrow.names)
        else:
            columns = _csv_head(folder / name, separator, encoding)
        present = tuple(c for c in needed if c in columns)
        files.append(
            RawFile(
                name=name,
                columns=columns,
                separator=separator,
                required=present,
                encoding=encoding,
                header=True,
                quoted=True,
            )
        )
    return files


def check_columns(raw: RawFile, wanted: dict[str, str]) -> None:
    """Refuse a file that lacks a column.

    Args:
        raw: The file.
        wanted: Column -> its place in the YAML.
    """
    for column, where in wanted.items():
        if column not in raw.columns:
            raise DataError(
                f"{where}: no column '{column}' in {raw.name}{nearest(column, raw.columns)}, it has"
                f" {', '.join(raw.columns)}"
            )


def read_chunks(
    folder: RawFolder, raw: RawFile, columns: Sequence[str], missing: Sequence[str]
) -> Iterator[pd.DataFrame]:
    """Yield the good rows of one file as text; a missing value is empty.

    Args:
        folder: The files; the report of this one is filled.
        raw: The file.
        columns: Those wanted.
        missing: Texts that stand for a missing value.
    """
    wanted = list(dict.fromkeys(columns))
    chunks = (
        _parquet_chunks(folder, raw, wanted)
        if raw.name.endswith(PARQUET)
        else (chunk[wanted] for chunk in folder.chunks(raw.name, _ROWS))
    )
    for chunk in chunks:
        if not missing:
            yield chunk
            continue
        chunk = chunk.replace(dict.fromkeys(missing, ""))
        report = folder.reports[raw.name]
        empty = (chunk[[c for c in raw.required if c in wanted]] == "").any(axis=1)
        report.reject("empty or too few fields", chunk[empty])
        report.rows -= int(empty.sum())
        yield chunk[~empty].reset_index(drop=True)


def as_list(values: pd.Series, separator: str) -> pd.Series:
    """Lists as an atomic file has them; the entries' own blanks stay."""
    safe = clean_text(values)
    if separator != LIST_SEPARATOR:
        safe = safe.str.replace(LIST_SEPARATOR, "/", regex=False)
        safe = safe.str.replace(separator, LIST_SEPARATOR, regex=False)
    safe = safe.str.replace(r"\s*\|[\s|]*", LIST_SEPARATOR, regex=True)
    return safe.str.strip(LIST_SEPARATOR + " ")


def as_words(values: pd.Series) -> pd.Series:
    """The words of a query, in small letters, as a list."""
    return as_list(clean_text(values).str.lower(), " ")


def _csv_head(path: Path, separator: str, encoding: str) -> tuple[str, ...]:
    line = read_head(path, encoding)
    if not line.strip():
        raise DataError(f"{path}: is empty, expected a first line with the names of the columns")
    names = tuple(next(csv.reader([line.rstrip("\r\n")], delimiter=separator)))
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column '{twice}' is there twice, expected each name once")
    return names


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, *UNREADABLE) as err:
        reason = " ".join(str(err).split())
        raise DataError(f"{path}: cannot be read as Parquet: {reason}") from err


def _parquet_chunks(folder: RawFolder, raw: RawFile, columns: list[str]) -> Iterator[pd.DataFrame]:
    report = folder.reports[raw.name] = FileReport(raw.name)
    with _parquet(folder.path / raw.name) as file:
        for batch in file.iter_batches(_ROWS, columns=columns):
            chunk = pd.DataFrame({c: _texts(batch.column(c)) for c in columns})
            empty = (chunk[list(raw.required)] == "").any(axis=1)
            report.reject("empty or too few fields", chunk[empty])
            good = chunk[~empty].reset_index(drop=True)
            report.rows += len(good)
            yield good
    folder.finish(raw, report)


def _texts(column: pa.Array) -> pd.Series:
    """Values as exact text: whole numbers stay whole next to missing ones."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        texts = pc.cast(column, pa.list_(pa.string()))
        column = pc.binary_join(texts, LIST_SEPARATOR)
    text = pc.fill_null(pc.cast(column, pa.string()), "")
    return pd.Series(text.to_numpy(zero_copy_only=False), dtype=object).astype(str)
