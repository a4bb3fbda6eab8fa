"""Spaces in which users are similar: of behaviour, refitted at each snapshot, and of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.utils.extmath import randomized_svd

from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.frames.matrices import idf, unit_rows
from recbole_choir.semantic.groups.users import aligned_vectors
from recbole_choir.semantic.inputs import GroupingInput, RandomInput, make_input
from recbole_choir.semantic.soft.purchases import values_of_items
from recbole_choir.settings.recipe import Recipe
from recbole_choir.settings.soft import TEXT_SPACES, SoftRecipe

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class OwnVectors:
    """Vectors whose product is a user's own score of an item.

    Args:
        users: float32 [n_users, d], in the order of ``frames.users``.
        items: float32 [n_items, d], in the order of ``frames.items``.
    """

    users: Float32
    items: Float32


@dataclass(frozen=True)
class Located:
    """Users in a space at a snapshot.

    Args:
        x: float32 [n, d], rows of norm 1, zeros where not known.
        known: bool [n].
        own: Vectors for own scores; None in a space without items.
    """

    x: Float32
    known: Bools
    own: OwnVectors | None = None


class Space(Protocol):
    """One space; called once a snapshot, in order of time."""

    name: str

    def locate(self, moment: float, counts: csr_matrix, active: Bools) -> Located:
        """Put users into the space, from the events strictly before a moment.

        Args:
            moment: Epoch seconds.
            counts: Purchases before it, ``[n_users, n_items]``.
            active: bool [n], the users that may be neighbours.
        """
        ...


class BehaviourSpace:
    """Truncated SVD of what users bought, fitted at each snapshot.

    ::

        X_ut = log1p(purchases of t by u) * log((1 + users) / (1 + users with t)),  rows of norm 1
        X ~ U S V^T,   x_u = X_u V, divided by its norm

    Args:
        name: ``items``, or the item field whose values stand for the items.
        values: ``[n_items, n_values]`` which values each item has.
        svd_dim: Dimensions; fewer where there are fewer users or values.
        drop_first: Leave out the leading component, which holds popularity.
        seed: Of the randomised solver.
        own: Also give the vectors for own scores: ``X_u V``, and V of the item (the mean of its
            values).

    References:
        Halko, Martinsson and Tropp (2011), the solver, of scikit-learn.
    """

    def __init__(
        self,
        name: str,
        values: csr_matrix,
        svd_dim: int,
        drop_first: bool = False,
        seed: int = 0,
        own: bool = False,
    ) -> None:
        self.name = name
        self.values = values
        self.svd_dim = svd_dim
        self.drop_first = drop_first
        self.seed = seed
        self.own = own

    def locate(self, moment: float, counts: csr_matrix, active: Bools) -> Located:
        """See :class:`Space`."""
        x = _weighted(csr_matrix(counts @ self.values))
        factors = self._factors(x)  # [n_values, d]
        users = np.asarray(x @ factors)
        unit = unit_rows(users).astype(np.float32)
        own = None
        if self.own:
            n = np.maximum(np.asarray(self.values.sum(axis=1)), 1.0)
            items = np.asarray((self.values @ factors) / n, dtype=np.float32)
            own = OwnVectors(users.astype(np.float32), items)
        return Located(unit, np.asarray(unit.any(axis=1)), own)

    def _factors(self, x: csr_matrix) -> NDArray[np.float64]:
        skipped = int(self.drop_first)
        wanted = min(self.svd_dim + skipped, *x.shape)
        if x.nnz == 0:  # nothing was bought, or everything by everyone
            return np.zeros((x.shape[1], 1))
        _, values, right = randomized_svd(x, wanted, random_state=self.seed)
        right = right[: int((values > 1e-9 * values[0]).sum())]
        right = right[min(skipped, len(right) - 1) :]  # where there is one component, it stays
        return np.ascontiguousarray(right.T)


class InputSpace:
    """Vectors of a grouping input, fitted on the first snapshot, centred on the active users.

    Embeddings of texts lie close together; cosines tell users apart only around their mean.

    Args:
        name: Of the space.
        source: The input.
        frames: All interactions, users and items.
        centre: Subtract the mean of the active users.
    """

    def __init__(
        self, name: str, source: GroupingInput, frames: Frames, centre: bool = True
    ) -> None:
        self.name = name
        self.source = source
        self.frames = frames
        self.centre = centre
        self._fitted = False

    def locate(self, moment: float, counts: csr_matrix, active: Bools) -> Located:
        """See :class:`Space`."""
        before = self.frames.before(moment)
        if not self._fitted:
            self.source, self._fitted = self.source.fit(before), True
        x, known = aligned_vectors(self.source, before)
        return _around(x, known, active if self.centre else np.zeros_like(known))


def make_spaces(
    frames: Frames,
    recipe: Recipe,
    soft: SoftRecipe,
    encoder: Encoder | None,
    profiles: Callable[[Frames], pd.Series] | None = None,
    cache_dir: str | Path | None = None,
    device: str | None = None,
) -> list[Space]:
    """The spaces of a recipe.

    Args:
        frames: All interactions, users and items.
        recipe: The whole recipe: the seed, and what the text inputs read.
        soft: Its part about soft groups.
        encoder: For spaces of text.
        profiles: Who writes the profiles.
        cache_dir, device: Of an input that is trained.

    Raises:
        ConfigError: There is no such space.
    """
    random = InputSpace("random", RandomInput(seed=recipe.seed), frames, centre=False)
    spaces: list[Space] = []
    for name in soft.spaces:
        if name in TEXT_SPACES:
            if soft.control == "random":
                continue
            of_text = recipe.model_copy(update={"input": TEXT_SPACES[name]})
            source = make_input(
                of_text, encoder, profiles, False, cache_dir=cache_dir, device=device
            )
            spaces.append(InputSpace(name, source, frames))
        elif soft.control != "random" or soft.own_vectors:
            values = values_of_items(frames, name)
            spaces.append(
                BehaviourSpace(
                    name, values, soft.svd_dim, soft.drop_first, recipe.seed, soft.own_vectors
                )
            )
    return [*spaces, random] if soft.control == "random" else spaces


def side_by_side(parts: Sequence[Located]) -> Located:
    """Users in several spaces at once: a cosine is the mean of theirs where both have all.

    Args:
        parts: Of one snapshot.
    """
    x = unit_rows(np.concatenate([part.x for part in parts], axis=1)).astype(np.float32)
    return Located(x, np.logical_or.reduce([part.known for part in parts]))


def _weighted(counts: csr_matrix) -> csr_matrix:
    """log1p, idf, rows of norm 1."""
    bought = np.diff(counts.indptr) > 0
    weights = idf(int(bought.sum()), np.bincount(counts.indices, minlength=counts.shape[1]))
    x = csr_matrix(counts, dtype=np.float64, copy=True)
    x.data = np.log1p(x.data) * weights[x.indices]
    norm = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).reshape(-1))
    return csr_matrix(diags(np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)) @ x)


def _around(x: Float32, known: Bools, of: Bools) -> Located:
    """Centred on the mean of some users, rows of norm 1."""
    middle = x[known & of].mean(axis=0) if (known & of).any() else np.zeros(x.shape[1])
    unit = unit_rows(np.where(known[:, None], x - middle, 0.0)).astype(np.float32)
    return Located(unit, known & unit.any(axis=1))
