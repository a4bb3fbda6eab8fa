"""Trained weights kept on disk, named by all that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError, TableError
from recbole_choir.semantic.storage.tensor_file import Arrays, read_tensors, write_tensors

logger = logging.getLogger(__name__)

#: Raise it when the same settings and inputs lead to other weights than before.
VERSION: Final = 1

_KIND: Final = "recbole_choir.alignment"


def content_key(settings: Mapping[str, Any], *inputs: NDArray[Any] | list[str]) -> str:
    """Name of the weights that settings and inputs lead to: 32 hexadecimal digits.

    Args:
        settings: Plain values.
        inputs: Arrays of numbers, or texts.
    """
    digest = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode())
    for values in inputs:
        if isinstance(values, list):
            # each text by its own digest: no separator can occur in a text
            for text in values:
                digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        else:
            digest.update(f"{values.dtype.str}\0{values.shape}\0".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]


class WeightsFile:
    """One file ``alignment/<key>.safetensors`` under the cache folder; nowhere if that is None."""

    def __init__(self, cache_dir: str | Path | None, key: str) -> None:
        folder = None if cache_dir is None else Path(cache_dir) / "alignment"
        self.path = None if folder is None else folder / f"{key}.safetensors"

    def read(self) -> tuple[Arrays, dict[str, Any]] | None:
        """Weights and the report of their training; None where there are none.

        A damaged file counts as none, with a log line.
        """
        if self.path is None or not self.path.is_file():
            return None
        try:
            arrays, header = read_tensors(self.path, _KIND, VERSION, "alignment")
            return arrays, dict(json.loads(header["report"]))
        except (TableError, KeyError, ValueError) as error:
            logger.warning("alignment is trained again: %s", error)
            return None

    def write(self, arrays: Arrays, report: Mapping[str, Any]) -> None:
        """Keep weights.

        Raises:
            DataError: The file cannot be written.
        """
        if self.path is None:
            return
        try:
            write_tensors(self.path, _KIND, VERSION, arrays, {"report": json.dumps(dict(report))})
        except OSError as error:
            raise DataError(f"{self.path}: the alignment cannot be kept: {error}") from error
