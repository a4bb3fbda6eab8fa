"""Trained weights and checkpoints as whole files: safetensors with plain values beside them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recbole_choir.errors import DataError

logger = logging.getLogger(__name__)

WEIGHTS: Final = "weights.safetensors"
CHECKPOINT: Final = "checkpoint.safetensors"
_FORMAT: Final = "recbole_choir.interest"
_VERSION: Final = 1


class Stored(NamedTuple):
    """Tensors by name, and plain values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write_stored(path: Path, key: str, stored: Stored) -> None:
    """Write a file whole or not at all; durable when this returns.

    Args:
        path: The file; an older one is replaced.
        key: What the content was made from.
        stored: Tensors and plain values.

    Raises:
        DataError: The file cannot be written.
    """
    header = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "key": key,
        "values": json.dumps(stored.values, sort_keys=True),
    }
    tensors = {name: one.detach().cpu().contiguous() for name, one in stored.tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(tensors, header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: the weights cannot be written: {error}") from error


def read_stored(path: Path, key: str, shapes: Mapping[str, tuple[int, ...]]) -> Stored | None:
    """Read a file back; None where there is none or it is damaged or something else's.

    What cannot be used is logged and made anew by the caller: a cache must not stop a run.

    Args:
        path: The file.
        key: What the content should have been made from.
        shapes: Tensors that must be there, with their shapes; others are read as well.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = json.loads(header.get("values", ""))
    except (OSError, SafetensorError, ValueError) as error:
        logger.warning("%s: damaged (%s), made anew", path, " ".join(str(error).split()))
        return None
    found = (header.get("format"), header.get("version"), header.get("key"))
    if found != (_FORMAT, str(_VERSION), key):
        logger.warning("%s: made by %s, not by %s: made anew", path, found, key)
        return None
    got = {name: tuple(one.shape) for name, one in tensors.items()}
    wrong = [name for name, shape in shapes.items() if got.get(name) != shape]
    if wrong:
        logger.warning("%s: %s is missing or of another shape, made anew", path, wrong[0])
        return None
    return Stored(tensors, values)
