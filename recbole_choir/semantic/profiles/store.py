"""Profiles in one SQLite file: durable one by one, shared by processes, never thrown away."""

from __future__ import annotations

import itertools
import logging
import os
import platform
import sqlite3
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from recbole_choir.errors import DataError
from recbole_choir.semantic.profiles.types import Failure

logger = logging.getLogger(__name__)

FILE_NAME: Final = "profiles.sqlite"

_VERSION: Final = 1
_APPLICATION: Final = 0x43484F52  # "CHOR": tells our files from other SQLite files
_KEYS_PER_QUERY: Final = 500
_BUSY_SECONDS: Final = 60.0
_CACHE_KIB: Final = 64 * 1024  # the index of a million keys is 45 MB

# Keys have an index of their own, 36 bytes a row: which keys are there is read from it alone, and
# the texts stay where they were written.
_TABLES: Final = """
CREATE TABLE sources (id INTEGER PRIMARY KEY, description TEXT NOT NULL UNIQUE);
CREATE TABLE profiles (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, source INTEGER NOT NULL, text TEXT NOT NULL,
  checksum INTEGER NOT NULL, tries INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, written REAL NOT NULL);
CREATE UNIQUE INDEX profile_of_key ON profiles (key);
CREATE TABLE failures (
  key BLOB PRIMARY KEY, source INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
  final INTEGER NOT NULL, tries INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, written REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE owners (
  id INTEGER PRIMARY KEY AUTOINCREMENT, machine TEXT NOT NULL, pid INTEGER NOT NULL,
  started TEXT NOT NULL, heartbeat REAL NOT NULL);
CREATE TABLE leases (key BLOB PRIMARY KEY, owner INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Finished:
    """What to record for one key.

    Args:
        key: Of the prompt.
        result: The profile's text, or why there is none.
        tries: Requests whose reply was judged, or that were given up.
        prompt_tokens, completion_tokens: Of all tries together.
        final: A failure that asking again would not change (a bad reply at every seed). One that is
            not final (the server failed) is asked again by the next run.
    """

    key: bytes
    result: str | Failure
    tries: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    final: bool = True


@dataclass
class Known:
    """Keys that need no asking.

    Args:
        done: Keys with a profile.
        failed: Keys with a failure that stands.
    """

    done: set[bytes] = field(default_factory=set)
    failed: dict[bytes, Failure] = field(default_factory=dict)


@dataclass
class Claim:
    """What became of keys one wanted to ask for.

    Args:
        mine: To be asked by this store's owner, in the order given.
        known: Done or failed in the meantime.
        elsewhere: Being asked by another living owner.
    """

    mine: list[bytes]
    known: Known
    elsewhere: list[bytes]


class ProfileStore:
    """A SQLite file of profiles, failures and leases, to be used in a ``with`` block.

    ::

        claim(keys)   -> a lease on each key that nobody has answered or is asking for
        commit(rows)  -> profiles and failures in, their leases out: one transaction, on the disk
                         when the call returns (WAL, synchronous FULL: a power cut keeps it)
        another owner's lease is waited for; a dead owner's is taken over

    A lease is dead with its owner: at once where the process can be seen to have ended, else
    after ``lease_seconds`` without a heartbeat. A profile is never overwritten: whoever commits a
    key second, after its lease was taken over, changes nothing. Nothing is ever deleted but leases
    and failures that became profiles; a damaged file is left as it is.

    Calls may come from several threads; they take turns.

    Args:
        path: The file; made if need be.
        lease_seconds: See :class:`recbole_choir.settings.profiles.ProfileSettings`.

    Raises:
        DataError: The file cannot be used (permissions, full disk, damaged, not a profile store,
            locked for over a minute). One line; what was stored stays.
    """

    def __init__(self, path: str | Path, lease_seconds: float = 120.0) -> None:
        self.path = Path(path)
        self.lease_seconds = lease_seconds
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._owner: int | None = None
        self._sources: dict[str, int] = {}
        self._wal = False
        self._process = Process.current()

    def __enter__(self) -> ProfileStore:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path}: the profile store cannot be made: {error}") from None
        with self._guarded():
            try:
                self._open()
            except BaseException:
                self._shut()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._guarded():
                if self._owner is not None:
                    with self._transaction(durable=False):
                        self._db.execute("DELETE FROM leases WHERE owner = ?", (self._owner,))
                        self._db.execute("DELETE FROM owners WHERE id = ?", (self._owner,))
        except DataError as failure:
            # leases of an ended process count for nothing: no reason to hide an earlier error
            logger.warning("%s", failure)
        finally:
            self._shut()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str | Failure]:
        """Profiles and failures of those keys that have one.

        A profile whose checksum is wrong is removed, with a log line, and counts as absent: it is
        asked for again.
        """
        found: dict[bytes, str | Failure] = {}
        damaged: list[tuple[bytes]] = []
        with self._guarded():
            for part in _parts(keys):
                for key, reason, detail in self._select("key, reason, detail", "failures", part):
                    found[key] = Failure(reason, detail)
                # as bytes: damaged text may be no UTF-8
                columns = "key, CAST(text AS BLOB), checksum"
                for key, text, checksum in self._select(columns, "profiles", part):
                    if zlib.crc32(text) == checksum:
                        found[key] = text.decode()
                    else:
                        damaged.append((key,))
            if damaged:
                logger.warning(
                    "%s: %d damaged profiles removed: run again to write them again",
                    *(self.path, len(damaged)),
                )
                with self._transaction():
                    self._db.executemany("DELETE FROM profiles WHERE key = ?", damaged)
        return found

    def known(
        self, keys: Sequence[bytes], retry_failed: bool = False, since: float = float("inf")
    ) -> Known:
        """Which of the keys need no asking.

        Args:
            keys: Distinct keys.
            retry_failed: Final failures are to be asked again.
            since: Failures recorded at or after this time (epoch seconds) stand in any case: they
                were made by the run that wants to know, or next to it.
        """
        out = Known()
        with self._guarded():
            for part in _parts(keys):
                rows = self._select("key", "profiles", part)
                out.done.update(itertools.chain.from_iterable(rows))
            open_keys = [] if len(out.done) == len(keys) else [k for k in keys if k not in out.done]
            for part in _parts(open_keys):
                columns = "key, reason, detail, final, written"
                for key, reason, detail, final, written in self._select(columns, "failures", part):
                    if written >= since or (final and not retry_failed):
                        out.failed[key] = Failure(reason, detail)
        return out

    def claim(
        self, keys: Sequence[bytes], retry_failed: bool = False, since: float = float("inf")
    ) -> Claim:
        """Take a lease on every key that is neither known nor leased by another living owner.

        Args:
            keys: Distinct keys.
            retry_failed, since: As in :meth:`known`.
        """
        with self._guarded(), self._transaction(durable=False):
            owner = self._beat()
            known = self.known(keys, retry_failed, since)
            wanted = [k for k in keys if k not in known.done and k not in known.failed]
            holder: dict[bytes, int] = {}
            for part in _parts(wanted):
                holder.update(self._select("key, owner", "leases", part))
            dead = self._drop_dead(set(holder.values()) - {owner})
            elsewhere = [k for k in wanted if holder.get(k, owner) not in dead | {owner}]
            away = set(elsewhere)
            mine = [k for k in wanted if k not in away]
            self._db.executemany(
                "INSERT OR REPLACE INTO leases VALUES (?, ?)", ((key, owner) for key in mine)
            )
        return Claim(mine, known, elsewhere)

    def release(self) -> None:
        """Give all leases back: others may ask for the keys."""
        if self._owner is not None:
            with self._guarded(), self._transaction(durable=False):
                self._db.execute("DELETE FROM leases WHERE owner = ?", (self._owner,))

    def commit(self, rows: Sequence[Finished], source: str) -> None:
        """Record what is finished; on the disk when this returns.

        Args:
            rows: One per key.
            source: Model and parameters that all of them came from, as JSON.
        """
        now = time.time()
        profiles, failures = [], []
        for row in rows:
            tail = (row.tries, row.prompt_tokens, row.completion_tokens, now)
            if isinstance(row.result, Failure):
                failure = row.result
                head = (failure.reason, _line(failure.detail), int(row.final))
                failures.append((row.key, *head, *tail, row.key))
            else:
                text = row.result.encode()
                profiles.append((row.key, row.result, zlib.crc32(text), *tail))
        with self._guarded(), self._transaction():
            number = self._source(source)
            self._db.executemany(
                "INSERT INTO profiles (key, source, text, checksum, tries, prompt_tokens,"
                f" completion_tokens, written) VALUES (?, {number}, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (key) DO NOTHING",
                profiles,
            )
            self._db.executemany(
                "DELETE FROM failures WHERE key = ?", ((row[0],) for row in profiles)
            )
            self._db.executemany(
                f"INSERT INTO failures SELECT ?, {number}, ?, ?, ?, ?, ?, ?, ?"
                " WHERE NOT EXISTS (SELECT 1 FROM profiles WHERE key = ?)"
                " ON CONFLICT (key) DO UPDATE SET source = excluded.source,"
                " reason = excluded.reason, detail = excluded.detail, final = excluded.final,"
                " tries = tries + excluded.tries,"
                " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens,"
                " written = excluded.written",
                failures,
            )
            self._db.executemany(
                "DELETE FROM leases WHERE key = ? AND owner = ?",
                ((row.key, self._owner) for row in rows),
            )

    def beat(self) -> None:
        """Say that this owner lives. To be called a few times in ``lease_seconds``."""
        if self._owner is not None:
            with self._guarded(), self._transaction(durable=False):
                self._beat()

    def missing(self, keys: Iterable[bytes]) -> Iterator[bytes]:
        """Those of the keys, in order, that have neither a profile nor a final failure.

        Keys are streamed: memory does not grow with their number.
        """
        stream = iter(keys)
        while part := list(itertools.islice(stream, 64 * _KEYS_PER_QUERY)):
            # neighbours share pages of the index
            known = self.known(sorted(part))
            if len(known.done) < len(part):
                yield from (k for k in part if k not in known.done and k not in known.failed)

    def count(self) -> dict[str, Any]:
        """Numbers for a manifest: profiles, failures by reason, tokens spent.

        It reads every row: seconds for a million profiles.
        """
        sums = "count(*), total(tries), total(prompt_tokens), total(completion_tokens)"
        with self._guarded():
            n, tries, prompt, completion = self._db.execute(
                f"SELECT {sums} FROM profiles"
            ).fetchone()
            _, tries2, prompt2, completion2 = self._db.execute(
                f"SELECT {sums} FROM failures"
            ).fetchone()
            reasons: Counter[str] = Counter()
            for reason, times in self._db.execute(
                "SELECT reason, count(*) FROM failures GROUP BY reason"
            ):
                reasons[reason] = times
        return {
            "profiles": n,
            "failures": dict(sorted(reasons.items())),
            "tries": int(tries + tries2),
            "prompt_tokens": int(prompt + prompt2),
            "completion_tokens": int(completion + completion2),
        }

    # --- inside: the lock is held and SQLite's errors are translated -----------------------------

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise DataError(f"{self.path}: expected the profile store to be open, got closed")
        return self._connection

    def _open(self) -> None:
        # what is told of users is for their owner alone; SQLite gives its other files the same mode
        with suppress(OSError):  # SQLite says itself what is wrong with the file
            os.close(os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o600))
            self.path.chmod(0o600)
        self._connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        db = self._connection
        db.execute("BEGIN")  # all three of one moment: another process may be making the file
        (n_tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("COMMIT")
        if n_tables and (application != _APPLICATION or version != _VERSION):
            raise DataError(
                f"{self.path}: expected a profile store of version {_VERSION}, got "
                + (f"version {version}" if application == _APPLICATION else "another SQLite file")
            )
        self._wal = self._to_wal()
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA fullfsync = 1")  # macOS: through the drive's own cache as well
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        with self._transaction():
            (n_tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if n_tables == 0:
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                db.execute(f"PRAGMA user_version = {_VERSION}")

    def _to_wal(self) -> bool:
        """Switch to a write-ahead log. Another process that opens the file may be in the way."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                (mode,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
                continue
            return str(mode) == "wal"

    def _shut(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._owner = None
        self._sources = {}

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise DataError(self._sentence(error)) from error

    def _sentence(self, error: sqlite3.Error) -> str:
        text = " ".join(str(error).split())
        where = f"{self.path}: the profile store"
        if "malformed" in text or "not a database" in text:
            return (
                f"{where} is damaged ({text}): left as it is; restore a copy, or recover it with "
                f"sqlite3 '{self.path.name}' .recover, or move it away to begin again"
            )
        if "full" in text:
            return f"{where} cannot grow, the disk is full: what it holds is safe, run again later"
        if "readonly" in text or "read-only" in text:
            return f"{where} cannot be written (read-only): what it holds is safe"
        if "unable to open" in text:
            return f"{where} cannot be opened: expected a file in a folder that can be written"
        return f"{where} cannot be used: {text}"

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[None]:
        """One write transaction, all or nothing.

        A lease need not outlive a power cut, its owner does not either: ``durable=False`` spares
        the wait for the disk. In WAL mode that risks no damage (SQLite, PRAGMA synchronous).
        """
        fast = not durable and self._wal
        if fast:
            self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._sources.clear()  # one of them may be rolled back
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        finally:
            if fast:
                self._db.execute("PRAGMA synchronous = FULL")

    def _select(self, columns: str, table: str, keys: Sequence[bytes]) -> sqlite3.Cursor:
        marks = ",".join("?" * len(keys))
        return self._db.execute(f"SELECT {columns} FROM {table} WHERE key IN ({marks})", keys)

    def _beat(self) -> int:
        """Enter this owner with the time; again if it was taken for dead in the meantime."""
        me = self._process
        row = (self._owner, me.machine, me.pid, me.started, time.time())
        cursor = self._db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?, ?)", row)
        if cursor.lastrowid is None:
            raise DataError(f"{self.path}: expected SQLite to number a new row, got none")
        self._owner = cursor.lastrowid
        return self._owner

    def _drop_dead(self, owners: set[int]) -> set[int]:
        """Those that have ended, left, or been silent for too long; their leases are dropped."""
        dead = set()
        for number in owners:
            row = self._db.execute(
                "SELECT machine, pid, started, heartbeat FROM owners WHERE id = ?", (number,)
            ).fetchone()
            silent = row is None or abs(time.time() - row[3]) > self.lease_seconds
            if silent or Process(*row[:3]).is_gone():
                dead.add(number)
                n = self._db.execute("DELETE FROM leases WHERE owner = ?", (number,)).rowcount
                self._db.execute("DELETE FROM owners WHERE id = ?", (number,))
                logger.info("%s: %d leases of an ended process are free again", self.path, n)
        return dead

    def _source(self, description: str) -> int:
        if description not in self._sources:
            self._db.execute(
                "INSERT INTO sources (description) VALUES (?) ON CONFLICT DO NOTHING",
                (description,),
            )
            (number,) = self._db.execute(
                "SELECT id FROM sources WHERE description = ?", (description,)
            ).fetchone()
            self._sources[description] = number
        return self._sources[description]


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[i : i + _KEYS_PER_QUERY] for i in range(0, len(keys), _KEYS_PER_QUERY))


def _line(text: str) -> str:
    """One line of at most 300 characters that SQLite can hold."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:300]


@dataclass(frozen=True)
class Process:
    """One process, told apart from every other that was or will be.

    Args:
        machine: Host name, and on Linux the namespace of process ids (a container's differs).
        pid: Process id; it is given to other processes later.
        started: When it started, in whatever unit does not move with the clock.
    """

    machine: str
    pid: int
    started: str

    @staticmethod
    def current() -> Process:
        """This process."""
        pid = os.getpid()
        return Process(_machine(), pid, _started(pid) or "")

    def is_gone(self) -> bool | None:
        """Whether it has ended: None where that cannot be known from here."""
        if self.machine != _machine():
            return None
        return _started(self.pid) != self.started


def _machine() -> str:
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return platform.node()


def _started(pid: int) -> str | None:
    """When a running process started; None if there is none, or only its unreaped remains."""
    proc = Path("/proc") / str(pid) / "stat"
    if Path("/proc/self/stat").exists():
        try:
            # the name stands in brackets and may hold anything
            fields = proc.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        state, ticks = fields[0], fields[19]
        return None if state in "ZX" else f"{_boot()} {ticks}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
