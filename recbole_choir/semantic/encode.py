"""Texts to vectors (paper 4.2.2, step 1), with nothing encoded or paid for twice."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.text_model import (
    EMBEDDED,
    TextModel,
    folder_identity,
    hub_identity,
    load_model,
    local_folder,
)
from recbole_choir.semantic.vector_cache import VectorCache

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]


class Encoder:
    """A text embedding model with a cache.

    ::

        distinct texts -> those not in the cache, longest first -> batches -> model
        every finished batch -> cache (full vectors), so that a killed run resumes
        vectors -> the leading truncate_dim components -> divided by their norm

    Cached vectors are looked up by model and text, before truncation: changing ``truncate_dim`` or
    the order of the texts encodes nothing again.

    Args:
        model: ``embedded`` (all-MiniLM-L6-v2 from the installed package, 384 dimensions, no
            network), a folder, or a name on the hub.
        truncate_dim: Keep that many leading components, for models trained so (Matryoshka); then
            normalise again, since a part of a unit vector is no unit vector. All if None.
        cache_dir: Folder of the cache; nothing is kept if None.
        batch_size: Texts in a batch. Default 64: enough to fill a CPU or GPU with short texts,
            and little to lose where a run is killed.
        device: Torch device; chosen by sentence-transformers if None.

    Raises:
        ConfigError: A number is out of range, or there is no such folder.

    References:
        ChoirRec, section 4.2.2 (1); PAPER_GAPS C19 (truncate, then normalise).
    """

    def __init__(
        self,
        model: str = EMBEDDED,
        truncate_dim: int | None = None,
        cache_dir: str | Path | None = None,
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        for name, value in (("truncate_dim", truncate_dim), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"encoder {name}: expected a number >= 1, got {value}")
        self.model = model
        self.truncate_dim = truncate_dim
        self.cache_dir = Path(cache_dir) if cache_dir is not None else None
        self.batch_size = batch_size
        self.device = device
        self._folder = local_folder(model)
        self._loaded: TextModel | None = None
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        """What the vectors depend on apart from the text: the model's files or its hub commit."""
        if self._identity is None:
            if self._folder is not None:
                self._identity = folder_identity(self._folder)
            else:
                self._identity = hub_identity(self.model, self._text_model())
        return self._identity

    def encode(self, texts: Sequence[str], show_progress: bool = True) -> Float32:
        """Embed texts.

        Args:
            texts: Texts, any number of them alike. One that is empty or all white space says
                nothing, so its vector is 0 rather than the model's idea of an empty text.
            show_progress: Show a progress bar while the model works.

        Returns:
            float32 [n, d] in the order of the texts, rows of norm 1 (0 for empty texts).

        Raises:
            DataError: A text is not a str, the model returned another number of vectors than
                texts or numbers that are not finite, or the cache cannot be written.
            ConfigError: The model cannot be loaded or has fewer than ``truncate_dim`` dimensions.
        """
        row_of: dict[str, int] = {}
        rows = np.empty(len(texts), dtype=np.int64)  # row of the distinct texts; -1: empty
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"texts[{i}]: expected a str, got {type(text).__name__}")
            rows[i] = row_of.setdefault(text, len(row_of)) if text.strip() else -1
        vectors = _unit(self._cut(self._full(list(row_of), show_progress)))
        out = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        out[rows >= 0] = vectors[rows[rows >= 0]]
        return out

    def _cut(self, full: Float32) -> Float32:
        d = full.shape[1]
        if self.truncate_dim is not None and self.truncate_dim > d:
            raise ConfigError(
                f"truncate_dim: expected at most {d}, the dimensions of encoder '{self.model}', "
                f"got {self.truncate_dim}"
            )
        return full[:, : self.truncate_dim]

    def _full(self, texts: list[str], show_progress: bool) -> Float32:
        """Vectors [n, d] of distinct texts in all dimensions, from the cache or the model."""
        if not texts:
            return np.zeros((0, self._run([" "]).shape[1]), dtype=np.float32)
        with ExitStack() as stack:
            cache: VectorCache | None = None
            keys: list[bytes] = []
            found: dict[bytes, Float32] = {}
            if self.cache_dir is not None:
                cache = stack.enter_context(VectorCache(self.cache_dir))
                keys = [self._key(text) for text in texts]
                found = cache.get(keys)
            missing = [i for i in range(len(texts)) if not found or keys[i] not in found]
            # Alike lengths waste little padding; the longest first shows at once what memory it
            # takes. Ties by text: batches do not depend on the order the texts came in.
            missing.sort(key=lambda i: (-len(texts[i]), texts[i]))
            logger.info(
                "encoder '%s': %d distinct texts, %d of them cached",
                *(self.model, len(texts), len(texts) - len(missing)),
            )
            out: Float32 | None = None
            bar = stack.enter_context(
                tqdm(
                    total=len(missing),
                    desc="encode",
                    unit="text",
                    disable=not show_progress or not missing,
                )
            )
            for start in range(0, len(missing), self.batch_size):
                batch = missing[start : start + self.batch_size]
                vectors = self._run([texts[i] for i in batch])
                if cache is not None:
                    cache.put([keys[i] for i in batch], vectors)
                if out is None:
                    out = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
                out[batch] = vectors
                bar.update(len(batch))
        if out is None:
            out = np.empty((len(texts), len(next(iter(found.values())))), dtype=np.float32)
        if found:
            cached = [i for i in range(len(texts)) if keys[i] in found]
            out[cached] = np.stack([found[keys[i]] for i in cached])
        return out

    def _run(self, batch: list[str]) -> Float32:
        """One call of the model, checked: as many vectors as texts, all of them finite."""
        # A lone surrogate is no text to any tokenizer.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in batch]
        vectors = np.asarray(
            self._text_model().encode(
                clean,
                batch_size=len(clean),
                convert_to_numpy=True,
                normalize_embeddings=False,
                show_progress_bar=False,
            ),
            dtype=np.float32,
        )
        if vectors.ndim != 2 or len(vectors) != len(batch):
            raise DataError(
                f"encoder '{self.model}': expected {len(batch)} vectors, got shape {vectors.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise DataError(
                f"encoder '{self.model}': expected finite numbers, got nan or inf for "
                f"{len(bad)} texts, the first of them {batch[bad[0]][:60]!r}"
            )
        return vectors

    def _text_model(self) -> TextModel:
        if self._loaded is None:
            self._loaded = load_model(self.model, self.device)
        return self._loaded

    def _key(self, text: str) -> bytes:
        data = f"{self.identity}\0{text}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(data).digest()


def _unit(x: Float32) -> Float32:
    """Rows divided by their norm; a row of zeros stays."""
    norm = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return np.ascontiguousarray(x * scale[:, None], dtype=np.float32)
