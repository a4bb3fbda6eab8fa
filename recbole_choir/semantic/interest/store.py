"""Trained weights and checkpoints as whole files: tensors with plain values beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from recbole_choir.errors import DataError, TableError
from recbole_choir.semantic.storage.tensor_file import read_tensors, write_tensors

logger = logging.getLogger(__name__)

WEIGHTS: Final = "weights.safetensors"
CHECKPOINT: Final = "checkpoint.safetensors"
_KIND: Final = "recbole_choir.interest"
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
        stored: Tensors and plain values. bfloat16 is written as float32, which loses nothing.

    Raises:
        DataError: The file cannot be written.
    """
    arrays = {}
    for name, one in stored.tensors.items():
        one = one.detach().cpu()
        arrays[name] = (one.float() if one.dtype == torch.bfloat16 else one).numpy()
    values = {"key": key, "values": json.dumps(stored.values, sort_keys=True)}
    try:
        write_tensors(path, _KIND, _VERSION, arrays, values)
    except OSError as error:
        raise DataError(f"{path}: the weights cannot be written: {error}") from error


def read_stored(path: Path, key: str, shapes: Mapping[str, tuple[int, ...]]) -> Stored | None:
    """Read a file back; None where there is none, or it is damaged or something else's.

    What cannot be used is logged and made anew by the caller: a cache must not stop a run.

    Args:
        path: The file.
        key: What the content should have been made from.
        shapes: Tensors that must be there, with their shapes; others are read as well.
    """
    if not path.is_file():
        return None
    try:
        arrays, header = read_tensors(path, _KIND, _VERSION, "the weights")
        values = json.loads(header.get("values", ""))
    except (TableError, ValueError) as error:
        logger.warning("%s; made anew", error)
        return None
    if header.get("key") != key:
        logger.warning("%s: made from other inputs, %s: made anew", path, header.get("key"))
        return None
    wrong = [n for n, shape in shapes.items() if n not in arrays or arrays[n].shape != shape]
    if wrong:
        logger.warning("%s: %s is missing or of another shape: made anew", path, wrong[0])
        return None
    return Stored({name: torch.from_numpy(one) for name, one in arrays.items()}, values)
