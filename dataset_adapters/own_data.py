"""Bring your own: CSV or Parquet files with a YAML that says what each column is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError, nearest

from .own_mapping import UNITS, Column, Interactions, OwnMapping, Side, read_mapping
from .own_tables import as_list, as_words, check_columns, find_files, raw_files, read_chunks
from .positives import OPTIONS, PositiveOnly, Positives
from .raw import RawFile, RawFolder
from .text import clean_text

#: Above this a number taken for seconds lies beyond the year 5000: it counts something smaller.
_LATEST_SECOND = 1e11
_TRUTHS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}


class OwnData(PositiveOnly):
    """The dataset of a mapping in the config key ``own_data``.

    Args:
        name: Name of the dataset, as in ``--dataset=``.
        content: Value of the key ``own_data``; see :mod:`.own_mapping`.

    Raises:
        DataError: The mapping is not one; one line with the place in the YAML.
    """

    source = "your own files, see own_data"
    folders = ()
    options = OPTIONS

    def __init__(self, name: str, content: Any) -> None:
        self.mapping: OwnMapping = read_mapping(content)
        self._content = content
        # Class attributes elsewhere: here each dataset has its own.
        self.name = name  # type: ignore[misc]
        super().__init__(**(self.mapping.negatives or {}))

    def settings(self) -> dict[str, Any]:
        return {"own_data": self._content}

    def negatives(self) -> dict[str, Any] | None:
        return super().negatives() if self.mapping.negatives is not None else None

    def convert(
        self,
        raw_dir: str | os.PathLike[str],
        out_dir: str | os.PathLike[str],
        verify: bool = True,
        progress: bool = False,
    ) -> Path:
        """Write the atomic files; see :meth:`Adapter.convert`.

        Args:
            raw_dir: Where ``own_data.folder`` starts, and what stands for it where it is not given.
            out_dir: The dataset's own folder.
            verify: Without meaning: there are no official counts.
            progress: Show a progress bar per file.
        """
        folder = Path(raw_dir) / Path(self.mapping.folder or ".").expanduser()
        self._tables = {
            name: self._files(folder, name, patterns, needed)
            for name, patterns, needed in self._sections()
        }
        self.files = tuple(  # type: ignore[misc]
            {f.name: f for files in self._tables.values() for f in files}.values()
        )
        return super().convert(folder, out_dir, verify, progress)

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        if self.mapping.negatives is not None:
            yield from super().tables(raw)
            return
        yield from self.sides(raw)
        for chunk, user, item, time, label in self._events(raw):
            table = pd.DataFrame(
                {
                    "user_id:token": user,
                    "item_id:token": item,
                    "label:float": label,
                    "timestamp:float": time,
                }
            )
            yield "inter", pd.concat([table, self._contexts(chunk)], axis=1)

    def positives(self, raw: RawFolder) -> Positives:
        parts = [
            pd.concat(
                [pd.DataFrame({"u": user, "i": item, "t": time}), self._contexts(chunk)], axis=1
            )[label == 1]
            for chunk, user, item, time, label in self._events(raw)
        ]
        rows = pd.concat(parts, ignore_index=True)
        rows = rows.sort_values(list(rows.columns), kind="stable")
        again = rows.duplicated(["t", "u", "i"])
        self.facts["repeated_rows"] = int(again.sum())
        rows = rows[~again].reset_index(drop=True)
        catalogue = set(rows["i"])
        if self.mapping.items is not None:
            for chunk in self._side_chunks(raw, "items", self.mapping.items):
                catalogue |= set(chunk["item_id:token"])
        return Positives(
            user_id=rows["u"].to_numpy(object),
            item_id=rows["i"].to_numpy(object),
            time=rows["t"].to_numpy(np.float64),
            context=rows.drop(columns=["u", "i", "t"]),
            catalogue=np.array(sorted(catalogue), dtype=object),
        )

    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        for name, side in (("users", self.mapping.users), ("items", self.mapping.items)):
            if side is not None:
                for chunk in self._side_chunks(raw, name, side):
                    yield name[:-1], chunk

    # --- the files -----------------------------------------------------------------------------

    def _sections(self) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        rows = self.mapping.interactions
        needed: tuple[str, ...] = (rows.user, rows.item, rows.time)
        out = [("interactions", rows.files, needed)]
        for name, side in (("users", self.mapping.users), ("items", self.mapping.items)):
            if side is not None:
                out.append((name, side.files, (side.id,)))
        return out

    def _files(
        self, folder: Path, name: str, patterns: tuple[str, ...], needed: tuple[str, ...]
    ) -> list[RawFile]:
        names = find_files(folder, patterns, f"own_data.{name}.files")
        csv = (self.mapping.separator, self.mapping.encoding)
        found = raw_files(folder, names, needed, *csv)
        for raw in found:
            check_columns(raw, self._wanted(name))
        return found

    def _wanted(self, name: str) -> dict[str, str]:
        """Columns that a section names, and where it does."""
        where = f"own_data.{name}"
        if name == "interactions":
            rows = self.mapping.interactions
            out = {
                rows.user: f"{where}.user",
                rows.item: f"{where}.item",
                rows.time: f"{where}.time",
            }
            if rows.label.column is not None:
                key = "action" if rows.label.positive else "label"
                out.setdefault(rows.label.column, f"{where}.{key}")
            columns: tuple[Column, ...] = rows.contexts
        else:
            side = self._side(name)
            out = {side.id: f"{where}.id"}
            columns = side.fields
            for column in side.text:
                out.setdefault(column, f"{where}.text")
        for one in columns:
            out.setdefault(one.column, f"{where}, field {one.field}")
        return out

    def _side(self, name: str) -> Side:
        side = self.mapping.users if name == "users" else self.mapping.items
        if side is None:
            raise DataError(f"own_data: no section '{name}'")
        return side

    # --- rows ----------------------------------------------------------------------------------

    def _events(
        self, raw: RawFolder
    ) -> Iterator[
        tuple[pd.DataFrame, pd.Series, pd.Series, NDArray[np.float64], NDArray[np.int64]]
    ]:
        rows = self.mapping.interactions
        self.facts["rows_of_other_actions"] = 0
        for file in self._tables["interactions"]:
            wanted = list(self._wanted("interactions"))
            for chunk in read_chunks(raw, file, wanted, self.mapping.missing):
                kept, label = self._labels(chunk, file.name)
                chunk = chunk[kept].reset_index(drop=True)
                user, item = clean_text(chunk[rows.user]), clean_text(chunk[rows.item])
                yield chunk, user, item, read_time(chunk[rows.time], rows, file.name), label[kept]

    def _labels(
        self, chunk: pd.DataFrame, file: str
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which rows stay, and the label of all of them."""
        label = self.mapping.interactions.label
        every = np.ones(len(chunk), dtype=bool)
        if label.column is None:
            return every, np.ones(len(chunk), dtype=np.int64)
        values = chunk[label.column]
        if label.positive:
            positive, negative = values.isin(label.positive), values.isin(label.negative)
            kept = np.asarray(positive | negative, dtype=bool)
            self.facts["rows_of_other_actions"] += int((~kept).sum())
            if len(chunk) and not kept.any():
                got = sorted(values.unique())[:5]
                raise DataError(
                    f"own_data.interactions.action: none of {', '.join(label.positive)} in column"
                    f" '{label.column}' of {file}{nearest(label.positive[0], got)}, it has"
                    f" {', '.join(got)}"
                )
            return kept, np.asarray(positive, dtype=np.int64)
        where = f"own_data.interactions.label: column '{label.column}' of {file}"
        if label.at_least is not None:
            numbers = _floats(values, where)
            if np.isnan(numbers).any():
                raise DataError(f"{where}: expected a number in every row, got an empty one")
            return every, (numbers >= label.at_least).astype(np.int64)
        truth = values.str.strip().str.lower().map(_TRUTHS)
        if truth.isna().any():
            got = values[truth.isna()].iloc[0]
            rating = pd.notna(pd.to_numeric(got, errors="coerce"))
            cure = (
                f"a rating needs label: {{column: {label.column}, at_least: 4}}"
                if rating
                else f"texts need action: {{column: {label.column}, positive: [..], negative: []}}"
            )
            raise DataError(f"{where}: expected 0 and 1 (or true and false), got '{got}'; {cure}")
        return every, np.asarray(truth, dtype=np.int64)

    def _contexts(self, chunk: pd.DataFrame) -> pd.DataFrame:
        columns = {
            c.typed: _values(chunk, c, "interactions") for c in self.mapping.interactions.contexts
        }
        return pd.DataFrame(columns, index=chunk.index)

    def _side_chunks(self, raw: RawFolder, name: str, side: Side) -> Iterator[pd.DataFrame]:
        for file in self._tables[name]:
            for chunk in read_chunks(raw, file, list(self._wanted(name)), self.mapping.missing):
                out = {f"{name[:-1]}_id:token": clean_text(chunk[side.id])}
                if side.text:
                    text = clean_text(chunk[side.text[0]])
                    for column in side.text[1:]:
                        text = text + " " + clean_text(chunk[column])
                    out["title:token_seq"] = clean_text(text)
                out |= {c.typed: _values(chunk, c, name) for c in side.fields}
                yield pd.DataFrame(out)


def read_time(values: pd.Series, rows: Interactions, file: str) -> NDArray[np.float64]:
    """Times as seconds.

    Args:
        values: As text.
        rows: What they are: numbers of a unit, or text of a format.
        file: For messages.

    Returns:
        ``[N]`` float64; texts without a zone are taken as UTC.

    Raises:
        DataError: A time cannot be read, or numbers are too large to be seconds.
    """
    where = f"own_data.interactions.time: column '{rows.time}' of {file}"
    numbers = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
    if rows.time_format is None and (rows.unit is not None or np.isfinite(numbers).all()):
        bad = ~np.isfinite(numbers)
        if bad.any():
            got = values[bad].iloc[0]
            raise DataError(f"{where}: expected a number of {rows.unit}, got '{got}'")
        if rows.unit is None and len(numbers) and np.abs(numbers).max() > _LATEST_SECOND:
            raise DataError(
                f"{where}: expected seconds, got {numbers.max():.0f}; say"
                f" time: {{column: {rows.time}, unit: ms}}"
            )
        return numbers * UNITS[rows.unit or "s"] if rows.unit not in (None, "s") else numbers
    form = rows.time_format or "ISO8601"
    stamps = pd.to_datetime(values, format=form, errors="coerce", utc=True)
    if stamps.isna().any():
        got = values[stamps.isna()].iloc[0]
        kind = f"a text of the form {form}" if rows.time_format else "a number or 2024-01-31 12:00"
        raise DataError(
            f"{where}: expected {kind}, got '{got}'; say time: {{column: {rows.time}, format:"
            " '%d/%m/%Y'}"
        )
    nanos = np.asarray(stamps.dt.as_unit("ns").astype("int64"), dtype=np.int64)
    return nanos / 1e9


def _values(chunk: pd.DataFrame, column: Column, section: str) -> pd.Series:
    values = chunk[column.column]
    if column.kind == "list":
        return as_list(values, column.separator)
    if column.kind == "words":
        return as_words(values)
    if column.kind == "float":
        where = f"own_data.{section}: column '{column.column}'"
        return pd.Series(_floats(values, where), index=values.index)
    return clean_text(values)


def _floats(values: pd.Series, where: str) -> NDArray[np.float64]:
    """Numbers; an empty cell is missing."""
    numbers = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
    bad = np.isnan(numbers) & np.asarray(values.str.strip() != "", dtype=bool)
    if bad.any():
        raise DataError(f"{where}: expected a number, got '{values[bad].iloc[0]}'")
    return numbers
