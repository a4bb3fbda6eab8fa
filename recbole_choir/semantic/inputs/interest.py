"""Users by what they are likely to choose next (AKT-Rec 3.1.1, Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.inputs.base import Vectors, user_ids_of
from recbole_choir.semantic.interest.data import (
    InterestData,
    InterestEngine,
    interest_data,
)
from recbole_choir.semantic.interest.diagnostics import Diagnostics
from recbole_choir.semantic.interest.history import row_of
from recbole_choir.semantic.interest.llm import LLMEngine
from recbole_choir.semantic.interest.transformer import TransformerEngine
from recbole_choir.semantic.items.base import ItemVectors
from recbole_choir.settings.recipe import InterestRecipe


class InterestInput:
    """A user's vector is what a sequence model expects the next chosen item's vector to be.

    ::

        L_u = -cos(e_hat, e_t) + cross-entropy of the item's category          (Eq. 2)

    The model is trained once, on the positives before the first snapshot; e_t is the item's
    semantic vector. At every snapshot a user's vector is the e_hat, divided by its norm, that
    follows from the events before it. Users without such events are told by their attributes; users
    without those either are not valid.

    Args:
        item_vectors: The fitted item input's ``transform``: frames to vectors of items.
        settings: Engine, network and training.
        seed: Seed of everything random.
        cache_dir: Where trained weights are kept, so that neither an equal run nor one that was
            killed begins again; nowhere if None.
        device: Torch device of the model; its own choice if None.
        show_progress: Show a progress bar.

    Attributes:
        diagnostics: What training did, after ``fit``.

    References:
        AKT-Rec, section 3.1.1, Eq. 2; docs/gaps.md A11.
    """

    def __init__(
        self,
        item_vectors: Callable[[Frames], ItemVectors],
        settings: InterestRecipe | None = None,
        seed: int = 0,
        *,
        cache_dir: str | Path | None = None,
        device: str | None = None,
        show_progress: bool = True,
    ) -> None:
        self.item_vectors = item_vectors
        self.settings = settings or InterestRecipe()
        kind = LLMEngine if self.settings.engine == "llm" else TransformerEngine
        self.engine: InterestEngine = kind(
            self.settings, seed, cache_dir=cache_dir, device=device, show_progress=show_progress
        )
        self.diagnostics: Diagnostics | None = None

    def fit(self, frames: Frames) -> InterestInput:
        """Train on the positives before ``frames.time``; without any, no user is valid."""
        self.diagnostics = self.engine.fit(self._data(frames))
        return self

    def transform(self, frames: Frames) -> Vectors:
        """Vectors from the events before ``frames.time``."""
        if self.diagnostics is None:
            raise DataError("interest: expected a fitted input, got none: call fit first")
        data = self._data(frames)
        x, valid = self.engine.transform(data)
        ids = user_ids_of(frames)
        row = row_of(data.histories.user_ids, ids)
        return Vectors(ids, x[row], valid[row])

    def _data(self, frames: Frames) -> InterestData:
        return interest_data(frames, self.item_vectors(frames))
