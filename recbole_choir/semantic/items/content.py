"""Items by what is told about them, embedded."""

from __future__ import annotations

import numpy as np

from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items.base import ItemVectors, item_ids_of
from recbole_choir.semantic.items.prompts import ItemPrompts, Prompts


class ContentItems:
    """Embeddings of the items' prompts.

    What is fitted are the levels of the statistics alone. A prompt that did not change since an
    earlier snapshot comes from the encoder's cache.

    Args:
        encoder: Embeds texts, with pictures where the prompts name some.
        prompts: Writes them.
        show_progress: Show the encoder's progress bar.

    Attributes:
        prompts_of_last: Prompts of the last ``transform``, in the order of its items.

    References:
        AKT-Rec, section 3.1.1.
    """

    def __init__(
        self, encoder: Encoder, prompts: ItemPrompts, *, show_progress: bool = True
    ) -> None:
        self.encoder = encoder
        self.prompts = prompts
        self.show_progress = show_progress
        self.prompts_of_last = Prompts([], None, np.zeros(0, bool))
        self._last: ItemVectors | None = None

    def fit(self, frames: Frames) -> ContentItems:
        """Fit the levels of the statistics; returns itself."""
        self.prompts.fit(frames)
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        """Embed the prompts from what is known before ``frames.time``."""
        ids = item_ids_of(frames)
        now, before = self.prompts.write(frames), self.prompts_of_last
        same = now.texts == before.texts and now.pictures == before.pictures
        if not same or self._last is None or not np.array_equal(ids, self._last.item_ids):
            more = {} if now.pictures is None else {"pictures": now.pictures}
            x = self.encoder.encode(now.texts, self.show_progress, **more)
            # a picture that cannot be read, and no text next to it, is nothing
            self._last = ItemVectors(ids, x, now.valid & (x != 0).any(axis=1))
            self.prompts_of_last = now
        return self._last
