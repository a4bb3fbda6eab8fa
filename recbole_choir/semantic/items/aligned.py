"""Items by their content, aligned with what is chosen together (AKT-Rec 3.1.1, Eq. 1)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items.alignment import AlignedHead
from recbole_choir.semantic.items.base import ItemVectors, item_ids_of
from recbole_choir.semantic.items.content import ContentItems
from recbole_choir.semantic.items.cooccurrence import cooccurring, frequent
from recbole_choir.semantic.items.tuning import AlignedEncoder
from recbole_choir.settings.recipe import AlignmentRecipe

logger = logging.getLogger(__name__)


class AlignedItems:
    """Content vectors, aligned by InfoNCE over pairs of items that users chose together.

    Fitted once, on the first snapshot: pairs, levels, projection or encoder. Later snapshots and
    new items go through what was fitted. Without any pair the vectors are those of the projection
    as it starts, which is unaligned, with a log line.

    Args:
        content: Prompts and encoder.
        recipe: How to align, see :class:`~recbole_choir.settings.recipe.AlignmentRecipe`.
        seed: Of everything random.
        show_progress: Show progress bars.

    Attributes:
        report: After ``fit``: pairs, the epoch kept, hit rates of held-out pairs before and
            after, and those of popularity alone.

    References:
        AKT-Rec, section 3.1.1, Eq. 1; docs/gaps.md A12.
    """

    def __init__(
        self,
        content: ContentItems,
        recipe: AlignmentRecipe,
        seed: int = 0,
        *,
        show_progress: bool = True,
    ) -> None:
        self.content = content
        self.recipe = recipe
        self.seed = seed
        self.show_progress = show_progress
        self.report: dict[str, Any] = {}
        self._head: AlignedHead | None = None
        self._tuned: AlignedEncoder | None = None

    def fit(self, frames: Frames) -> AlignedItems:
        """Mine pairs before ``frames.time`` and train on them."""
        vectors = self.content.fit(frames).transform(frames)
        # by item id: nothing depends on the order of the items
        order = np.argsort(vectors.item_ids, kind="stable")
        ids, x, valid = vectors.item_ids[order], vectors.x[order], vectors.valid[order]
        pairs = cooccurring(frames, ids, self.recipe.window)
        pairs = pairs.take(valid[pairs.first] & valid[pairs.second])
        pairs = frequent(pairs, self.recipe.min_count, self.recipe.max_pairs)
        if self.recipe.method == "head":
            self._head = AlignedHead(
                self.recipe,
                self.seed,
                self.content.encoder.cache_dir,
                show_progress=self.show_progress,
            ).fit(x, valid, pairs)
            self.report = self._head.report
        else:
            prompts = self.content.prompts_of_last
            texts = [prompts.texts[i] for i in order]
            pictures = None
            if prompts.pictures is not None:
                pictures = [prompts.pictures[i] for i in order]
            self._tuned = AlignedEncoder(
                self.content.encoder, self.recipe, self.seed, show_progress=self.show_progress
            )
            self._tuned.fit(texts, pictures, pairs)
            self.report = self._tuned.report
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        """Aligned vectors of ``frames.items`` from what is known before ``frames.time``."""
        if self._head is not None:
            content = self.content.transform(frames)
            order = np.argsort(content.item_ids, kind="stable")
            x = np.zeros((len(order), self.recipe.dim), np.float32)
            x[order] = self._head.project(content.x[order])
            return ItemVectors(content.item_ids, x, content.valid)
        if self._tuned is None:
            raise DataError("aligned: expected a fitted input, got none: call fit first")
        prompts = self.content.prompts.write(frames)
        x = self._tuned.encode(prompts.texts, prompts.pictures)
        return ItemVectors(item_ids_of(frames), x, prompts.valid & (x != 0).any(axis=1))
