"""Users by the average embedding of the names of what they bought."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recbole_choir.errors import DataError, nearest
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import ITEM_ID, USER_ID, Frames
from recbole_choir.semantic.frames.matrices import count_pairs, idf, positions, unit_rows
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of

NAME = "name"


class TextPartsInput:
    """Centred average of the embedded names of bought categories and items, weighted by idf.

    ::

        w_un = log1p(purchases of u named n) * log((1 + users) / (1 + users with n))
        y_u  = sum_n w_un e_n / sum_n w_un
        x_u  = y_u - mean of y over users, divided by its norm

    One long template text puts all users close together, since most of its words are the same for
    everyone; its parts do not. Weights and centre are fitted once: an idf that changes with the
    snapshot would make every vector new. A name first bought later has the weight of one nobody
    had. Users without a purchase are not valid.

    Args:
        encoder: Embeds the names; every one once.
        fields: Columns of ``frames.items`` that name an item: text, or lists of texts.
        show_progress: Show the encoder's progress bar.

    Raises:
        DataError: Neither of the fields is a column of ``frames.items``.
    """

    def __init__(
        self,
        encoder: Encoder,
        fields: Sequence[str] = ("category", "title"),
        *,
        show_progress: bool = True,
    ) -> None:
        self.encoder = encoder
        self.fields = list(fields)
        self.show_progress = show_progress
        self._embedded: dict[str, NDArray[np.float32]] = {}
        self._idf = pd.Series(dtype=np.float64)
        self._idf_unseen = 0.0
        self._centre: NDArray[np.float64] | None = None

    def fit(self, frames: Frames) -> TextPartsInput:
        """Fit idf and centre on the users with a purchase before ``frames.time``."""
        counts, names = self._counts(frames)
        n_buyers = int((np.diff(counts.indptr) > 0).sum())
        self._idf = pd.Series(idf(n_buyers, np.bincount(counts.indices, minlength=len(names))))
        self._idf.index = pd.Index(names)
        self._idf_unseen = float(idf(n_buyers, np.zeros(1))[0])
        average, valid = self._average(counts, names)
        # by user id, so that rounding does not depend on the order of the users
        by_id = np.argsort(user_ids_of(frames)[valid], kind="stable")
        chosen = average[valid][by_id]
        self._centre = chosen.mean(axis=0) if len(chosen) else np.zeros(average.shape[1])
        return self

    def transform(self, frames: Frames) -> Vectors:
        """Vectors from the purchases before ``frames.time``, with the fitted idf and centre."""
        if self._centre is None:
            raise DataError("text_parts: expected a fitted input, got none: call fit first")
        average, valid = self._average(*self._counts(frames))
        x = unit_rows(np.where(valid[:, None], average - self._centre, 0.0))
        return Vectors(user_ids_of(frames), x.astype(np.float32), valid)

    def _counts(self, frames: Frames) -> tuple[csr_matrix, NDArray[np.object_]]:
        """Purchases [users, names] of each name, and the sorted names."""
        bought = frames.positives
        pairs = self._names(frames.items[frames.items[ITEM_ID].isin(bought[ITEM_ID])])
        names = np.sort(pairs[NAME].unique().astype(object))
        events = count_pairs(
            positions(bought[USER_ID], pd.Index(user_ids_of(frames))),
            positions(bought[ITEM_ID], items := pd.Index(np.sort(pairs[ITEM_ID].unique()))),
            (len(frames.users), len(items)),
        )  # [users, items]
        named = count_pairs(
            positions(pairs[ITEM_ID], items),
            positions(pairs[NAME], pd.Index(names)),
            (len(items), len(names)),
        )  # [items, names], 0 or 1
        counts = csr_matrix(events @ named)
        counts.sort_indices()
        return counts, names

    def _names(self, items: pd.DataFrame) -> pd.DataFrame:
        """Pairs (item_id, name), each once, from all fields."""
        known = [field for field in self.fields if field in items.columns]
        if not known:
            columns = [str(c) for c in items.columns]
            hint = nearest(self.fields[0], columns)
            raise DataError(
                f"items: expected one of the columns {self.fields}, got {columns}{hint}"
            )
        parts = [
            items[[ITEM_ID, field]].explode(field).rename(columns={field: NAME}) for field in known
        ]
        pairs = pd.concat([part.astype(object) for part in parts], ignore_index=True)
        pairs = pairs[pairs[NAME].notna().to_numpy(dtype=bool)]
        pairs = pd.DataFrame(
            {
                ITEM_ID: pairs[ITEM_ID].to_numpy(dtype=object),
                NAME: pairs[NAME].astype(str).str.strip().to_numpy(dtype=object),
            }
        )
        return pairs[(pairs[NAME] != "").to_numpy(dtype=bool)].drop_duplicates()

    def _average(
        self, counts: csr_matrix, names: NDArray[np.object_]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Weighted average embedding [users, d] and which users have one."""
        embedded = self._embed(names)  # [names, d]
        weight = counts.copy()
        idf_of = self._idf.reindex(names).fillna(self._idf_unseen).to_numpy(dtype=np.float64)
        weight.data = np.log1p(weight.data) * idf_of[weight.indices]
        total = np.asarray(weight.sum(axis=1)).reshape(-1)
        # What every user has weighs nothing; a user with nothing else counts it all alike.
        common = (total == 0) & (np.diff(counts.indptr) > 0)
        if common.any():
            row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
            weight.data = np.where(common[row], np.log1p(counts.data), weight.data)
            total = np.asarray(weight.sum(axis=1)).reshape(-1)
        valid = total > 0
        average = np.asarray(weight @ embedded.astype(np.float64))
        return np.divide(
            average, total[:, None], out=np.zeros(average.shape), where=valid[:, None]
        ), valid

    def _embed(self, names: NDArray[np.object_]) -> NDArray[np.float32]:
        """Embeddings [n, d] of names; only those never met before are encoded."""
        new = [str(name) for name in names if name not in self._embedded]
        if new or not self._embedded:
            vectors = self.encoder.encode(new, show_progress=self.show_progress)
            if len(names) == 0:
                return vectors
            self._embedded.update(zip(new, vectors, strict=True))
        return (
            np.stack([self._embedded[name] for name in names])
            if len(names)
            else (np.zeros((0, len(next(iter(self._embedded.values())))), dtype=np.float32))
        )
