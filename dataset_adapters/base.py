"""What all dataset adapters share: raw official files in, checked RecBole atomic files out."""

from __future__ import annotations

import csv
import json
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, TextIO

import pandas as pd

from recbole_choir.errors import DataError, nearest

from .download import Download
from .raw import RawFile, RawFolder

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1


def _like(default: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the type of ``default``; text from a command line is read as a number."""
    kind = type(default)
    try:
        if kind in (int, float) and not isinstance(value, bool):
            number = kind(value)
            if number == float(value):
                return number
        elif isinstance(value, kind):
            return value
    except (TypeError, ValueError):
        pass  # said below, in the words of the option
    raise DataError(f"{where}: expected {kind.__name__} such as {default!r}, got {value!r}")


class Adapter(ABC):
    """One dataset: where its raw files are, what they must hold, how they become atomic files.

    A subclass sets the class attributes and writes :meth:`tables`. Everything else is here:
    finding the files in any compression, hashing, counting bad rows, checking row counts, writing
    whole folders or nothing, skipping work that was done already.
    """

    #: Name of the dataset, as in ``--dataset=``.
    name: ClassVar[str]
    #: Folder names under which the raw files may lie.
    folders: ClassVar[tuple[str, ...]]
    #: The raw files, with their official row counts and hashes.
    files: ClassVar[tuple[RawFile, ...]]
    #: Where a user gets the raw files.
    source: ClassVar[str]
    #: What their makers offer to programs; empty: a login, a form or another site is in between.
    downloads: ClassVar[tuple[Download, ...]] = ()
    #: What the makers ask of users, in a line.
    terms: ClassVar[str] = ""
    #: Counts of the official edition: interactions, users, items, user_rows, item_rows.
    expected: ClassVar[Mapping[str, int]] = {}
    #: Raised when the same raw files give other atomic files than before.
    version: ClassVar[int] = 1
    #: Choices of this adapter with their defaults; what a caller may override by name.
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        """Take the dataset's choices.

        Args:
            **options: Overrides of :attr:`options`, of the same types.

        Raises:
            DataError: An option is unknown or of another type than its default.
        """
        self.chosen: dict[str, Any] = dict(self.options)
        self.facts: dict[str, Any] = {}
        for key, value in options.items():
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise DataError(
                    f"{self.name}: no option '{key}'{nearest(key, self.options)}, expected one of: "
                    f"{known}"
                )
            self.chosen[key] = _like(self.options[key], value, f"{self.name}: option '{key}'")

    @abstractmethod
    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield atomic tables in pieces.

        Args:
            raw: Gives the good rows of each raw file through ``chunks(name)``.

        Yields:
            Suffix (``inter``, ``user``, ``item``) and a frame whose column names carry RecBole's
            types (``rating:float``); pieces of one suffix have the same columns. Ids and texts are
            str, numbers either str exactly as in the raw file or numeric.
        """

    @classmethod
    def where_from(cls) -> str:
        """Where a user gets the raw files, for error messages."""
        return cls.source + (f", or by recbole-choir download {cls.name}" if cls.downloads else "")

    def settings(self) -> dict[str, Any]:
        """Choices that change the outcome (seeds, shares); part of the manifest."""
        return dict(self.chosen)

    def negatives(self) -> dict[str, Any] | None:
        """How negatives were made, for the manifest; None: every row is in the raw files."""
        return None

    def convert(
        self,
        raw_dir: str | os.PathLike[str],
        out_dir: str | os.PathLike[str],
        verify: bool = True,
        progress: bool = False,
    ) -> Path:
        """Write ``<name>.inter/.user/.item`` and a manifest into ``out_dir``.

        The folder is written under another name and renamed when whole. If it is there already,
        made by the same adapter from the same files, nothing is done.

        Args:
            raw_dir: Folder with the raw files.
            out_dir: The dataset's own folder, e.g. ``dataset/ml-1m`` (RecBole's ``data_path`` with
                the dataset's name).
            verify: Refuse files whose hash or row count is not the official one. Turn it off for a
                sample of your own.
            progress: Show a progress bar per raw file.

        Returns:
            ``out_dir``.

        Raises:
            DataError: A raw file is missing, damaged or not the official edition, a row count
                differs, an id is repeated, or ``out_dir`` holds something else.
        """
        out = Path(out_dir)
        raw = RawFolder(Path(raw_dir), self.files, self.where_from(), progress)
        origin = self._origin(raw, verify)
        if self._is_current(out, origin):
            log.info("%s: %s is up to date", self.name, out)
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        # Next to the target, so that the rename stays within one file system.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temp:
            whole = Path(temp) / out.name
            whole.mkdir()
            counts = self._write(raw, whole)
            self._check(raw, counts, verify)
            written = sorted(p.name for p in whole.iterdir())
            manifest = {
                **origin,
                "negatives": self.negatives(),
                "counts": counts,
                "facts": self.facts,
                "written": written,
                "raw": self._raw_facts(raw),
            }
            text = json.dumps(manifest, indent=2, ensure_ascii=False)
            (whole / MANIFEST).write_text(text + "\n", encoding="utf-8")
            self._publish(whole, out, Path(temp), origin)
        facts = ", ".join(f"{v:,} {k}" for k, v in counts.items())
        log.info("%s: wrote %s (%s)", self.name, out, facts)
        return out

    def _origin(self, raw: RawFolder, verify: bool) -> dict[str, Any]:
        """Everything that decides the outcome; equal origins need no second conversion."""
        return {
            "format_version": MANIFEST_FORMAT,
            "dataset": self.name,
            "adapter_version": self.version,
            "settings": self.settings(),
            "verified": verify,
            "source": self.source,
            "files_sha256": raw.stored_hashes(),
        }

    def _is_current(self, out: Path, origin: dict[str, Any]) -> bool:
        if not out.exists():
            return False
        if not (out / MANIFEST).is_file():
            if out.is_dir() and not any(out.iterdir()):
                return False
            raise DataError(
                f"{out}: is not empty and was not written by the '{self.name}' adapter (no "
                f"{MANIFEST}), expected a new folder; remove it or choose another one"
            )
        try:
            manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            log.warning("%s: damaged %s, converting again", out, MANIFEST)
            return False
        if not isinstance(manifest, dict) or manifest.get("dataset") != self.name:
            raise DataError(f"{out}: holds another dataset, expected '{self.name}'")
        same = all(manifest.get(key) == value for key, value in origin.items())
        return same and all((out / file).is_file() for file in manifest.get("written", ["?"]))

    def _write(self, raw: RawFolder, folder: Path) -> dict[str, int]:
        """Stream all tables to disk and count."""
        columns: dict[str, list[str]] = {}
        handles: dict[str, TextIO] = {}
        rows: dict[str, int] = {}
        seen: dict[str, set[str]] = {"users": set(), "items": set()}
        listed: dict[str, set[str]] = {"user": set(), "item": set()}
        with ExitStack() as stack:
            for suffix, table in self.tables(raw):
                if suffix not in handles:
                    path = folder / f"{self.name}.{suffix}"
                    handles[suffix] = stack.enter_context(path.open("w", encoding="utf-8"))
                    columns[suffix] = list(table.columns)
                    rows[suffix] = 0
                    handles[suffix].write("\t".join(columns[suffix]) + "\n")
                table[columns[suffix]].to_csv(
                    handles[suffix],
                    sep="\t",
                    header=False,
                    index=False,
                    quoting=csv.QUOTE_NONE,
                    lineterminator="\n",
                )
                rows[suffix] += len(table)
                if suffix == "inter":
                    seen["users"].update(table["user_id:token"].unique())
                    seen["items"].update(table["item_id:token"].unique())
                elif suffix in listed:
                    self._add_ids(listed[suffix], table[f"{suffix}_id:token"], suffix)
        if not rows.get("inter"):
            raise DataError(f"{raw.path}: no interactions found for '{self.name}'")
        counts = {
            "interactions": rows["inter"],
            "users": len(seen["users"]),
            "items": len(seen["items"]),
        }
        for kind in ("user", "item"):
            if kind in rows:
                counts[f"{kind}_rows"] = rows[kind]
                missing = len(seen[f"{kind}s"] - listed[kind])
                counts[f"{kind}s_without_attributes"] = missing
                if missing:
                    log.warning("%s: %d %ss have no attributes", self.name, missing, kind)
        return counts

    def _add_ids(self, known: set[str], ids: pd.Series, kind: str) -> None:
        before = len(known)
        known.update(ids)
        if len(known) != before + len(ids):
            repeated = ids[ids.duplicated()]
            name = f" '{repeated.iloc[0]}'" if len(repeated) else ""
            raise DataError(
                f"{self.name}: {kind} id{name} has more than one row, expected one per {kind}"
            )

    def _check(self, raw: RawFolder, counts: dict[str, int], verify: bool) -> None:
        if not verify:
            return
        for spec in self.files:
            report = raw.reports.get(spec.name)
            if report is None:
                continue
            if spec.rows is not None and report.rows != spec.rows:
                raise DataError(
                    f"{raw.path / report.name}: expected {spec.rows:,} rows, got {report.rows:,} "
                    f"({report.bad_rows:,} bad); get it from {self.source}, or do not verify"
                )
            if spec.sha256 is not None and report.sha256 != spec.sha256:
                raise DataError(
                    f"{raw.path / report.name}: expected sha256 {spec.sha256} (uncompressed), got "
                    f"{report.sha256}; get it from {self.source}, or do not verify"
                )
        for key, value in self._official().items():
            if counts.get(key) != value:
                raise DataError(
                    f"{self.name}: expected {value:,} {key}, got {counts.get(key, 0):,}; get the "
                    f"files from {self.source}, or do not verify"
                )

    def _official(self) -> Mapping[str, int]:
        """Counts to expect: all of them, or of a slice those of the tables that stay whole."""
        if not self.chosen.get("max_rows"):
            return self.expected
        return {key: value for key, value in self.expected.items() if key.endswith("_rows")}

    @staticmethod
    def _raw_facts(raw: RawFolder) -> dict[str, dict[str, Any]]:
        return {
            report.name: {
                "sha256_uncompressed": report.sha256,
                "rows": report.rows,
                "bad_rows": report.bad,
                "bad_examples": report.examples,
            }
            for report in raw.reports.values()
        }

    def _publish(self, whole: Path, out: Path, temp: Path, origin: dict[str, Any]) -> None:
        """Put the finished folder in place of an older one."""
        old = temp / "old"
        if out.exists():
            if self._is_current(out, origin):
                return  # another process was faster
            out.rename(old)
        try:
            whole.rename(out)
        except OSError as err:
            if out.exists() and self._is_current(out, origin):
                return  # the same, a moment later
            if old.exists():
                old.rename(out)
            raise DataError(f"{out}: could not be put in place: {err}") from err
