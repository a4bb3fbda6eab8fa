"""Costly work by one process at a time, so that the next one finds it done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


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
