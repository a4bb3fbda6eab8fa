"""What users are grouped by: the interface of all inputs, and what they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recbole_choir.semantic.frames.frames import USER_ID, Frames


class Vectors(NamedTuple):
    """One vector a user, in the order of ``frames.users``."""

    user_ids: NDArray[np.object_]  # [n]
    x: NDArray[np.float32]  # [n, d], zeros where not valid
    valid: NDArray[np.bool_]  # [n], False: nothing is known to group this user by


class GroupingInput(Protocol):
    """Turns what is known at a moment into one vector a user.

    What depends on the whole population (weights, a centre, factors) is fitted once, on the first
    snapshot, so that vectors of later snapshots and of new users mean the same.
    """

    def fit(self, frames: Frames) -> GroupingInput:
        """Fit on the first snapshot; returns itself."""
        ...

    def transform(self, frames: Frames) -> Vectors:
        """Vectors of ``frames.users`` from the events strictly before ``frames.time``."""
        ...


def user_ids_of(frames: Frames) -> NDArray[np.object_]:
    """Ids of ``frames.users`` [n]."""
    return frames.users[USER_ID].to_numpy(dtype=object)
