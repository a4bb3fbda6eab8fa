"""Users by their text, aligned with what they choose (AKT-Rec 3.1.1, Eq. 1, applied to users)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import ITEM_ID, USER_ID, Frames
from recbole_choir.semantic.frames.matrices import idf
from recbole_choir.semantic.inputs.base import GroupingInput, Vectors, user_ids_of
from recbole_choir.semantic.inputs.text import TextInput
from recbole_choir.semantic.items.alignment import AlignedHead
from recbole_choir.semantic.items.cooccurrence import Pairs, frequent
from recbole_choir.semantic.items.tuning import AlignedEncoder
from recbole_choir.settings.recipe import AlignmentRecipe

Ints = NDArray[np.int64]


def user_pairs(
    users: NDArray[np.integer], items: NDArray[np.integer], n_users: int, draws: int, seed: int
) -> Pairs:
    """Draw pairs of users through the items that both chose.

    ::

        event (u, i)    drawn with probability ~ idf_i / sum of idf over u's items
        partner v       drawn alike from the other users of i

    So every user is drawn alike often, whatever was chosen, and a pair is the likelier the more
    items it shares and the rarer these are: an item of n users gives each pair of them weight
    idf / (n - 1). What everybody chose pairs nobody. No user x user matrix is made: memory and time
    are linear in events and pairs.

    Args:
        users: int [E] row of each positive's user, in any order.
        items: int [E] row of its item.
        n_users: Users in all.
        draws: Pairs to draw, with replacement.
        seed: Of the draws.

    Returns:
        The pairs that were drawn, each once, with the number of times; none where no two users
        share an item.

    References:
        AKT-Rec, section 3.1.1, Eq. 1, applied to users.
    """
    # each (user, item) once, sorted by item, then user
    key = np.unique(np.asarray(items, np.int64) * n_users + np.asarray(users, np.int64))
    item, user = np.divmod(key, n_users)
    new = np.ones(len(key), bool)
    new[1:] = item[1:] != item[:-1]
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(key)))  # users of each item
    of_event = np.repeat(np.arange(len(first)), size)
    weight = np.where(size > 1, idf(len(np.unique(user)), size), 0.0)[of_event]
    total = np.bincount(user, weight, minlength=n_users)
    weight = np.divide(weight, total[user], out=np.zeros_like(weight), where=total[user] > 0)
    reach = np.cumsum(weight)
    if len(reach) == 0 or reach[-1] <= 0 or draws < 1:
        return Pairs(*(np.zeros(0, np.int64) for _ in range(3)))
    rng = np.random.default_rng([seed, 3])
    at = np.searchsorted(reach, rng.random(draws) * reach[-1], side="right")
    at = np.minimum(at, np.flatnonzero(weight > 0)[-1])  # rounding may point past the end
    start, count = first[of_event[at]], size[of_event[at]]
    # one of the others: a step of 1 .. count - 1 around the item's users
    step = 1 + (rng.random(draws) * (count - 1)).astype(np.int64)
    other = start + (at - start + np.minimum(step, count - 1)) % count
    low, high = np.minimum(user[at], user[other]), np.maximum(user[at], user[other])
    pair, count = np.unique(low * n_users + high, return_counts=True)
    return Pairs(pair // n_users, pair % n_users, count.astype(np.int64))


logger = logging.getLogger(__name__)

#: Pairs drawn for every positive.
DRAWS: Final = 3


class AlignedInput:
    """Text vectors, projected so that users who choose the same items come close.

    ::

        x_u = [text vectors of u]                      profile, names of what was bought, or both
        z_u = head(x_u) / |head(x_u)|                  trained by InfoNCE (Eq. 1) on pairs (u, v)

    Pairs are drawn through the items that both chose before the first snapshot, rare items before
    common ones (:func:`.user_pairs.user_pairs`). The projection is fitted once and reads text
    alone: users who come later, and those with attributes and nothing else, are projected
    like everybody. Users without a text are not valid. Without any pair the vectors are the text's
    principal components, with a log line.

    Args:
        sources: Give the text vectors; where one knows nothing of a user, its part is 0.
        recipe: Of the alignment. ``window`` is not read; ``min_count`` and ``max_pairs`` are of the
            times a pair is drawn. ``lora`` and ``full`` train the encoder on the profiles.
        seed: Of the pairs and the training.
        encoder: For ``lora`` and ``full``.
        cache_dir: Where trained weights are kept; nowhere if None.
        show_progress: Show progress bars.

    Attributes:
        report: After ``fit``: pairs, the epoch kept, hit rates of held-out pairs before and
            after, and those of popularity alone.
        texts: Profiles of the last ``transform``; there where a source writes some.

    Raises:
        ConfigError: The encoder is to be trained, and there is none, or something else than
            profiles to train it on.

    References:
        AKT-Rec, section 3.1.1, Eq. 1; docs/gaps.md A12.
    """

    def __init__(
        self,
        sources: Sequence[GroupingInput],
        recipe: AlignmentRecipe | None = None,
        seed: int = 0,
        *,
        encoder: Encoder | None = None,
        cache_dir: str | Path | None = None,
        show_progress: bool = True,
    ) -> None:
        self.sources = list(sources)
        self.recipe = recipe or AlignmentRecipe()
        self.seed = seed
        self.encoder = encoder
        self.cache_dir = cache_dir
        self.show_progress = show_progress
        self.report: dict[str, Any] = {}
        self._head: AlignedHead | None = None
        self._tuned: AlignedEncoder | None = None
        self._profiles = next((s for s in self.sources if isinstance(s, TextInput)), None)
        alone = len(self.sources) == 1 and self._profiles is not None
        if self.recipe.method != "head" and (encoder is None or not alone):
            raise ConfigError(
                f"alignment.method '{self.recipe.method}' trains the encoder on the profiles: "
                "expected aligned_text 'profile', got another"
            )

    @property
    def texts(self) -> list[str] | None:
        """Profiles of the last ``transform``, None where no source writes any."""
        return None if self._profiles is None else self._profiles.texts

    def fit(self, frames: Frames) -> AlignedInput:
        """Draw pairs from the positives before ``frames.time`` and train on them."""
        for source in self.sources:
            source.fit(frames)
        x, valid = self._vectors(frames)
        ids = user_ids_of(frames)
        order = np.argsort(ids, kind="stable")  # nothing depends on the order of the users
        ids, x, valid = ids[order], x[order], valid[order]
        # Who did nothing yet is no part of the population that the projection is fitted on.
        valid = valid & pd.Index(ids).isin(frames.interactions[USER_ID].to_numpy(object))
        pairs = self._pairs(frames, ids, valid)
        if self.recipe.method == "head" or self._profiles is None or self.encoder is None:
            self._head = AlignedHead(
                self.recipe,
                self.seed,
                self.cache_dir,
                what="users",
                show_progress=self.show_progress,
            ).fit(x, valid, pairs)
            self.report = self._head.report
            return self
        texts = np.asarray(self._profiles.texts, object)[order]
        self._tuned = AlignedEncoder(
            self.encoder, self.recipe, self.seed, show_progress=self.show_progress
        ).fit(np.where(valid, texts, "").tolist(), None, pairs)
        self.report = self._tuned.report
        return self

    def transform(self, frames: Frames) -> Vectors:
        """Project the text vectors of what is known before ``frames.time``."""
        x, valid = self._vectors(frames)
        ids = user_ids_of(frames)
        order = np.argsort(ids, kind="stable")
        z = np.zeros((len(ids), self.recipe.dim), np.float32)
        if self._tuned is not None:
            z[order] = self._tuned.encode(np.asarray(self.texts, object)[order].tolist())
        elif self._head is not None:
            z[order] = self._head.project(x[order])
        else:
            raise DataError("aligned: expected a fitted input, got none: call fit first")
        z = np.where(valid[:, None], z, np.float32(0))
        return Vectors(ids, z, valid & (z != 0).any(axis=1))

    def _vectors(self, frames: Frames) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Parts side by side [n, sum of d], and users with at least one of them [n]."""
        parts = [source.transform(frames) for source in self.sources]
        # Each part has norm 1 or 0: together at most 1, and a part means the same next to another.
        x = np.concatenate([part.x for part in parts], axis=1) / np.sqrt(len(parts))
        return x.astype(np.float32), np.any([part.valid for part in parts], axis=0)

    def _pairs(self, frames: Frames, ids: NDArray[np.object_], valid: NDArray[np.bool_]) -> Pairs:
        rows = frames.positives
        user = pd.Index(ids).get_indexer(pd.Index(rows[USER_ID].to_numpy(object)))
        item, _ = pd.factorize(rows[ITEM_ID].to_numpy(object), sort=True)
        known = (user >= 0) & valid[user]
        drawn = user_pairs(user[known], item[known], len(ids), DRAWS * int(known.sum()), self.seed)
        return frequent(drawn, self.recipe.min_count, self.recipe.max_pairs)
