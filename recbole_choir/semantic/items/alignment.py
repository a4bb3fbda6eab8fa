"""Content vectors aligned with co-occurrence: a projection of frozen vectors (AKT-Rec Eq. 1).

The texts are encoded once, and a training step costs a few small matrix products: minutes on a
CPU. The projection is a module of a ``SentenceTransformer`` like any other; only the collator
differs, which gives the trainer rows of the vectors where it would else give tokens. Trainer and
loss are sentence-transformers' own. :mod:`.tuning` trains the encoder itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError
from recbole_choir.semantic.items.cooccurrence import Pairs, hold_out
from recbole_choir.semantic.items.hit_rate import (
    before_and_after,
    hit_rates,
    popularity_rates,
    with_popularity,
)
from recbole_choir.semantic.items.weights import WeightsFile, content_key
from recbole_choir.semantic.storage.tensor_file import Arrays
from recbole_choir.settings.recipe import AlignmentRecipe

if TYPE_CHECKING:
    from recbole_choir.semantic.items.contrastive import ProjectionHead

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

#: Of AdamW.
LEARNING_RATE: Final = 1e-3

_BATCH: Final = 8192


class AlignedHead:
    """A projection of vectors, trained so that co-occurring rows come close.

    ::

        y = W x + b + V gelu(U x + c),    z = y / |y|
        L = -(1/N) sum_i log [ exp(z_i . z_i+ / tau) / sum_j exp(z_i . z_j+ / tau) ]      (Eq. 1)

    It starts as the principal components of ``x``, so that it begins no worse than the text. A
    tenth of the pairs, drawn at random, is held out: the epoch with the highest hit rate at 30 is
    kept, and training stops after two without a better one. Fitted on the CPU by one thread,
    so the same inputs give the same bits; trained weights are kept under ``cache_dir``, named by
    all that they depend on.

    Args:
        recipe: Width, temperature and size of the training.
        seed: Of the split, the start and the order of the pairs.
        cache_dir: Folder of the cache; nothing is kept if None.
        what: What the rows are, for log lines.
        show_progress: Show the trainer's progress bar.

    Attributes:
        report: After ``fit``: pairs, the epoch kept, hit rates before (of ``x``) and after, and
            those of popularity alone.

    References:
        AKT-Rec, section 3.1.1, Eq. 1; docs/gaps.md A12.
    """

    def __init__(
        self,
        recipe: AlignmentRecipe,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        *,
        what: str = "items",
        show_progress: bool = True,
    ) -> None:
        self.recipe = recipe
        self.seed = seed
        self.cache_dir = cache_dir
        self.what = what
        self.show_progress = show_progress
        self.report: dict[str, Any] = {}
        self._head: ProjectionHead | None = None

    def fit(self, x: Float32, valid: NDArray[np.bool_], pairs: Pairs) -> AlignedHead:
        """Train, or take the weights that the same inputs led to before.

        Args:
            x: float32 [n, d], rows of norm 1, in an order that does not depend on that of the data.
            valid: bool [n], rows that have a vector; the others' pairs are left out.
            pairs: Co-occurring rows. Without any, the projection stays what it starts as: the
                unaligned vectors' principal components, with a log line.

        Returns:
            Itself.
        """
        pairs = pairs.take(valid[pairs.first] & valid[pairs.second])
        train, held = hold_out(pairs, self.seed)
        settings = {"head": self.recipe.model_dump(mode="json"), "seed": self.seed}
        file = WeightsFile(self.cache_dir, content_key(settings, x, valid, *pairs))
        found = file.read()
        if found is not None:
            self._head = self._restored(found[0])
            self.report = with_popularity(found[1], valid, held, train)
            return self
        begin = time.perf_counter()
        before = hit_rates(x, valid, held, train)
        epoch = self._train(x, valid, train, held)
        after = hit_rates(self.project(x), valid, held, train)
        popularity = popularity_rates(valid, held, train)
        self.report = before_and_after(self.what, train, held, epoch, before, after, popularity)
        logger.info("alignment: head trained in %.1f s", time.perf_counter() - begin)
        file.write(self._arrays(), self.report)
        return self

    def project(self, x: Float32) -> Float32:
        """Aligned vectors of norm 1: float32 [n, dim]; a row of zeros stays one."""
        import torch

        head = self._fitted()
        parts = []
        with torch.no_grad(), _one_thread():
            for start in range(0, max(len(x), 1), _BATCH):
                part = torch.from_numpy(np.ascontiguousarray(x[start : start + _BATCH]))
                parts.append(head({"sentence_embedding": part})["sentence_embedding"].numpy())
        known = (x != 0).any(axis=1)
        return np.where(known[:, None], np.concatenate(parts), np.float32(0))

    def _train(self, x: Float32, valid: NDArray[np.bool_], train: Pairs, held: Pairs) -> int:
        """Train on the pairs; the epoch that was kept."""
        import torch
        from sentence_transformers import SentenceTransformer

        from recbole_choir.semantic.items import contrastive

        self._head = contrastive.make_head(x[valid], self.recipe.dim, self.seed)
        if len(train.users) == 0:
            logger.warning(
                "alignment: no two %s co-occur: unaligned vectors, by principal components",
                self.what,
            )
            return 0
        contrastive.require_trainer()
        model = SentenceTransformer(modules=[self._head], device="cpu", local_files_only=True)
        rows = torch.from_numpy(x)

        def measure() -> tuple[float, ...] | None:
            rates = hit_rates(self.project(x), valid, held, train)
            return None if rates is None else (rates.hit_rate_30, -rates.mean_rank)

        with _one_thread():
            return contrastive.train(
                model,
                train,
                len(x),
                lambda chosen: {"sentence_embedding": rows[chosen]},
                contrastive.schedule_of(self.recipe, LEARNING_RATE, self.seed),
                measure,
                on_cpu=True,
                show_progress=self.show_progress,
            )

    def _fitted(self) -> ProjectionHead:
        if self._head is None:
            raise DataError("alignment: expected a fitted projection, got none: call fit first")
        return self._head

    def _arrays(self) -> Arrays:
        return {name: value.numpy() for name, value in self._fitted().state_dict().items()}

    def _restored(self, arrays: Arrays) -> ProjectionHead:
        import torch

        from recbole_choir.semantic.items.contrastive import ProjectionHead

        weight, bias = (torch.from_numpy(arrays[f"linear.{name}"]) for name in ("weight", "bias"))
        head = ProjectionHead(weight, bias)
        head.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        return head


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small layers gain nothing by more, and their sums then do not depend on the number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
