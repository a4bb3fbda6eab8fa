"""Soft groups of all users at all snapshots."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from tqdm import tqdm

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import ITEM_ID, USER_ID, Frames
from recbole_choir.semantic.frames.hashing import normal_of
from recbole_choir.semantic.frames.matrices import idf, unit_rows
from recbole_choir.semantic.groups.users import aligned_vectors
from recbole_choir.semantic.inputs import GroupingInput, make_input
from recbole_choir.semantic.soft.prototypes import (
    coordinates,
    memberships,
    nearest_weights,
    prototype_vectors,
)
from recbole_choir.semantic.soft.purchases import Purchases
from recbole_choir.semantic.soft.spaces import Located, Space, make_spaces, side_by_side
from recbole_choir.settings.recipe import Recipe
from recbole_choir.settings.soft import SoftRecipe
from recbole_choir.table_format import FACTORS, NEIGHBOURS, WIDTHS

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
    for name in frames.users.columns.drop(USER_ID):
        codes, values = pd.factorize(_words(frames.users[name]), sort=True)
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
        float32 [n, d] unit rows, zeros for users about which nothing is known.
    """
    nothing = Frames(frames.interactions.iloc[:0], frames.users, frames.items)
    x, known = aligned_vectors(source.fit(nothing), nothing)
    middle = x[known].mean(axis=0) if known.any() else np.zeros(x.shape[1])
    return unit_rows(np.where(known[:, None], x - middle, 0.0)).astype(np.float32)


def _words(values: pd.Series) -> pd.Series:
    if not pd.api.types.is_float_dtype(values):
        return values
    return pd.qcut(values, PARTS, labels=False, duplicates="drop")


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SoftContent:
    """The soft groups of a table.

    Args:
        kind: ``neighbours``, ``prototypes`` or ``factors``.
        width: K, of prototypes or factors; 0 for neighbours.
        users, items: Raw ids, what rows and columns stand for.
        weights: For each snapshot float32 ``[n_users, n_users]`` or ``[n_users, K]``.
        spaces: Space -> for each snapshot vectors of users and items for own scores, all of one
            width; empty if the recipe wants none.
        statistics: For each snapshot, who has weights and where from.
    """

    kind: str
    width: int
    users: NDArray[np.object_]
    items: NDArray[np.object_]
    weights: list[csr_matrix]
    spaces: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = field(
        default_factory=dict
    )
    statistics: list[dict[str, Any]] = field(default_factory=list)

    def said(self) -> dict[str, Any]:
        """What the manifest says of the groups."""
        said = {"kind": self.kind}
        return said if self.kind == NEIGHBOURS else {**said, WIDTHS[self.kind]: self.width}

    def parts(self) -> dict[str, Any]:
        """What enters the table's fingerprint."""
        ids = "\0".join([*self.users, "", *self.items])
        digest = hashlib.sha256(ids.encode("utf-8", "surrogatepass"))
        for matrix in self.weights:
            for array in (matrix.indptr, matrix.indices):
                digest.update(array.astype("<i8").tobytes())
            digest.update(matrix.data.astype("<f4").tobytes())
        for name in sorted(self.spaces):
            digest.update(name.encode())
            for pair in self.spaces[name]:
                for vectors in pair:
                    digest.update(vectors.astype("<f4").tobytes())
        return {**self.said(), "weights": digest.hexdigest()}


def soft_groups(
    frames: Frames,
    moments: NDArray[np.float64],
    recipe: Recipe,
    encoder: Encoder | None = None,
    profiles: Callable[[Frames], pd.Series] | None = None,
    *,
    cache_dir: str | Path | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> SoftContent:
    """Make the soft groups of a recipe, each snapshot from the events strictly before it.

    ::

        spaces of the active users  ->  neighbours, or prototypes and memberships, or coordinates
        users that no space knows   ->  weights over the active users most like them by attributes
                                        (otherwise the mean of those users' memberships)

    Args:
        frames: All interactions, users and items.
        moments: Times of the snapshots.
        recipe: With ``soft`` set.
        encoder: For spaces and profiles of text.
        profiles: Who writes the profiles; by default the template.
        cache_dir, device: Of an input that is trained.
        show_progress: Show a progress bar.

    Raises:
        ConfigError: The recipe makes no soft groups, or names a space that there is not.
    """
    soft = recipe.soft
    if soft is None:
        raise ConfigError("recipe.soft: expected how soft groups are made, got null")
    spaces = make_spaces(frames, recipe, soft, encoder, profiles, cache_dir, device)
    purchases = Purchases.of(frames)
    cold = _cold(frames, recipe, soft, encoder)
    users = frames.users[USER_ID].to_numpy(object)
    items = frames.items[ITEM_ID].to_numpy(object)
    weights: list[csr_matrix] = []
    own: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
    statistics: list[dict[str, Any]] = []
    bar = tqdm(moments, desc="soft groups", unit="snapshot", disable=not show_progress)
    for index, moment in enumerate(bar):
        counts = purchases.before(float(moment))
        active = np.asarray(counts.sum(axis=1)).reshape(-1) >= soft.min_purchases
        located = [space.locate(float(moment), counts, active) for space in spaces]
        # With random weights, spaces of behaviour are there for own scores alone.
        similar = located[-1:] if soft.control == "random" else located
        matrix, figures = _weights(similar, active, soft, recipe.seed, cold)
        if soft.control == "permuted":
            matrix = permuted(matrix, users, recipe.seed, square=soft.kind == NEIGHBOURS)
        weights.append(matrix.astype(np.float32))
        statistics.append({"snapshot": index + 1, **figures})
        if figures["users"] == 0:
            logger.warning(
                "snapshot %d: no user has a soft group: %d of %d users have %d purchases or more",
                index + 1, int(active.sum()), len(active), soft.min_purchases,
            )  # fmt: skip
        for space, part in _named_own(spaces, located):
            own.setdefault(space, []).append(part)
    width = 0
    if soft.kind != NEIGHBOURS:  # a space of an early snapshot may have fewer dimensions
        width = max(matrix.shape[1] for matrix in weights)
        for matrix in weights:
            matrix.resize(matrix.shape[0], width)
    return SoftContent(
        soft.kind,
        width,
        users,
        items,
        weights,
        {name: _one_width(parts) for name, parts in own.items()},
        statistics,
    )


def permuted(matrix: csr_matrix, users: NDArray[np.object_], seed: int, square: bool) -> csr_matrix:
    """Give each user that has weights another such user's: a control that keeps everything else.

    Users are ordered by chance, the same at every snapshot, and each takes the weights of the one
    before it. A user never counts for itself.

    Args:
        matrix: ``[n, width]``.
        users: Raw ids ``[n]``.
        seed: Of the order.
        square: Columns are users.
    """
    has = np.flatnonzero(np.diff(matrix.indptr) > 0)
    chance = normal_of(users[has], 1, seed + 1)[:, 0]
    order = has[np.lexsort((users[has].astype(str), chance))]
    source = np.arange(len(users))
    source[order] = np.roll(order, 1)
    out = matrix[source]
    if square:
        out = out - diags(out.diagonal(), format="csr")
        out.eliminate_zeros()
    return csr_matrix(out)


def _weights(
    located: list[Located],
    active: NDArray[np.bool_],
    soft: SoftRecipe,
    seed: int,
    cold: NDArray[np.float32] | None,
) -> tuple[csr_matrix, dict[str, Any]]:
    """Weights of one snapshot, and who has them."""
    here = side_by_side(located)
    members = np.flatnonzero(active & here.known)
    known, unknown = np.flatnonzero(here.known), np.flatnonzero(~here.known)
    if not len(members):
        known = unknown = known[:0]
    if soft.kind == NEIGHBOURS:
        matrix = nearest_weights(here.x, known, members, soft.k, soft.power)
    elif soft.kind == FACTORS:
        matrix = coordinates(here.x, known)
    else:
        width = soft.n_prototypes
        matrix = csr_matrix((len(active), width))
        if len(members):
            centres = prototype_vectors(here.x[members], width, seed)
            matrix = memberships(here.x, known, centres, soft.temperature, width)
    if cold is not None and len(unknown):
        unknown = unknown[cold[unknown].any(axis=1)]
        like = nearest_weights(cold, unknown, members, soft.k, soft.power)
        matrix = matrix + (like if soft.kind == NEIGHBOURS else _mean_rows(like) @ matrix)
    matrix = csr_matrix(matrix)
    matrix.sort_indices()
    length = np.diff(matrix.indptr)
    return matrix, {
        "active": len(members),
        "users": int((length > 0).sum()),
        "users_by_cold": int((length[unknown] > 0).sum()),
        "mean_members": float(length[length > 0].mean()) if (length > 0).any() else 0.0,
    }


def _mean_rows(weights: csr_matrix) -> csr_matrix:
    """Rows of sum 1; rows without weights stay empty."""
    total = np.asarray(weights.sum(axis=1)).reshape(-1)
    return diags(np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)) @ weights


def _cold(
    frames: Frames, recipe: Recipe, soft: SoftRecipe, encoder: Encoder | None
) -> NDArray[np.float32] | None:
    """Where users are before any event of theirs: the same at every snapshot."""
    if soft.cold == "none":
        return None
    if soft.cold == "attributes":
        return attribute_vectors(frames)
    # What can be said of a user without events is the same text whoever writes the others.
    by_template = {"engine": "template"}
    of_text = recipe.model_copy(
        update={
            "input": "text",
            "profile_engine": "template",
            "profile": recipe.profile.model_copy(update=by_template),
        }
    )
    source = make_input(of_text, encoder, show_progress=False)
    return profile_vectors(frames, source)


def _named_own(
    spaces: list[Space], located: list[Located]
) -> list[tuple[str, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
    return [
        (space.name, (part.own.users, part.own.items))
        for space, part in zip(spaces, located)
        if part.own is not None
    ]


def _one_width(
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Vectors of all snapshots as wide as the widest, with zeros behind: products stay."""
    width = max(users.shape[1] for users, _ in parts)

    def wide(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.pad(x, ((0, 0), (0, width - x.shape[1])))

    return [(wide(users), wide(items)) for users, items in parts]
