"""Items by behaviour where there is enough of it, by what their text says of it elsewhere."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.frames import ITEM_ID, Frames
from recbole_choir.semantic.frames.matrices import unit_rows
from recbole_choir.semantic.items.base import ItemInput, ItemVectors, item_ids_of
from recbole_choir.semantic.items.behaviour import BehaviourItems

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

#: Positives at which an item's own vector and its text's image weigh the same (EVIDENCE: 10).
HALF: Final = 10.0

#: Ridge penalties tried, for text vectors of norm 1.
PENALTIES: Final = (0.1, 1.0, 10.0, 100.0)
_HELD_OUT: Final = 0.2


class BlendedItems:
    """SVD of co-occurrence, with a ridge map from text where an item has few positives.

    ::

        x_i = n/(n+10) * svd_i + 10/(n+10) * ridge(text_i), divided by its norm
        n: positives of i before the snapshot

    The map is fitted once, on the items of the first snapshot, each weighted by ``n/(n+10)``; its
    penalty is the one that predicts a fifth of them best from the others. An item never chosen
    has the map's image of its text alone, one without text its behaviour alone.

    Args:
        behaviour: Vectors by behaviour.
        content: Vectors by text.
        seed: Of the split that the penalty is chosen by.

    Attributes:
        report: After ``fit``: items fitted on, penalty, mean cosine of held-out images.

    References:
        Not in the paper; EVIDENCE, third study ("blend").
    """

    def __init__(self, behaviour: BehaviourItems, content: ItemInput, seed: int = 0) -> None:
        self.behaviour = behaviour
        self.content = content
        self.seed = seed
        self.report: dict[str, Any] = {}
        self._map: Floats | None = None  # [d text + 1, d]

    def fit(self, frames: Frames) -> BlendedItems:
        """Fit SVD and map on what is known before ``frames.time``."""
        svd = self.behaviour.fit(frames).transform(frames)
        text = self.content.fit(frames).transform(frames)
        n = positives_of(frames)
        # by item id, so that neither rounding nor the split depends on the order of the items
        order = np.argsort(svd.item_ids, kind="stable")
        order = order[svd.valid[order] & text.valid[order]]
        x, y = _with_constant(text.x[order]), svd.x[order].astype(np.float64)
        weight = n[order] / (n[order] + HALF)
        if len(order) == 0:
            logger.warning("blend: no item has both text and behaviour, nothing maps one to other")
        held = np.zeros(len(order), bool)
        drawn = np.random.default_rng([self.seed, 4]).permutation(len(order))
        held[drawn[: int(len(order) * _HELD_OUT)]] = True
        penalty, cosine = _choose(x, y, weight, held)
        self._map = _ridge(x, y, weight, penalty)
        self.report = {"items": len(order), "penalty": penalty, "held_out_cosine": cosine}
        logger.info("blend: %d items, penalty %g, held-out cosine %s", len(order), penalty, cosine)
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        """Vectors of ``frames.items`` from what is known before ``frames.time``."""
        if self._map is None:
            raise DataError("blend: expected a fitted input, got none: call fit first")
        svd = self.behaviour.transform(frames)
        text = self.content.transform(frames)
        image = np.where(text.valid[:, None], _with_constant(text.x) @ self._map, 0.0)
        n = positives_of(frames)
        own = np.where(svd.valid, n / (n + HALF), 0.0)[:, None]
        own = np.where(text.valid[:, None], own, 1.0)
        x = unit_rows(own * svd.x + (1.0 - own) * image)
        return ItemVectors(svd.item_ids, x.astype(np.float32), (x != 0).any(axis=1))


def positives_of(frames: Frames) -> Floats:
    """Positives of each of ``frames.items`` [n]."""
    counts = frames.positives[ITEM_ID].value_counts()
    n = counts.reindex(item_ids_of(frames)).fillna(0)
    return np.asarray(n.to_numpy(), dtype=np.float64)


def _with_constant(x: NDArray[np.float32]) -> Floats:
    return np.hstack([x.astype(np.float64), np.ones((len(x), 1))])


def _ridge(x: Floats, y: Floats, weight: Floats, penalty: float) -> Floats:
    """Weighted ridge regression [d text + 1, d]; the constant, last, is not penalised."""
    weighted = x * weight[:, None]
    gram = weighted.T @ x
    # a trifle on the constant: without any row there is nothing else
    gram[np.diag_indices_from(gram)] += np.append(np.full(x.shape[1] - 1, penalty), 1e-9)
    return np.asarray(np.linalg.solve(gram, weighted.T @ y))


def _choose(
    x: Floats, y: Floats, weight: Floats, held: NDArray[np.bool_]
) -> tuple[float, float | None]:
    """The penalty whose images of held-out items are nearest to their vectors; mean cosine."""
    if not held.any():
        return PENALTIES[len(PENALTIES) // 2], None
    total = weight[held].sum()
    scores = []
    for penalty in PENALTIES:
        image = unit_rows(x[held] @ _ridge(x[~held], y[~held], weight[~held], penalty))
        scores.append(float((weight[held] * (image * y[held]).sum(axis=1)).sum() / total))
    best = int(np.argmax(scores))
    return PENALTIES[best], round(scores[best], 6)
