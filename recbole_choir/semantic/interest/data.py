"""What engines learn from: histories, item vectors and attributes at one moment, and its digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.semantic.frames.fingerprint import fingerprint_json
from recbole_choir.semantic.frames.frames import ITEM_ID, USER_ID, Frames
from recbole_choir.semantic.interest.diagnostics import Diagnostics
from recbole_choir.semantic.interest.history import Histories, read_histories, row_of
from recbole_choir.semantic.items.base import ItemVectors

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class InterestData:
    """Everything an engine may read at one moment, sorted by id.

    Args:
        frames: Events strictly before the moment.
        item_ids: object [I], items that have a vector, sorted.
        vectors: float32 [I, d], of norm 1.
        histories: Positives of those items.
        users: Attributes in the order of ``histories.user_ids``.
    """

    frames: Frames
    item_ids: NDArray[np.object_]
    vectors: NDArray[np.float32]
    histories: Histories
    users: pd.DataFrame

    def digest(self) -> str:
        """Fingerprint of events, vectors and attributes: 64 hexadecimal digits."""
        histories = self.histories
        digest = hashlib.sha256()
        for name, values in (
            ("items", _text(self.item_ids)),
            ("vectors", self.vectors.tobytes()),
            ("users", _text(histories.user_ids)),
            ("first", histories.first.tobytes()),
            ("item", histories.item.tobytes()),
            ("time", histories.time.tobytes()),
        ):
            digest.update(f"{name}\0{len(values)}\0".encode())
            digest.update(values)
        return digest.hexdigest()


class InterestEngine(Protocol):
    """Learns interest vectors once, and gives them at any moment."""

    def fit(self, data: InterestData) -> Diagnostics:
        """Train on the positives of ``data``."""
        ...

    def transform(self, data: InterestData) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of norm 1 [U, d] in the order of the histories, and which are valid [U]."""
        ...


def interest_data(frames: Frames, items: ItemVectors) -> InterestData:
    """Bring frames and item vectors into one order that does not depend on that of their rows."""
    ids = np.asarray(items.item_ids, dtype=object)
    nonzero = (np.asarray(items.x) != 0).any(axis=1)
    kept = np.flatnonzero(np.asarray(items.valid, dtype=bool) & nonzero)
    kept = kept[np.argsort(ids[kept], kind="stable")]
    item_ids = ids[kept]
    # +0.0: -0.0 and 0.0 are one number and must have one digest
    vectors = unit(np.asarray(items.x)[kept]) + np.float32(0.0)
    histories = read_histories(frames, item_ids)
    row = row_of(frames.users[USER_ID].to_numpy(object), histories.user_ids)
    users = frames.users.iloc[row].reset_index(drop=True)
    return InterestData(frames, item_ids, vectors, histories, users)


def items_frame(data: InterestData) -> pd.DataFrame:
    """Rows of ``frames.items`` in the order of ``data.item_ids``."""
    items = data.frames.items
    row = row_of(items[ITEM_ID].to_numpy(object), data.item_ids)
    return items.iloc[row].reset_index(drop=True)


def unit(x: NDArray[Any]) -> NDArray[np.float32]:
    """Rows divided by their norm; a row of zeros stays."""
    wide = np.asarray(x, np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, norm, out=np.zeros_like(wide), where=norm > 0).astype(np.float32)


def draw(units: Ints, n_targets: Ints, most: int | None, seed: int) -> Ints:
    """As many of ``units``, drawn at random, as have together at most ``most`` targets."""
    if most is None or n_targets[units].sum() <= most:
        return units
    order = np.random.default_rng([seed, 2]).permutation(units)
    n = int(np.searchsorted(np.cumsum(n_targets[order]), most, side="right"))
    return np.sort(order[: max(n, 1)])


def weights_key(parts: dict[str, Any]) -> str:
    """Name of the weights that these settings and inputs lead to: 16 hexadecimal digits."""
    return fingerprint_json(parts)


def weights_folder(cache_dir: str | Path | None) -> Path | None:
    """Where trained weights are kept, next to the cached embeddings."""
    return None if cache_dir is None else Path(cache_dir) / "interest"


def _text(ids: NDArray[np.object_]) -> bytes:
    return "\0".join(map(str, ids)).encode("utf-8", "surrogatepass")
