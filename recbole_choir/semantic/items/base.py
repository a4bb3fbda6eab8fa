"""What items are described by: the interface of all inputs, and what they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recbole_choir.semantic.frames.frames import ITEM_ID, Frames


class ItemVectors(NamedTuple):
    """One vector an item, in the order of ``frames.items``."""

    item_ids: NDArray[np.object_]  # [n]
    x: NDArray[np.float32]  # [n, d], zeros where not valid
    valid: NDArray[np.bool_]  # [n], False: nothing is known to describe this item by


class ItemInput(Protocol):
    """Turns what is known at a moment into one vector an item.

    What depends on the whole population (levels, factors, a projection) is fitted once, on the
    first snapshot, so that vectors of later snapshots and of new items mean the same.
    """

    def fit(self, frames: Frames) -> ItemInput:
        """Fit on the first snapshot; returns itself."""
        ...

    def transform(self, frames: Frames) -> ItemVectors:
        """Vectors of ``frames.items`` from the events strictly before ``frames.time``."""
        ...


def item_ids_of(frames: Frames) -> NDArray[np.object_]:
    """Ids of ``frames.items`` [n]."""
    return frames.items[ITEM_ID].to_numpy(dtype=object)
