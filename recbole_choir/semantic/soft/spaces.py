"""Spaces in which users are similar: of behaviour, refitted at each snapshot, and of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.semantic.encode import Encoder
from recbole_choir.semantic.frames import ITEM_ID, LABEL, TIMESTAMP, USER_ID, Frames
from recbole_choir.semantic.grouping import aligned_vectors
from recbole_choir.semantic.inputs import BehaviourInput, GroupingInput, RandomInput, make_input
from recbole_choir.semantic.inputs.base import count_pairs, positions, unit_rows
from recbole_choir.semantic.recipe import Recipe
from recbole_choir.semantic.soft.settings import ITEMS, TEXT_SPACES, SoftRecipe

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

    def locate(self, frames: Frames, active: Bools) -> Located:
        """Put ``frames.users`` into the space, from the events strictly before ``frames.time``.

        Args:
            frames: What is known.
            active: bool [n], the users that may be neighbours.
        """
        ...


class BehaviourSpace:
    """Truncated SVD of log1p purchases, tf-idf weighted, rows of norm 1, fitted at each snapshot.

    Args:
        name: ``items``, or the item field whose values stand for the items.
        svd_dim: Dimensions.
        popularity: See :class:`~.inputs.behaviour.BehaviourInput`.
        seed: Of the iterative solver.
        own: Also give the vectors for own scores.
    """

    def __init__(
        self,
        name: str,
        svd_dim: int,
        popularity: Literal["centre", "drop", "keep"],
        seed: int,
        own: bool = False,
    ) -> None:
        self.name = name
        self.svd_dim = svd_dim
        self.popularity = popularity
        self.seed = seed
        self.own = own

    def locate(self, frames: Frames, active: Bools) -> Located:
        """See :class:`Space`.

        Raises:
            ConfigError: The items have no such field.
        """
        things = frames if self.name == ITEMS else _in_terms_of(frames, self.name)
        fitted = BehaviourInput(self.svd_dim, self.seed, popularity=self.popularity).fit(things)
        x, known = fitted.coordinates(things)
        unit = unit_rows(x)
        own = None
        if self.own:
            own = OwnVectors(x.astype(np.float32), self._item_vectors(frames, fitted))
        known = known & unit.any(axis=1)
        return Located(unit.astype(np.float32), known, own)

    def _item_vectors(self, frames: Frames, fitted: BehaviourInput) -> Float32:
        """The factor of each item, or the mean of those of its field's values."""
        names, factors = fitted.item_factors
        items = frames.items[ITEM_ID].reset_index(drop=True)
        if self.name == ITEMS:
            pairs = pd.DataFrame({"at": np.arange(len(items)), "value": items})
        else:
            pairs = _values_of(frames, self.name)
        what = positions(pairs["value"], names)
        counts = count_pairs(pairs["at"].to_numpy(), what, (len(items), len(names)))
        n = np.maximum(np.asarray(counts.sum(axis=1)), 1.0)
        return np.asarray((counts @ factors) / n, dtype=np.float32)


class InputSpace:
    """Vectors of a grouping input, fitted on the first snapshot, centred on the active users.

    Embeddings of texts lie close together; cosines tell users apart only around their mean.

    Args:
        name: Of the space.
        source: The input.
        centre: Subtract the mean of the active users.
    """

    def __init__(self, name: str, source: GroupingInput, centre: bool = True) -> None:
        self.name = name
        self.source = source
        self.centre = centre
        self._fitted = False

    def locate(self, frames: Frames, active: Bools) -> Located:
        """See :class:`Space`."""
        if not self._fitted:
            self.source, self._fitted = self.source.fit(frames), True
        x, known = aligned_vectors(self.source, frames)
        return _around(x, known, active if self.centre else np.zeros_like(known))


def make_spaces(
    recipe: Recipe,
    soft: SoftRecipe,
    encoder: Encoder | None,
    profiles: Callable[[Frames], pd.Series] | None = None,
    cache_dir: str | Path | None = None,
    device: str | None = None,
) -> list[Space]:
    """The spaces of a recipe.

    Args:
        recipe: The whole recipe: the seed, and what the text inputs read.
        soft: Its part about soft groups.
        encoder: For spaces of text.
        profiles: Who writes the profiles.
        cache_dir, device: Of an input that is trained.
    """
    if soft.control == "random":
        return [InputSpace("random", RandomInput(seed=recipe.seed), centre=False)]
    spaces: list[Space] = []
    for name in soft.spaces:
        if name in TEXT_SPACES:
            of_text = recipe.model_copy(update={"input": TEXT_SPACES[name]})
            source = make_input(
                of_text, encoder, profiles, False, cache_dir=cache_dir, device=device
            )
            spaces.append(InputSpace(name, source))
        else:
            spaces.append(
                BehaviourSpace(name, soft.svd_dim, soft.popularity, recipe.seed, soft.own_vectors)
            )
    return spaces


def side_by_side(parts: Sequence[Located]) -> Located:
    """Users in several spaces at once: a cosine is the mean of theirs where both have all.

    Args:
        parts: Of one snapshot.
    """
    x = unit_rows(np.concatenate([part.x for part in parts], axis=1)).astype(np.float32)
    return Located(x, np.logical_or.reduce([part.known for part in parts]))


def _around(x: Float32, known: Bools, of: Bools) -> Located:
    """Centred on the mean of some users, rows of norm 1."""
    middle = x[known & of].mean(axis=0) if (known & of).any() else np.zeros(x.shape[1])
    unit = unit_rows(np.where(known[:, None], x - middle, 0.0)).astype(np.float32)
    return Located(unit, known & unit.any(axis=1))


def _values_of(frames: Frames, field: str) -> pd.DataFrame:
    """``at`` (row of ``frames.items``) and ``value`` (text) of an item field, one row a value.

    Raises:
        ConfigError: The items have no such field.
    """
    known = [str(c) for c in frames.items.columns if c != ITEM_ID]
    if field not in known:
        names = [ITEMS, *TEXT_SPACES, *known]
        raise ConfigError(
            f"recipe.soft.spaces: expected any of {', '.join(names)}, got '{field}'"
            f"{nearest(field, names)}"
        )
    values = frames.items[field].reset_index(drop=True).explode().dropna()
    texts = values.astype(str).to_numpy(object)
    return pd.DataFrame({"at": values.index.to_numpy(np.int64), "value": texts})


def _in_terms_of(frames: Frames, field: str) -> Frames:
    """The purchases as purchases of the values of an item field."""
    values = _values_of(frames, field)
    ids = frames.items[ITEM_ID].to_numpy(object)
    values = pd.DataFrame({ITEM_ID: ids[values["at"]], "value": values["value"]})
    bought = frames.positives[[USER_ID, ITEM_ID, TIMESTAMP, LABEL]].merge(values, on=ITEM_ID)
    bought = bought.drop(columns=ITEM_ID).rename(columns={"value": ITEM_ID})
    things = pd.DataFrame({ITEM_ID: np.sort(values["value"].unique().astype(object))})
    return Frames(bought, frames.users, things, frames.time)
