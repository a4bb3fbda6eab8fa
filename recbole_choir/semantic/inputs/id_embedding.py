"""Users by vectors made elsewhere: the paper's "w/o LLM Emb." control."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames import Frames
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of

logger = logging.getLogger(__name__)


class IdEmbeddingInput:
    """Vectors from a file, such as the user embeddings of a trained Base.

    Whoever makes the file sees to it that the vectors were trained on events before the first
    snapshot: they are the same at all snapshots.

    Args:
        path: ``.npz`` with ``user_ids`` (text [n], raw ids) and ``vectors`` (float [n, d]).

    Raises:
        DataError: There is no such file, an array is missing or of another shape or type, an id
            has two vectors, or a number is nan or inf.

    References:
        ChoirRec, section 5.4 (w/o LLM Emb.); PAPER_GAPS C28.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        ids, self._vectors = _read(self.path)
        self._index = pd.Index(ids)
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise DataError(f"{path}: expected one vector a user, got two of {twice!r}")

    def fit(self, frames: Frames) -> IdEmbeddingInput:
        """Do nothing; returns itself."""
        return self

    def transform(self, frames: Frames) -> Vectors:
        """The users' vectors; users whom the file does not name are not valid."""
        ids = user_ids_of(frames)
        row = self._index.get_indexer(pd.Index(ids))
        valid = row >= 0
        if not valid.all():
            logger.info("%s: %d of %d users have no vector", self.path, (~valid).sum(), len(ids))
        x = np.zeros((len(ids), self._vectors.shape[1]), dtype=np.float32)
        x[valid] = self._vectors[row[valid]]
        return Vectors(ids, x, valid)


def _read(path: Path) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("user_ids", "vectors")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected a .npz with user_ids (text) and vectors, got: {error}"
        ) from error
    ids, vectors = arrays["user_ids"], arrays["vectors"]
    if ids.dtype.kind != "U" or ids.ndim != 1:
        raise DataError(f"{path}: user_ids: expected text [n], got {ids.dtype} {ids.shape}")
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) != len(ids):
        raise DataError(
            f"{path}: vectors: expected floats [{len(ids)}, d], got {vectors.dtype} {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise DataError(f"{path}: vectors: expected finite numbers, got nan or inf")
    return ids.astype(object), vectors.astype(np.float32)
