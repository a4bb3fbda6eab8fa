"""The paper's engine: a language model with an interest token, tuned with Eq. 2."""

from __future__ import annotations

import hashlib
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.fingerprint import fingerprint_columns
from recbole_choir.semantic.interest.categories import category_targets
from recbole_choir.semantic.interest.data import (
    InterestData,
    draw,
    items_frame,
    unit,
    weights_folder,
    weights_key,
)
from recbole_choir.semantic.interest.diagnostics import Diagnostics, Ints, Truth, batches
from recbole_choir.semantic.interest.history import (
    HELD_OUT,
    Histories,
    held_out_users,
    newest,
)
from recbole_choir.semantic.interest.language_model import (
    InterestLanguageModel,
    Loaded,
    load_backbone,
    tokenize_plain,
)
from recbole_choir.semantic.interest.prompts import Prompts, make_prompts
from recbole_choir.semantic.interest.training import Schedule, fit, own_random_state
from recbole_choir.semantic.storage.vector_cache import VectorCache
from recbole_choir.settings.recipe import InterestRecipe

logger = logging.getLogger(__name__)

#: Raise it when the same inputs give other weights than before.
ALGORITHM: Final = 1
#: Users whose prompts are in memory at once.
_USERS_AT_ONCE: Final = 2048


class LLMEngine:
    """A causal language model reads a user's prompt; its interest token is the user's vector.

    ::

        What a person chose, oldest first, and will choose next.
        Person: age 24, gender male.
        - comedy, drama (popular, more liked)
        ..
        Next: [INTEREST]  -> hidden state -> linear -> e_hat;  -> linear -> category

    Every positive before the first snapshot is a sample, its prompt made of the events strictly
    before it; ``max_samples`` of them are drawn. What a line says of an item is as of that event,
    so a user who did nothing new keeps the same prompt at later snapshots, and prompts already
    read come from the cache.

    Args:
        settings: Model, adapters and training.
        seed: Of the heads' and adapters' start, the held-out users and the order of samples.
        cache_dir: Where trained weights, checkpoints and vectors are kept; nowhere if None.
        device: Torch device; the first GPU if there is one, else the CPU, if None.
        show_progress: Show progress bars.

    References:
        AKT-Rec, section 3.1.1, Eq. 2; docs/gaps.md A11.
    """

    def __init__(
        self,
        settings: InterestRecipe,
        seed: int = 0,
        *,
        cache_dir: str | Path | None = None,
        device: str | None = None,
        show_progress: bool = True,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.folder = weights_folder(cache_dir)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.show_progress = show_progress
        self._network: InterestLanguageModel | None = None
        self._loaded: Loaded | None = None
        self._key = ""

    def fit(self, data: InterestData) -> Diagnostics:
        """Tune on the positives of ``data``; without any, no user is valid."""
        settings, histories = self.settings, data.histories
        self._network = self._loaded = None
        known = np.flatnonzero(np.diff(histories.first) > 0)
        if len(known) == 0:
            return Diagnostics()
        held = held_out_users(histories.user_ids, known, self.seed)
        inside = np.isin(histories.user, held)
        categories = category_targets(items_frame(data), data.item_ids, histories.item[~inside])
        truth = Truth(
            torch.as_tensor(data.vectors, device=self.device),
            torch.as_tensor(categories.classes, device=self.device),
            len(categories.names),
        )
        with own_random_state(self.device, self.seed):
            loaded = load_backbone(settings.model, settings.lora_rank, self.device)
            network = InterestLanguageModel(
                loaded.backbone,
                loaded.backbone.config.hidden_size,
                data.vectors.shape[1],
                len(categories.names),
            ).to(self.device)
        self._loaded = loaded
        prompts = self._prompts(data)
        task = _Prompted(network, prompts, histories, settings.length, self._max_tokens())
        # of a user without history and attributes nothing could be said
        told = (histories.known > histories.first[histories.user]) | prompts.has_attributes[
            histories.user
        ]
        train, kept_back = np.flatnonzero(~inside & told), np.flatnonzero(inside & told)
        most = settings.max_samples
        train = draw(train, task.n_targets, most, self.seed)
        most = None if most is None else max(1, round(most * HELD_OUT))
        kept_back = draw(kept_back, task.n_targets, most, self.seed)
        rate = settings.learning_rate or (2e-4 if settings.lora_rank else 2e-5)
        schedule = Schedule(
            epochs=settings.epochs if settings.epochs is not None else 2,
            batch_size=self._batch_size(),
            accumulation=settings.gradient_accumulation,
            learning_rate=rate,
            weight_decay=0.01,
            patience=settings.patience,
        )
        self._key = weights_key(
            {
                "engine": "llm",
                "algorithm": ALGORITHM,
                "model": loaded.identity,
                "settings": settings.model_dump(mode="json", exclude={"model"}),
                "seed": self.seed,
                "data": data.digest(),
                "users": fingerprint_columns(data.users, sorted(data.users.columns)),
                "categories": [str(name) for name in categories.names],
                "classes": hashlib.sha256(categories.classes.tobytes()).hexdigest(),
                "prompts": hashlib.sha256(prompts.events.tobytes()).hexdigest(),
            }
        )
        diagnostics = fit(
            task,
            truth,
            train,
            kept_back,
            schedule,
            self.seed,
            self._key,
            self.folder,
            self.show_progress,
        )
        self._network = network.eval()
        return diagnostics

    def transform(self, data: InterestData) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of all users from their newest positives.

        Raises:
            DataError: The item vectors are not as wide as those of ``fit``.
        """
        histories = data.histories
        n, width = len(histories.user_ids), data.vectors.shape[1]
        out = np.zeros((n, width), np.float32)
        if self._network is None:
            return out, np.zeros(n, bool)
        if width != self._network.interest.out_features:
            raise DataError(
                f"interest: expected item vectors of width "
                f"{self._network.interest.out_features}, as fitted, got {width}"
            )
        prompts = self._prompts(data)
        begin, end = newest(histories, self.settings.length)
        valid = (end > begin) | prompts.has_attributes
        asked = np.flatnonzero(valid)
        with ExitStack() as stack:
            cache = None
            if self.folder is not None:
                cache = stack.enter_context(VectorCache(self.folder / "vectors"))
            bar = stack.enter_context(
                tqdm(total=len(asked), desc="interest", disable=not self.show_progress)
            )
            for user in batches(asked, _USERS_AT_ONCE):
                out[user] = self._read(prompts, user, begin[user], end[user], cache)
                bar.update(len(user))
        return out, valid

    def _read(
        self, prompts: Prompts, user: Ints, begin: Ints, end: Ints, cache: VectorCache | None
    ) -> NDArray[np.float32]:
        """Vectors of some users [n, d]; equal prompts are read once, known ones not at all."""
        ids, length = prompts.build(user, begin, end, self._max_tokens())
        keys = [
            hashlib.sha256(f"{self._key}\0".encode() + ids[i, : length[i]].tobytes()).digest()
            for i in range(len(ids))
        ]
        first: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            first.setdefault(key, i)
        found = cache.get(list(first)) if cache is not None else {}
        missing = [i for key, i in first.items() if key not in found]
        # alike lengths together waste little padding; ties by the prompt itself
        missing.sort(key=lambda i: (-length[i], keys[i]))
        for batch in batches(np.array(missing, np.int64), self._batch_size()):
            vectors = self._run(ids[batch], length[batch])
            some = [keys[i] for i in batch]
            if cache is not None:
                cache.put(some, vectors)
            found |= dict(zip(some, vectors, strict=True))
        return np.stack([found[key] for key in keys])

    @torch.no_grad()
    def _run(self, ids: NDArray[np.int64], length: Ints) -> NDArray[np.float32]:
        if self._network is None:
            raise DataError("interest: expected a fitted engine, got none: call fit first")
        ids = ids[:, : int(length.max())]
        e_hat, _ = self._network(
            torch.as_tensor(ids, device=self.device), torch.as_tensor(length, device=self.device)
        )
        return unit(e_hat.cpu().numpy())

    def _prompts(self, data: InterestData) -> Prompts:
        if self._loaded is None:
            raise DataError("interest: expected a fitted engine, got none: call fit first")
        tokenizer = self._loaded.tokenizer
        return make_prompts(
            data, lambda texts: tokenize_plain(tokenizer, texts), self._loaded.interest_token
        )

    def _batch_size(self) -> int:
        return self.settings.batch_size if self.settings.batch_size is not None else 8

    def _max_tokens(self) -> int:
        """The longest prompt that settings and model allow."""
        most = self.settings.max_tokens
        if self._loaded is not None:
            context = getattr(self._loaded.backbone.config, "max_position_embeddings", None)
            most = min(most, int(context)) if context else most
        return most


@dataclass
class _Prompted:
    """One prompt a positive: its user's events strictly before it, at most ``length``."""

    network: InterestLanguageModel
    prompts: Prompts
    histories: Histories
    length: int
    max_tokens: int
    n_targets: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.n_targets = np.ones(len(self.histories.item), np.int64)
        self.user = self.histories.user

    def items(self, units: Ints) -> Ints:
        return self.histories.item[units]

    def predict(self, units: Ints) -> tuple[Tensor, Tensor]:
        histories = self.histories
        user, end = self.user[units], histories.known[units]
        begin = np.maximum(histories.first[user], end - self.length)
        ids, length = self.prompts.build(user, begin, end, self.max_tokens)
        device = next(self.network.parameters()).device
        return self.network(
            torch.as_tensor(ids, device=device), torch.as_tensor(length, device=device)
        )
