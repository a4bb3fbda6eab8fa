"""Codes for every user at every snapshot: fit once, then encode (paper 4.2.2)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_choir.errors import DataError
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.inputs import GroupingInput, make_input
from recbole_choir.semantic.items.source import ItemSource, report_of
from recbole_choir.semantic.quantizers.base import Quantizer
from recbole_choir.semantic.quantizers.fitting import (
    fit_quantizer,
    make_quantizer,
    quantizer_report,
)
from recbole_choir.settings.recipe import GroupingRecipe
from recbole_choir.table_format import NO_CODE, SNAPSHOT, USER_ID

logger = logging.getLogger(__name__)

#: Distinct vectors per codeword that a fit wants of users who have done something.
MIN_PER_CODEWORD = 10


@dataclass
class Grouping:
    """Codes of all users at all snapshots.

    Args:
        codes: int32 [S, n_users, M]; -1 where a user has none.
        quantizer: The codebooks; those of the last snapshot if they are fitted again each time.
        n_clusters: Codewords at each level.
        fitted_on: Distinct vectors that the first codebooks were fitted on.
        embeddings: float32 [n_users, d] at the last snapshot; zeros where there is none.
        profiles: ``snapshot``, ``user_id``, ``text`` of the profiles that are new at a snapshot;
            None for inputs without text.
        fit: How well the first codebooks fit, of :func:`~.fitting.quantizer_report`.
        report: What the input says of its fit; None where it says nothing.
    """

    codes: NDArray[np.int32]
    quantizer: Quantizer
    n_clusters: list[int]
    fitted_on: int
    embeddings: NDArray[np.float32]
    profiles: pd.DataFrame | None
    fit: dict[str, Any]
    report: dict[str, Any] | None


def group_users(
    frames: Frames,
    moments: NDArray[np.float64],
    recipe: GroupingRecipe,
    encoder: Encoder | None,
    show_progress: bool = True,
    profiles: Callable[[Frames], pd.Series] | None = None,
    *,
    items: ItemSource | None = None,
    cache_dir: str | Path | None = None,
    device: str | None = None,
) -> Grouping:
    """Group the users of ``frames`` at each moment from the events strictly before it.

    Args:
        frames: All interactions, users and items.
        moments: Times of the snapshots.
        recipe: Input, quantiser, number of levels and codewords, seed.
        encoder: For inputs that embed text; unchanged texts come from its cache.
        show_progress: Show a progress bar.
        profiles: Who writes the profiles, frames to texts by user id; by default the template.
        items: Vectors of items, for inputs that learn from them.
        cache_dir: Where what was trained is kept; nowhere if None.
        device: Torch device of what is trained.

    Raises:
        DataError: No user has a vector at the first snapshot.
    """
    n_users = len(frames.users)
    codes = np.full((len(moments), n_users, recipe.n_levels), NO_CODE, np.int32)
    source: GroupingInput | None = None
    quantizer: Quantizer | None = None
    fit: dict[str, Any] = {}
    n_clusters: list[int] = []
    fitted_on = 0
    written = _Profiles()
    embeddings = np.zeros((n_users, 0), np.float32)
    bar = tqdm(moments, desc="snapshots", unit="snapshot", disable=not show_progress)
    for index, moment in enumerate(bar):
        before = frames.before(float(moment))
        if source is None or recipe.codebooks == "per_snapshot":
            if items is not None:
                items.fit(before)  # fitted as the users are: on nothing later
            source = make_input(
                recipe,
                encoder,
                profiles,
                show_progress,
                item_vectors=None if items is None else items.transform,
                cache_dir=cache_dir,
                device=device,
            ).fit(before)
        x, valid = aligned_vectors(source, before)
        if quantizer is None or recipe.codebooks == "per_snapshot":
            if not valid.any():
                raise DataError(
                    f"snapshot {index + 1}: expected users with something to be grouped by "
                    f"(input {recipe.input}), got none before time {moment:.0f}"
                )
            # From all users, also those without a vector yet: the codewords serve later snapshots
            # too, and random groups, the control, get as many as any other input.
            n_clusters = recipe.clusters_for(n_users)
            distinct = _to_fit_on(x, valid, before, n_clusters)
            fitted_on = fitted_on or len(distinct)
            made = make_quantizer(
                recipe.quantizer,
                recipe.n_levels,
                n_clusters,
                recipe.seed,
                recipe.rqvae,
                device=device,
                show_progress=show_progress,
            )
            quantizer = fit_quantizer(made, distinct, cache_dir)
            fit = fit or quantizer_report(quantizer, distinct)
            logger.info(
                "snapshot %d: codebooks of %s codewords fitted on %d distinct vectors",
                *(index + 1, n_clusters, len(distinct)),
            )
        codes[index, valid] = quantizer.encode(x[valid])
        written.add(index + 1, before.users[USER_ID], getattr(source, "texts", None))
        embeddings = np.where(valid[:, None], x, np.float32(0))
    if quantizer is None:
        raise DataError("snapshots: expected at least one moment, got none")
    return Grouping(
        codes,
        quantizer,
        n_clusters,
        fitted_on,
        embeddings,
        written.frame(),
        fit,
        report_of(source),
    )


def aligned_vectors(
    source: GroupingInput, frames: Frames
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors in the order of ``frames.users``: float32 [n, d] and which are valid, bool [n]."""
    vectors = source.transform(frames)
    x = np.asarray(vectors.x, np.float32)
    row = pd.Index(np.asarray(vectors.user_ids, object)).get_indexer(
        pd.Index(frames.users[USER_ID].to_numpy(object))
    )
    found = row >= 0
    out = np.zeros((len(row), x.shape[1]), np.float32)
    out[found] = x[row[found]]
    valid = np.zeros(len(row), bool)
    valid[found] = np.asarray(vectors.valid, bool)[row[found]]
    return out, valid


def distinct_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each different row once, in the order of first appearance.

    Many users share one text; counting each of them would pull all codewords there.
    """
    rows = np.ascontiguousarray(x)
    as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, first = np.unique(as_bytes, return_index=True)
    return x[np.sort(first)]


def _to_fit_on(
    x: NDArray[np.float32], valid: NDArray[np.bool_], frames: Frames, n_clusters: list[int]
) -> NDArray[np.float32]:
    """Distinct vectors of the users who were there already, or of all if these are too few.

    Codebooks fitted on many texts that hold attributes alone give most codewords to those, and
    users fall together as soon as they do something: half as many groups on ml-100k.
    """
    seen = frames.users[USER_ID].isin(frames.interactions[USER_ID].unique()).to_numpy(bool)
    there = distinct_rows(x[valid & seen])
    if len(there) >= MIN_PER_CODEWORD * max(n_clusters):
        return there
    return distinct_rows(x[valid])


class _Profiles:
    """Collects the profiles that differ from those of the snapshot before."""

    def __init__(self) -> None:
        self._last: NDArray[np.object_] | None = None
        self._parts: list[pd.DataFrame] = []

    def add(self, snapshot: int, user_ids: pd.Series, texts: list[str] | None) -> None:
        if texts is None:
            return
        now = np.asarray(texts, object)
        new = now != ("" if self._last is None else self._last)
        self._parts.append(
            pd.DataFrame(
                {
                    SNAPSHOT: snapshot,
                    USER_ID: user_ids.to_numpy(object)[new],
                    "text": now[new],
                }
            )
        )
        self._last = now

    def frame(self) -> pd.DataFrame | None:
        return pd.concat(self._parts, ignore_index=True) if self._parts else None
