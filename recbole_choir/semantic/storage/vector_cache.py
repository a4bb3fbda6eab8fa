"""Vectors kept on disk by a key: durable after every write, checked at every read."""

from __future__ import annotations

import logging
import os
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError

logger = logging.getLogger(__name__)

FILE_NAME: Final = "embeddings.sqlite"
_VERSION: Final = 1
_CHECKSUM_BYTES: Final = 4
_KEYS_PER_QUERY: Final = 500


class VectorCache:
    """A SQLite file of float32 vectors, to be used in a ``with`` block.

    Every :meth:`put` is one committed transaction: a run that is killed loses at most the batch it
    was working on. Every vector carries a checksum. A damaged vector counts as absent; a damaged
    file is moved to ``<name>.damaged`` and a new one begun, with a log line.

    Args:
        folder: Where ``embeddings.sqlite`` lies; made if need be.

    Raises:
        DataError: The file cannot be opened or written (permissions, full disk, locked for over
            a minute).
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE_NAME
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> VectorCache:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._rebuild(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """The vectors of those keys that are here and sound."""
        found: dict[bytes, NDArray[np.float32]] = {}
        n_damaged = 0
        try:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"
                for key, blob in self._db.execute(query, part):
                    vector = _unpack(blob)
                    if vector is None:
                        n_damaged += 1
                    else:
                        found[key] = vector
        except sqlite3.DatabaseError as error:
            self._rebuild(error)
            return {}
        if n_damaged:
            logger.warning("%s: %d damaged vectors are made again", self.path, n_damaged)
        return found

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Store one vector [n, d] a key, all or none of them; durable when this returns."""
        rows = [(key, _pack(vector)) for key, vector in zip(keys, vectors, strict=True)]
        try:
            self._insert(rows)
        except sqlite3.DatabaseError as error:
            self._rebuild(error)
            self._insert(rows)

    def _insert(self, rows: list[tuple[bytes, bytes]]) -> None:
        with self._db:  # one transaction
            self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise DataError(f"{self.path}: expected the embedding cache to be open, got closed")
        return self._connection

    def _open(self) -> None:
        self._connection = sqlite3.connect(self.path, timeout=60.0)
        self._db.execute("PRAGMA synchronous = FULL")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (n_tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if n_tables == 0:
                self._db.execute("CREATE TABLE vectors (key BLOB PRIMARY KEY, vector BLOB)")
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"version {version}, expected {_VERSION}")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rebuild(self, error: sqlite3.DatabaseError) -> None:
        """Put a damaged file aside and begin a new one; pass on what is not damage."""
        self._close()
        if isinstance(error, sqlite3.OperationalError):  # locked, read-only, full, not allowed
            raise self._unusable(error) from error
        aside = self.path.with_name(self.path.name + ".damaged")
        logger.warning(
            "%s: the embedding cache is damaged (%s): moved to %s, embeddings are made again",
            *(self.path, error, aside.name),
        )
        try:
            os.replace(self.path, aside)
            # the journal is the damaged file's: left here, it would be played into the new one
            self.path.with_name(self.path.name + "-journal").unlink(missing_ok=True)
            self._open()
        except (OSError, sqlite3.DatabaseError) as second:
            raise self._unusable(second) from second

    def _unusable(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: the embedding cache cannot be used: {error}")


def _pack(vector: NDArray[np.float32]) -> bytes:
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little") + data


def _unpack(blob: object) -> NDArray[np.float32] | None:
    """The vector in a blob, None where the blob is damaged."""
    if not isinstance(blob, bytes) or len(blob) <= _CHECKSUM_BYTES or len(blob) % 4:
        return None
    data = blob[_CHECKSUM_BYTES:]
    if zlib.crc32(data) != int.from_bytes(blob[:_CHECKSUM_BYTES], "little"):
        return None
    return np.frombuffer(data, dtype="<f4").astype(np.float32)
