"""Arrays in one checked file: safetensors with a header that says what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from recbole_choir.errors import TableError
from recbole_choir.files import whole_file

Arrays = dict[str, NDArray[Any]]


def write_tensors(
    path: str | Path,
    kind: str,
    version: int,
    tensors: Mapping[str, NDArray[Any]],
    values: Mapping[str, str],
) -> None:
    """Write arrays and texts as one file, which appears whole or not at all.

    Args:
        path: File to write; its folder is made if need be.
        kind: What the file is, e.g. ``recbole_choir.RQVAE``.
        version: Of the form of its content.
        tensors: Arrays by name.
        values: Texts by name, for the header.

    Raises:
        OSError: The file cannot be written; an older one stays as it was.
    """
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    header = {**values, "format": kind, "version": str(version), "digest": _digest(whole)}
    with whole_file(path, durable=True) as temporary:
        temporary.write_bytes(save(whole, header))


def read_tensors(
    path: str | Path, kind: str, version: int, what: str
) -> tuple[Arrays, dict[str, str]]:
    """Read what :func:`write_tensors` wrote.

    Args:
        path: The file.
        kind: What it must be.
        version: Of the form of its content.
        what: What it holds, for messages.

    Returns:
        Arrays by name, and the header.

    Raises:
        TableError: There is no such file, it is damaged, or something else's. A file without a
            digest, of an earlier release, is not compared with one.
    """
    where = Path(path)
    try:
        with safe_open(where, framework="numpy") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise TableError(f"{where}: {what} cannot be read: {error}") from error
    found = (header.get("format"), header.get("version"))
    if found != (kind, str(version)):
        raise TableError(f"{where}: expected {kind} version {version}, got {found}")
    digest = header.get("digest")
    if digest is not None and digest != _digest(tensors):
        raise TableError(f"{where}: {what} cannot be read: damaged, the digest differs")
    return tensors, header


def kind_of(path: str | Path, what: str) -> str:
    """What a file says it is; empty where it does not say.

    Raises:
        TableError: There is no such file, or it is damaged.
    """
    try:
        with safe_open(Path(path), framework="numpy") as file:
            return str((file.metadata() or {}).get("format", ""))
    except (OSError, SafetensorError) as error:
        raise TableError(f"{path}: {what} cannot be read: {error}") from error


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype.str}\0{tensor.shape}\0".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
