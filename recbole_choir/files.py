"""Files that appear whole or not at all, and work that one process does at a time."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from recbole_choir.errors import ConfigError
from recbole_choir.processes import is_alive

logger = logging.getLogger("recbole_choir")

#: Room that a run wants at least for its record and checkpoint.
LEAST_ROOM: Final = 32 << 20
#: How the names of files begin that are not whole yet: what process writes them follows, and the
#: machine's name tells them from those of others that write into the same folder.
_UNFINISHED: Final = f".writing-{socket.gethostname()}-"


@contextmanager
def whole_file(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` at the end of the block.

    A reader sees the older file or the new one, never a half of it. If the block fails, what it
    wrote is gone and the older file untouched; a killed process leaves a hidden file that nothing
    reads and :func:`sweep` removes.

    Args:
        path: The file; its folder is made where it is missing.
        durable: Wait until the disk has it: for what was costly to make.

    Yields:
        A hidden name in the same folder, with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_UNFINISHED}{os.getpid()}-{path.name}")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes as a whole file."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def sweep(folder: str | Path) -> list[Path]:
    """Remove the unfinished files of :func:`whole_file` whose process on this machine is gone.

    Returns:
        What was removed; a log line counts it.
    """
    gone = []
    for path in sorted(Path(folder).glob(f"{_UNFINISHED}*")):
        pid = path.name[len(_UNFINISHED) :].split("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            path.unlink(missing_ok=True)
            gone.append(path)
    if gone:
        logger.info("%s: removed %d unfinished files of killed processes", folder, len(gone))
    return gone


def parse_json(text: str | bytes) -> Any:
    """Read JSON of others.

    Raises:
        ValueError: It is none, in whatever way; brackets in brackets a hundred thousand deep too.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def probe_folder(key: str, folder: str | Path) -> None:
    """Find out now, and not after hours of training, whether a folder can be written to.

    Args:
        key: The setting that names it, for the message.
        folder: Made where it is missing.

    Raises:
        ConfigError: It cannot be made or written, or there is next to no room.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"0" * 4096)
        sweep(path)
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be written: {error.strerror or error}") from None
    if free < LEAST_ROOM:
        raise ConfigError(
            f"{key}: {path}: expected {LEAST_ROOM >> 20} MiB of room, got {free >> 20} MiB"
        )


@contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs; who holds it already is waited for, with a log line.

    The lock ends with its process, however that ends. Where the file system has no locks, there is
    none: work may then be done twice, never wrongly.

    Args:
        path: The lock file, in a folder that is there.
        what: What is made, for the log.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process makes some now: waiting for it", what)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.warning("%s: no lock (%s): work may be done twice", path, error)
    try:
        yield
    finally:
        lock.release()


def the_only_one(path: Path, busy: str) -> FileLock:
    """A lock that is held until it is released or this process ends.

    Raises:
        ConfigError: Another process holds it: ``busy``.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(busy) from None
    return lock
