"""Users by vectors made elsewhere: the paper's "w/o LLM Emb." control."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.frames import USER_ID, Frames
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of

logger = logging.getLogger(__name__)


class IdEmbeddingInput:
    """Vectors from a file, such as the user embeddings of a trained Base.

    Whoever makes the file sees to it that the vectors were trained on events before the first
    snapshot: they are the same at all snapshots. A user without any event then has no trained
    vector, whatever the file holds: near its random start it would be nearly a random group. Such
    users, and those that the file does not name, are not valid and have no group, at any snapshot;
    a log line counts them.

    Args:
        path: ``.npz`` with ``user_ids`` (text [n], raw ids) and ``vectors`` (float [n, d]).

    Raises:
        DataError: There is no such file, an array is missing or of another shape or type, an id
            has two vectors, or a number is nan or inf.

    References:
        ChoirRec, section 5.4 (w/o LLM Emb.); docs/gaps.md C28.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        ids, self._vectors = _read(self.path)
        self._index = pd.Index(ids)
        self._trained: pd.Index | None = None
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise DataError(f"{path}: expected one vector a user, got two of {twice!r}")

    def fit(self, frames: Frames) -> IdEmbeddingInput:
        """Note who has an event before ``frames.time``, the first snapshot; returns itself."""
        self._trained = pd.Index(frames.interactions[USER_ID].unique())
        return self

    def transform(self, frames: Frames) -> Vectors:
        """The users' vectors; valid are those named in the file with an event before the fit.

        Raises:
            DataError: ``fit`` was not called.
        """
        if self._trained is None:
            raise DataError("id_embedding: expected a fitted input, got none: call fit first")
        ids = user_ids_of(frames)
        row = self._index.get_indexer(pd.Index(ids))
        valid = (row >= 0) & pd.Index(ids).isin(self._trained)
        if not valid.all():
            logger.info(
                "%s: %d of %d users have no trained vector and no group: %d are not in the file, %d"
                " have no event before the first snapshot",
                self.path, (~valid).sum(), len(ids), (row < 0).sum(), ((row >= 0) & ~valid).sum(),
            )  # fmt: skip
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
