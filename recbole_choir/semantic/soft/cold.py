"""Users without purchases: similar to active users by their attributes, or a text about them."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.semantic.frames.frames import USER_ID, Frames
from recbole_choir.semantic.groups.users import aligned_vectors
from recbole_choir.semantic.inputs import GroupingInput
from recbole_choir.semantic.inputs.base import idf, unit_rows

Float32 = NDArray[np.float32]
#: A number is one of so many equal parts of the users.
PARTS: Final = 5


def attribute_vectors(frames: Frames) -> Float32:
    """Attributes as weighted words: float32 [n, d] unit rows, zeros for users without any.

    ::

        x_uw = log((1 + users) / (1 + users with w)),  w = (field, value)

    Numbers count as one of five equal parts of the users. What everybody shares has no weight.

    Args:
        frames: Its users alone are read, so that nothing here depends on a time.
    """
    parts = [np.zeros((len(frames.users), 0))]
    for field in frames.users.columns.drop(USER_ID):
        codes, values = pd.factorize(_words(frames.users[field]), sort=True)
        words = np.zeros((len(codes), len(values)))
        at = np.flatnonzero(codes >= 0)
        words[at, codes[at]] = 1.0
        parts.append(words * idf(len(codes), words.sum(axis=0)))
    return unit_rows(np.concatenate(parts, axis=1)).astype(np.float32)


def profile_vectors(frames: Frames, source: GroupingInput) -> Float32:
    """Embeddings of what can be said of users without any event, centred on their mean.

    Args:
        frames: Its users alone are read.
        source: Writes and embeds profiles.

    Returns:
        float32 [n, d] unit rows, zeros for users of whom nothing can be said.
    """
    nothing = Frames(frames.interactions.iloc[:0], frames.users, frames.items)
    x, known = aligned_vectors(source.fit(nothing), nothing)
    middle = x[known].mean(axis=0) if known.any() else np.zeros(x.shape[1])
    return unit_rows(np.where(known[:, None], x - middle, 0.0)).astype(np.float32)


def _words(values: pd.Series) -> pd.Series:
    if not pd.api.types.is_float_dtype(values):
        return values
    return pd.qcut(values, PARTS, labels=False, duplicates="drop")
