"""Texts and pictures to vectors (ChoirRec 4.2.2; AKT-Rec 3.1.1), nothing encoded twice."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.files import one_at_a_time
from recbole_choir.semantic.encoders.pictures import PictureFiles
from recbole_choir.semantic.encoders.text_model import (
    EMBEDDED,
    TextModel,
    folder_identity,
    hub_identity,
    load_model,
    local_folder,
    reads_pictures,
)
from recbole_choir.semantic.storage.vector_cache import VectorCache

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]


class _Input(NamedTuple):
    text: str
    digest: str = ""  # of the picture's content; "": none
    path: str = ""


class Encoder:
    """An embedding model with a cache.

    ::

        distinct texts -> those not in the cache, longest first -> batches -> model
        every finished batch -> cache (full vectors), so that a killed run resumes
        vectors -> the leading truncate_dim components -> divided by their norm

    Cached vectors are looked up by model, text and content of the picture, before truncation:
    changing ``truncate_dim``, the order of the texts or the place of a picture encodes nothing
    again.

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
        ChoirRec, section 4.2.2 (1); docs/gaps.md C19 (truncate, then normalise).
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
        self._pictures = PictureFiles()
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

    @classmethod
    def of_model(
        cls,
        model: TextModel,
        identity: str,
        *,
        name: str,
        cache_dir: str | Path | None = None,
        batch_size: int = 64,
    ) -> Encoder:
        """An encoder around a model that is loaded already, such as a tuned one.

        Args:
            model: The model.
            identity: What its vectors depend on apart from the text.
            name: For messages.
            cache_dir, batch_size: As of :class:`Encoder`.
        """
        encoder = cls(cache_dir=cache_dir, batch_size=batch_size)
        encoder.model, encoder._folder = name, None
        encoder._loaded, encoder._identity = model, identity
        return encoder

    def untruncated(self) -> Encoder:
        """The same encoder with all dimensions; both share one loaded model."""
        if self.truncate_dim is None:
            return self
        encoder = Encoder(self.model, None, self.cache_dir, self.batch_size, self.device)
        encoder._folder, encoder._pictures = self._folder, self._pictures
        encoder._loaded, encoder._identity = self._text_model(), self._identity
        return encoder

    def model_inputs(self, texts: Sequence[str], pictures: Sequence[str] | None) -> list[Any]:
        """What the model itself is given for texts, and their pictures as far as they are sound.

        Texts for a model that reads text alone, else mappings with ``text`` and ``image``.
        """
        inputs = [
            given if not given.digest or self._is_sound(given) else _Input(given.text)
            for given in self._inputs(texts, pictures)
        ]
        return self._model_inputs(self._text_model(), inputs)

    def encode(
        self,
        texts: Sequence[str],
        show_progress: bool = True,
        *,
        pictures: Sequence[str] | None = None,
    ) -> Float32:
        """Embed texts, each perhaps with a picture.

        Args:
            texts: Texts, any number of them alike. One that is empty or all white space says
                nothing, so its vector is 0 rather than the model's idea of an empty text.
            show_progress: Show a progress bar while the model works.
            pictures: Path of each text's picture, "" for none; for a multimodal model. One that
                is missing or broken is left out, so that the text stands alone, with a log line
                that counts them.

        Returns:
            float32 [n, d] in the order of the texts, rows of norm 1 (0 where there is nothing).

        Raises:
            DataError: A text is not a str, the model returned another number of vectors than
                texts or numbers that are not finite, or the cache cannot be written.
            ConfigError: The model cannot be loaded, has fewer than ``truncate_dim`` dimensions, or
                cannot read pictures.
        """
        inputs = self._inputs(texts, pictures)
        row_of: dict[_Input, int] = {}
        rows = np.empty(len(texts), dtype=np.int64)  # row of the distinct inputs; -1: empty
        for i, given in enumerate(inputs):
            rows[i] = row_of.setdefault(given, len(row_of)) if _says_something(given) else -1
        vectors = _unit(self._cut(self._full(list(row_of), show_progress)))
        out = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        out[rows >= 0] = vectors[rows[rows >= 0]]
        return out

    def _inputs(self, texts: Sequence[str], pictures: Sequence[str] | None) -> list[_Input]:
        """Inputs [n]; the same content of a picture has the same path."""
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"texts[{i}]: expected a str, got {type(text).__name__}")
        if pictures is None:
            return [_Input(text) for text in texts]
        if len(pictures) != len(texts):
            raise DataError(f"pictures: expected {len(texts)}, one a text, got {len(pictures)}")
        first: dict[str, str] = {}
        inputs = []
        for text, path in zip(texts, pictures):
            digest = self._pictures.digest(path) if path else ""
            inputs.append(_Input(text, digest, first.setdefault(digest, path) if digest else ""))
        missing = sum(bool(path) and not i.digest for path, i in zip(pictures, inputs))
        if missing:
            logger.warning("%d of %d pictures cannot be read: text alone", missing, len(pictures))
        return inputs

    def _cut(self, full: Float32) -> Float32:
        d = full.shape[1]
        if self.truncate_dim is not None and self.truncate_dim > d:
            raise ConfigError(
                f"truncate_dim: expected at most {d}, the dimensions of encoder '{self.model}', "
                f"got {self.truncate_dim}"
            )
        return full[:, : self.truncate_dim]

    def _full(self, inputs: list[_Input], show_progress: bool) -> Float32:
        """Vectors [n, d] of distinct inputs in all dimensions, from the cache or the model."""
        if not inputs:
            return np.zeros((0, self._run([_Input(" ")]).shape[1]), dtype=np.float32)
        with ExitStack() as stack:
            cache: VectorCache | None = None
            keys: list[bytes] = []
            found: dict[bytes, Float32] = {}
            if self.cache_dir is not None:
                cache = stack.enter_context(VectorCache(self.cache_dir))
                keys = [self._key(given) for given in inputs]
                found = cache.get(keys)
            if cache is not None and len(found) < len(inputs):
                lock = cache.path.with_name("encode.lock")
                stack.enter_context(one_at_a_time(lock, "embeddings"))
                found |= cache.get([key for key in keys if key not in found])
            missing = [i for i in range(len(inputs)) if not found or keys[i] not in found]
            broken = [i for i in missing if inputs[i].digest and not self._is_sound(inputs[i])]
            if broken:
                stack.close()  # the cache is opened once at a time
                return self._without(broken, inputs, show_progress)
            # Alike lengths waste little padding; the longest first shows at once what memory it
            # takes. Ties by content: batches do not depend on the order the texts came in.
            missing.sort(
                key=lambda i: (
                    *(_kind(inputs[i]), -len(inputs[i].text)),
                    *(inputs[i].text, inputs[i].digest),
                )
            )
            logger.info(
                "encoder '%s': %d distinct texts, %d of them cached",
                *(self.model, len(inputs), len(inputs) - len(missing)),
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
            for batch in self._batches(missing, inputs):
                vectors = self._run([inputs[i] for i in batch])
                if cache is not None:
                    cache.put([keys[i] for i in batch], vectors)
                if out is None:
                    out = np.empty((len(inputs), vectors.shape[1]), dtype=np.float32)
                out[batch] = vectors
                bar.update(len(batch))
        if out is None:
            out = np.empty((len(inputs), len(next(iter(found.values())))), dtype=np.float32)
        if found:
            cached = [i for i in range(len(inputs)) if keys[i] in found]
            out[cached] = np.stack([found[keys[i]] for i in cached])
        return out

    def _is_sound(self, given: _Input) -> bool:
        return self._pictures.is_sound(given.path)

    def _without(self, broken: list[int], inputs: list[_Input], show_progress: bool) -> Float32:
        """Vectors of the inputs, of which the broken pictures are left out."""
        logger.warning("%d pictures cannot be decoded: text alone", len(broken))
        whole = list(inputs)
        for i in broken:
            whole[i] = _Input(inputs[i].text)
        said = [i for i, given in enumerate(whole) if _says_something(given)]
        row_of = {given: k for k, given in enumerate(dict.fromkeys(whole[i] for i in said))}
        vectors = self._full(list(row_of), show_progress)
        out = np.zeros((len(inputs), vectors.shape[1]), dtype=np.float32)
        out[said] = vectors[[row_of[whole[i]] for i in said]]
        return out

    def _batches(self, missing: list[int], inputs: list[_Input]) -> Iterator[list[int]]:
        """Batches of one kind each: models take texts, pictures or both, but no mixture."""
        for _, same in groupby(missing, key=lambda i: _kind(inputs[i])):
            left = list(same)
            for start in range(0, len(left), self.batch_size):
                yield left[start : start + self.batch_size]

    def _run(self, batch: list[_Input]) -> Float32:
        """One call of the model, checked: as many vectors as texts, all of them finite."""
        model = self._text_model()
        vectors = np.asarray(
            model.encode(
                self._model_inputs(model, batch),
                batch_size=len(batch),
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
                f"{len(bad)} texts, the first of them {batch[bad[0]].text[:60]!r}"
            )
        return vectors

    def _model_inputs(self, model: TextModel, batch: list[_Input]) -> list[Any]:
        """What the model is given: texts, or mappings of texts and pictures."""
        # A lone surrogate is no text to any tokenizer.
        texts = [given.text.encode("utf-8", "replace").decode("utf-8") for given in batch]
        if not reads_pictures(model):
            if any(given.digest for given in batch):
                raise ConfigError(
                    f"image_field: expected a multimodal encoder (sentence-transformers 5.4 or "
                    f"newer), got '{self.model}', which reads text alone"
                )
            return list(texts)
        # A mapping also for text alone: a title that looks like the address of a picture is text.
        inputs: list[Any] = []
        for text, given in zip(texts, batch):
            parts: dict[str, Any] = {"text": text} if text.strip() else {}
            if given.digest:
                parts["image"] = self._pictures.load(given.path)
            inputs.append(parts or {"text": text})
        return inputs

    def _text_model(self) -> TextModel:
        if self._loaded is None:
            self._loaded = load_model(self.model, self.device)
        return self._loaded

    def _key(self, given: _Input) -> bytes:
        data = f"{self.identity}\0{given.text}".encode("utf-8", "surrogatepass")
        if given.digest:
            data = given.digest.encode() + b"\0" + data
        return hashlib.sha256(data).digest()


def _kind(given: _Input) -> tuple[bool, bool]:
    """Whether there is a picture, and whether there is a text next to it."""
    return bool(given.digest), bool(given.text.strip())


def _says_something(given: _Input) -> bool:
    return bool(given.text.strip() or given.digest)


def _unit(x: Float32) -> Float32:
    """Rows divided by their norm; a row of zeros stays."""
    norm = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return np.ascontiguousarray(x * scale[:, None], dtype=np.float32)
