"""The encoder itself aligned with co-occurrence: all its weights, or adapters (AKT-Rec Eq. 1)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.encoders.text_model import load_model
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
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

#: Of AdamW; an encoder is only to be bent.
LEARNING_RATE: Final = {"lora": 2e-4, "full": 2e-5}

#: Of the adapters, as in the LoRA paper's language models: scale = alpha / rank.
LORA_ALPHA: Final = 16


class AlignedEncoder:
    """An encoder and a projection, trained so that co-occurring texts come close.

    ::

        text (and picture) -> encoder -> unit -> y = W x + b + V gelu(U x + c) -> z = y / |y|

    with Eq. 1 on z, as :class:`.alignment.AlignedHead` has it, and its start, split and choice of
    the epoch. ``lora`` trains adapters in all linear layers of the encoder and the projection,
    ``full`` everything. The trained tensors alone are kept, not the encoder: they are of use only
    with the encoder that they were trained on, which their name depends on. A second copy of the
    encoder is in memory meanwhile; the given one is left as it is.

    Args:
        encoder: The encoder to start from. Its ``truncate_dim`` is not used: the projection learns
            what to keep.
        recipe: Method, width, temperature and size of the training.
        seed: Of the split, the start, dropout and the order of the pairs.
        show_progress: Show progress bars.

    Attributes:
        report: After ``fit``: pairs, the epoch kept, hit rates before and after, and
            those of popularity alone.

    References:
        AKT-Rec, section 3.1.1, Eq. 1; Hu et al., LoRA, ICLR 2022.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: AlignmentRecipe,
        seed: int = 0,
        *,
        show_progress: bool = True,
    ) -> None:
        self.base = encoder.untruncated()
        self.recipe = recipe
        self.seed = seed
        self.show_progress = show_progress
        self.report: dict[str, Any] = {}
        self._tuned: Encoder | None = None

    def fit(self, texts: list[str], pictures: list[str] | None, pairs: Pairs) -> AlignedEncoder:
        """Train, or take the weights that the same inputs led to before.

        Args:
            texts: [n], in an order that does not depend on that of the data; ``""`` for none.
            pictures: [n] paths, ``""`` for none; None without pictures.
            pairs: Co-occurring rows; none of a row without a vector is used.

        Returns:
            Itself.
        """
        x = _encode(self.base, texts, pictures, self.show_progress)
        valid = (x != 0).any(axis=1)
        pairs = pairs.take(valid[pairs.first] & valid[pairs.second])
        train, held = hold_out(pairs, self.seed)
        settings = {
            "tuning": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "encoder": self.base.identity,
        }
        seen = [texts, pictures or [""]]
        key = content_key(settings, *seen, x, *pairs)
        file = WeightsFile(self.base.cache_dir, key)
        model = self._model(x[valid])
        found = file.read()
        if found is not None:
            _restore(model, found[0])
            self.report = with_popularity(found[1], valid, held, train)
        else:
            begin = time.perf_counter()
            before = hit_rates(x, valid, held, train)
            epoch = self._train(model, texts, pictures, valid, train, held)
            after = hit_rates(_encode(self._around(model), texts, pictures), valid, held, train)
            popularity = popularity_rates(valid, held, train)
            self.report = before_and_after("items", train, held, epoch, before, after, popularity)
            logger.info("alignment: encoder trained in %.1f s", time.perf_counter() - begin)
            file.write(_arrays(model), self.report)
        self._tuned = self._around(model, f"{self.base.identity}+alignment:{key}")
        return self

    def encode(self, texts: list[str], pictures: list[str] | None = None) -> Float32:
        """Aligned vectors of norm 1: float32 [n, dim], zeros where there is nothing."""
        if self._tuned is None:
            raise DataError("alignment: expected a fitted encoder, got none: call fit first")
        return _encode(self._tuned, texts, pictures, self.show_progress)

    def _model(self, x: Float32) -> SentenceTransformer:
        """A copy of the encoder with the projection at its start, and what is to be trained."""
        import torch
        from sentence_transformers import SentenceTransformer

        from recbole_choir.semantic.items import contrastive

        base: Any = load_model(self.base.model, self.base.device)
        with contrastive.own_randomness():
            torch.manual_seed(self.seed)  # of the adapters
            if self.recipe.method == "lora":
                _add_adapters(base, self.recipe.lora_rank)
            head = contrastive.make_head(x, self.recipe.dim, self.seed)
        modules = [*base, contrastive.UnitNorm(), head]
        return SentenceTransformer(modules=modules, device=str(base.device), local_files_only=True)

    def _train(
        self,
        model: SentenceTransformer,
        texts: list[str],
        pictures: list[str] | None,
        valid: NDArray[np.bool_],
        train: Pairs,
        held: Pairs,
    ) -> int:
        """Train on the pairs; the epoch that was kept."""
        from recbole_choir.semantic.items import contrastive

        if len(train.users) == 0:
            logger.warning("alignment: no two items co-occur: unaligned vectors")
            return 0
        contrastive.require_trainer()
        encoder = self._around(model)
        # The first module's own: the model's refuses batches of which some lack a picture.
        # `tokenize` is its name before sentence-transformers 5.4.
        first: Any = model[0]
        preprocess = getattr(first, "preprocess", None) or first.tokenize

        def measure() -> tuple[float, ...] | None:
            rates = hit_rates(_encode(encoder, texts, pictures), valid, held, train)
            return None if rates is None else (rates.hit_rate_30, -rates.mean_rank)

        def collate(rows: Sequence[int]) -> dict[str, Any]:
            chosen = None if pictures is None else [pictures[row] for row in rows]
            inputs = encoder.model_inputs([texts[row] for row in rows], chosen)
            return preprocess(inputs)

        return contrastive.train(
            model,
            train,
            len(texts),
            collate,
            contrastive.schedule_of(self.recipe, LEARNING_RATE[self.recipe.method], self.seed),
            measure,
            on_cpu=model.device.type == "cpu",
            show_progress=self.show_progress,
        )

    def _around(self, model: Any, identity: str | None = None) -> Encoder:
        """An encoder around the model; without a cache while it is still changing."""
        return Encoder.of_model(
            model,
            identity or "",
            name=f"{self.base.model} aligned by {self.recipe.method}",
            cache_dir=None if identity is None else self.base.cache_dir,
            batch_size=self.base.batch_size,
        )


def _encode(
    encoder: Encoder, texts: list[str], pictures: list[str] | None, show_progress: bool = False
) -> Float32:
    return encoder.encode(texts, show_progress, pictures=pictures)


def _add_adapters(model: Any, rank: int) -> None:
    """Put LoRA adapters into the transformer of a model; nothing else of it is trained then."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError(
            "alignment.method lora: expected the package 'peft', got none: "
            "pip install 'recbole-choir[tuning]'"
        ) from None
    from transformers import PreTrainedModel

    inner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    if inner is None:
        raise ConfigError(
            "alignment.method lora: expected an encoder with a transformers model, got "
            f"{type(model[0]).__name__}"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=LORA_ALPHA, target_modules="all-linear")
    inject_adapter_in_model(config, inner)


def _arrays(model: SentenceTransformer) -> Arrays:
    from recbole_choir.semantic.items.contrastive import trained_state

    return {n: p.float().cpu().numpy() for n, p in trained_state(model).items()}


def _restore(model: SentenceTransformer, arrays: Arrays) -> None:
    import torch

    from recbole_choir.semantic.items.contrastive import trained_state

    state = trained_state(model)
    if {n: tuple(p.shape) for n, p in state.items()} != {n: a.shape for n, a in arrays.items()}:
        raise DataError("alignment: the weights kept for this encoder do not fit it")
    with torch.no_grad():
        for name, parameter in state.items():
            parameter.copy_(torch.from_numpy(arrays[name]))
