"""Fetching a dataset's official raw files: with progress, resumed where it broke off, checked."""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import os
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import requests
from tqdm.auto import tqdm

from recbole_choir.errors import DataError

from .limits import LARGEST, Bounded, largest_content, too_large

log = logging.getLogger(__name__)

#: Small, because what has come of a block when a connection breaks is lost.
_BLOCK = 1 << 14
#: Seconds to wait for a connection, and for the next bytes of one.
_TIMEOUT = (15.0, 60.0)
#: What a connection that breaks off raises; the next attempt goes on from there.
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Download:
    """One file that a dataset's makers offer.

    Args:
        url: Its address.
        checksum: ``md5:...`` or ``sha256:...`` as published; None: none is, and what holds are the
            row counts that the adapter checks.
        archive: Whether it is a zip or tar file that holds the raw files.
    """

    url: str
    checksum: str | None = None
    archive: bool = False

    @property
    def file(self) -> str:
        """Its name, the last part of the address."""
        return self.url.rsplit("/", 1)[1]


def fetch(
    download: Download,
    folder: Path,
    *,
    progress: bool = False,
    attempts: int = 6,
    wait: float = 1.0,
) -> Path:
    """Fetch one file into a folder.

    What has come so far lies in ``<name>.part``; a later call goes on from there, if the server
    still has the same file. A whole file of the right checksum is not fetched again.

    Args:
        download: What to fetch.
        folder: Where to; made if need be.
        progress: Show a progress bar.
        attempts: How often a broken connection is taken up again without a byte gained.
        wait: Seconds before the second attempt, doubled with each.

    Returns:
        The file.

    Raises:
        DataError: The server refuses or is away, or the checksum is another. One line.
    """
    target = folder / download.file
    if target.exists():
        _check(download, target, "remove it and fetch again")
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{download.file}.part"
    failed = 0
    while True:
        before = _size(part)
        try:
            with requests.Session() as session:
                if _receive(session, download, part, progress):
                    break
            reason = "the connection ended early"
        except _BROKEN as error:
            reason = " ".join(str(error).split())[:160]
        except requests.RequestException as error:
            line = " ".join(str(error).split())[:160]
            raise DataError(f"{download.url}: cannot be fetched: {line}") from None
        except OSError as error:
            raise DataError(f"{part}: cannot be written: {error.strerror or error}") from None
        failed = 0 if _size(part) > before else failed + 1
        if failed >= attempts:
            raise DataError(
                f"{download.url}: broke off after {_size(part):,} bytes ({reason}); "
                "the same command goes on from there"
            )
        log.info("%s: broke off after %s bytes, going on", download.url, f"{_size(part):,}")
        time.sleep(wait * 2 ** min(failed, 6))
    try:
        _check(download, part, "it was removed, fetch again")
    except DataError:
        _forget(part)
        raise
    os.replace(part, target)
    _forget(part)
    return target


def unpack(archive: Path, names: Sequence[str], folder: Path) -> list[Path]:
    """Take raw files out of a zip or tar file, wherever in it they lie.

    Only the names asked for are read, and a path in the archive is never used as a path on disk.

    Args:
        archive: The file.
        names: Names of raw files.
        folder: Where to.

    Returns:
        The raw files, each written whole or not at all.

    Raises:
        DataError: The archive is damaged, holds more than one of its size can, or lacks one of the
            names.
    """
    found = []
    try:
        with _members(archive) as members:
            for name in names:
                if name not in members:
                    raise DataError(f"{archive}: expected '{name}' in it, found none")
                temporary = folder / f".{name}.{os.getpid()}"
                try:
                    with members[name]() as stream, temporary.open("wb") as file:
                        shutil.copyfileobj(Bounded(stream, archive), file, _BLOCK)
                    os.replace(temporary, folder / name)
                finally:
                    temporary.unlink(missing_ok=True)
                found.append(folder / name)
    except _NO_ARCHIVE as error:
        line = " ".join(str(error).split())
        raise DataError(
            f"{archive}: cannot be unpacked: {line}; remove it and fetch again"
        ) from None
    return found


#: What an archive that is damaged or of a kind that Python lacks raises; RuntimeError: a password.
_NO_ARCHIVE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)


@contextmanager
def _members(path: Path) -> Iterator[dict[str, Callable[[], IO[bytes]]]]:
    """Name of each file in an archive -> how to open it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            yield {n.rsplit("/", 1)[-1]: partial(archive.open, n) for n in names}
        return
    with tarfile.open(path) as tar:
        files, total, limit = [], 0, largest_content(path)
        for member in tar:
            total += member.size
            if total > limit:  # before its bytes are passed over to find the next
                raise too_large(path, limit)
            if member.isfile():
                files.append(member)
        yield {m.name.rsplit("/", 1)[-1]: partial(_open_member, tar, m) for m in files}


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise tarfile.TarError(f"{member.name} is not a file")
    return stream


def _receive(session: requests.Session, download: Download, part: Path, progress: bool) -> bool:
    """One attempt: write what comes behind what is there; whether the file is whole."""
    have, seen = _size(part), _read_state(part)
    headers = {"Accept-Encoding": "identity"}
    if have and seen:
        # If-Range: a file that was changed in the meantime comes whole, from its beginning.
        headers |= {"Range": f"bytes={have}-", "If-Range": seen}
    with session.get(download.url, headers=headers, stream=True, timeout=_TIMEOUT) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            _forget(part)  # more than the whole: begin again
            return False
        if reply.status_code >= 500:
            raise requests.ConnectionError(f"{reply.status_code} {reply.reason}")
        if not reply.ok:
            raise DataError(f"{download.url}: the server says {reply.status_code} {reply.reason}")
        goes_on = reply.status_code == requests.codes.partial_content
        start, total = _range(reply, goes_on)
        if start != (have if goes_on else 0):
            _forget(part)
            return False
        if total is not None:
            _check_room(download, part, total, start)
        _write_state(part, reply)
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                desc=download.file,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            size = start
            for block in reply.iter_content(_BLOCK):
                size += len(block)
                if size > LARGEST:
                    raise _too_much(download, size)
                file.write(block)
                bar.update(len(block))
    return total is None or _size(part) == total


def _too_much(download: Download, size: int) -> DataError:
    return DataError(
        f"{download.url}: expected at most {LARGEST >> 20:,} MiB, got {size >> 20:,} MiB or more"
    )


def _check_room(download: Download, part: Path, total: int, have: int) -> None:
    """Refuse a file that the disk has no room for, before its first byte."""
    if total > LARGEST:
        raise _too_much(download, total)
    free = shutil.disk_usage(part.parent).free
    if total - have > free:
        raise DataError(
            f"{download.url}: expected room for {total - have >> 20:,} MiB in {part.parent}, got "
            f"{free >> 20:,} MiB"
        )


def _range(reply: requests.Response, goes_on: bool) -> tuple[int, int | None]:
    """Where a reply begins in the file, and the size of the whole; None if it is not said."""
    if not goes_on:
        size = reply.headers.get("Content-Length", "")
        return 0, int(size) if size.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
    if not found:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path) -> str | None:
    """What tells the server's file from another of its name, or None."""
    try:
        seen = json.loads(_state(part).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return seen.get("validator") if isinstance(seen, dict) else None


def _write_state(part: Path, reply: requests.Response) -> None:
    validator = reply.headers.get("ETag", "")
    if not validator or validator.startswith("W/"):  # a weak one says nothing of the bytes
        validator = reply.headers.get("Last-Modified", "")
    _state(part).write_text(json.dumps({"validator": validator or None}))


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(download: Download, path: Path, then: str) -> None:
    """Refuse a file of another checksum; ``then`` says what to do about it."""
    if download.checksum is None:
        return
    kind, expected = download.checksum.split(":", 1)
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise DataError(
            f"{path}: expected {kind} {expected}, got {digest.hexdigest()}: damaged, or not the "
            f"edition of {download.url} that is known here; {then}"
        )
