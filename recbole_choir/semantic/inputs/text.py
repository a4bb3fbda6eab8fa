"""Users by the embedding of their profile (paper 4.2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from recbole_choir.errors import DataError
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of


class TextInput:
    """The paper's input: a written profile, embedded.

    Nothing is fitted. A profile that did not change since an earlier snapshot comes from the
    encoder's cache. Where profiles are templates rather than a language model's,
    :class:`~.text_parts.TextPartsInput` knows more about behaviour.

    Args:
        encoder: Embeds the profiles.
        profiles: Writes them: frames to a series of texts with user ids as its index.
        show_progress: Show the encoder's progress bar.

    Attributes:
        texts: Profiles of the last ``transform``, in the order of its users; ``""`` where there
            is none, and then the user's vector is not valid.

    References:
        ChoirRec, section 4.2.1 and 4.2.2 (1).
    """

    def __init__(
        self,
        encoder: Encoder,
        profiles: Callable[[Frames], pd.Series],
        *,
        show_progress: bool = True,
    ) -> None:
        self.encoder = encoder
        self.profiles = profiles
        self.show_progress = show_progress
        self.texts: list[str] = []

    def fit(self, frames: Frames) -> TextInput:
        """Do nothing; returns itself."""
        return self

    def transform(self, frames: Frames) -> Vectors:
        """Embed the profiles written from what is known before ``frames.time``.

        Raises:
            DataError: A user has two profiles.
        """
        ids = user_ids_of(frames)
        written = self.profiles(frames)
        if not written.index.is_unique:
            twice = written.index[written.index.duplicated()][0]
            raise DataError(f"profiles: expected one text a user, got two of {twice!r}")
        row = pd.Index(written.index.to_numpy(dtype=object)).get_indexer(pd.Index(ids))
        texts = np.full(len(ids), "", dtype=object)
        texts[row >= 0] = written.fillna("").to_numpy(dtype=object)[row[row >= 0]]
        self.texts = texts.tolist()
        x = self.encoder.encode(self.texts, show_progress=self.show_progress)
        return Vectors(ids, x, (x != 0).any(axis=1))
