"""How much a compressed file may hold: a small one that stands for terabytes is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Final

from recbole_choir.errors import DataError

#: Bytes that no raw file of a dataset reaches, compressed or not.
LARGEST: Final = 256 << 30
#: Bytes that a compressed file may always stand for, and how many for each of its own beyond them.
#: Logs of the datasets here are packed 3 to 30 times; a bomb a thousand times.
SMALL: Final = 64 << 20
RATIO: Final = 250


def largest_content(path: Path) -> int:
    """Bytes that a compressed file may stand for."""
    return min(LARGEST, max(SMALL, RATIO * path.stat().st_size))


def too_large(path: Path, limit: int) -> DataError:
    """What is raised beyond that."""
    return DataError(
        f"{path}: expected at most {limit >> 20:,} MiB in a compressed file of "
        f"{path.stat().st_size:,} bytes, got more: damaged, or made to fill a disk"
    )


class Bounded(io.RawIOBase):
    """What a compressed file stands for, up to :func:`largest_content`.

    Args:
        stream: The uncompressed bytes.
        path: The compressed file.

    Raises:
        DataError: From the read that goes beyond the limit.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        super().__init__()
        self._stream, self._path = stream, path
        self._limit = largest_content(path)
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        block = self._stream.read(len(buffer))
        self._seen += len(block)
        if self._seen > self._limit:
            raise too_large(self._path, self._limit)
        buffer[: len(block)] = block
        return len(block)
