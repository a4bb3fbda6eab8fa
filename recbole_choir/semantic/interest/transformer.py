"""The light engine: a small transformer over item vectors, trained with Eq. 2."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.fingerprint import fingerprint_columns
from recbole_choir.semantic.frames.frames import USER_ID
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
    Windows,
    held_out_users,
    newest,
    ranges,
    windows,
)
from recbole_choir.semantic.interest.network import InterestNetwork
from recbole_choir.semantic.interest.training import Schedule, fit, own_random_state
from recbole_choir.semantic.profiles.verbalize import MAX_ATTRIBUTES, is_descriptive, value_text
from recbole_choir.settings.recipe import InterestRecipe


class AttributeCodes(NamedTuple):
    """Attributes of users.

    ``code`` int64 [n, F]: 0 for missing or never seen in training, else a row of one table that
    all fields share; ``number`` float32 [n, G]: standardised, 0 where missing; ``present``
    float32 [n, G].
    """

    code: NDArray[np.int64]
    number: NDArray[np.float32]
    present: NDArray[np.float32]

    @property
    def any_known(self) -> NDArray[np.bool_]:
        """Users with at least one attribute that says something: bool [n]."""
        known = np.concatenate([self.code > 0, self.present > 0], axis=1)
        return np.asarray(known.any(axis=1), dtype=bool)


@dataclass(frozen=True)
class AttributeCoder:
    """Vocabularies and scales of the users that training knows.

    Args:
        values: Each discrete field's values, in their order; codes count on from field to field.
        scales: Mean and standard deviation of each continuous field.
    """

    values: dict[str, list[str]]
    scales: dict[str, tuple[float, float]]

    @classmethod
    def fit(cls, users: pd.DataFrame) -> AttributeCoder:
        """Read the fields of ``users``, the training users alone.

        Fields that name single users (:func:`~..verbalize.is_descriptive`) are left out. Floating
        point columns are continuous, all others discrete.
        """
        values: dict[str, list[str]] = {}
        scales: dict[str, tuple[float, float]] = {}
        fields = sorted(str(c) for c in users.columns if c != USER_ID)
        for field in [f for f in fields if is_descriptive(users[f])][:MAX_ATTRIBUTES]:
            if pd.api.types.is_float_dtype(users[field]):
                known = np.sort(users[field].dropna().to_numpy(np.float64))
                scales[field] = (float(known.mean()), float(known.std()) or 1.0)
            else:
                texts = value_text(users[field])
                values[field] = sorted({str(t) for t in texts if t != ""})
        return cls(values, scales)

    @property
    def n_codes(self) -> int:
        """Rows of the table: one for missing, then all values."""
        return 1 + sum(len(v) for v in self.values.values())

    def encode(self, users: pd.DataFrame) -> AttributeCodes:
        """Codes and numbers of ``users``; a column that is not there counts as missing."""
        n = len(users)
        code = np.zeros((n, len(self.values)), np.int64)
        number = np.zeros((n, len(self.scales)), np.float32)
        present = np.zeros((n, len(self.scales)), np.float32)
        base = 1
        for column, (field, names) in enumerate(self.values.items()):
            if field in users.columns:
                row = pd.Index(names, dtype=object).get_indexer(pd.Index(value_text(users[field])))
                code[:, column] = np.where(row >= 0, row + base, 0)
            base += len(names)
        for column, (field, (mean, std)) in enumerate(self.scales.items()):
            if field in users.columns:
                raw = pd.to_numeric(users[field], errors="coerce").to_numpy(np.float64)
                known = np.isfinite(raw)
                scaled = np.clip((np.where(known, raw, mean) - mean) / std, -3.0, 3.0)
                number[:, column], present[:, column] = scaled, known
        return AttributeCodes(code, number, present)


logger = logging.getLogger(__name__)

#: Raise it when the same inputs give other weights than before.
ALGORITHM: Final = 1
#: Users whose vectors are made at once.
_USERS_AT_ONCE: Final = 1024


class TransformerEngine:
    """A small causal transformer over the vectors of what a user chose.

    Trained once, on the first snapshot, on every positive before it, predicted from its user's
    attributes and the positives strictly before it; a tenth of the users are held out to stop
    training. A user's vector at any later snapshot is the e_hat after the newest ``length``
    positives, so that vectors of different snapshots mean the same. Users without positives are
    told by their attributes; without those either they are not valid.

    Args:
        settings: Of the network and its training.
        seed: Of its start, the held-out users, the order of samples and dropout.
        cache_dir: Where the trained weights are kept; nowhere if None.
        device: Torch device; the first GPU if there is one, else the CPU, if None.
        show_progress: Show a progress bar.

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
        self._network: InterestNetwork | None = None
        self._coder = AttributeCoder({}, {})

    def fit(self, data: InterestData) -> Diagnostics:
        """Train on the positives of ``data``; without any, no user is valid."""
        settings, histories = self.settings, data.histories
        cut = windows(histories, settings.length)
        self._network = None
        if len(cut.user) == 0:
            return Diagnostics()
        known = np.flatnonzero(np.diff(histories.first) > 0)
        held = held_out_users(histories.user_ids, known, self.seed)
        inside = np.isin(cut.user, held)
        train, kept_back = np.flatnonzero(~inside), np.flatnonzero(inside)
        most = settings.max_samples
        train = draw(train, cut.n_targets, most, self.seed)
        most = None if most is None else max(1, round(most * HELD_OUT))
        kept_back = draw(kept_back, cut.n_targets, most, self.seed)

        trained_users = np.setdiff1d(known, held)
        self._coder = AttributeCoder.fit(data.users.iloc[trained_users])
        events = histories.item[~np.isin(histories.user, held)]
        categories = category_targets(items_frame(data), data.item_ids, events)
        with own_random_state(self.device, self.seed):
            network = InterestNetwork(
                item_dim=data.vectors.shape[1],
                n_classes=len(categories.names),
                n_codes=self._coder.n_codes,
                n_numbers=len(self._coder.scales),
                width=settings.width,
                layers=settings.layers,
                heads=settings.heads,
                length=settings.length,
                dropout=settings.dropout,
            ).to(self.device)
        truth = Truth(
            torch.as_tensor(data.vectors, device=self.device),
            torch.as_tensor(categories.classes, device=self.device),
            len(categories.names),
        )
        task = _Windowed(network, cut, histories, truth.vectors, self._codes(data))
        schedule = Schedule(
            epochs=settings.epochs if settings.epochs is not None else 30,
            batch_size=settings.batch_size if settings.batch_size is not None else 32,
            accumulation=settings.gradient_accumulation,
            learning_rate=settings.learning_rate if settings.learning_rate is not None else 1e-3,
            weight_decay=0.01,
            patience=settings.patience,
        )
        key = weights_key(
            {
                "engine": "transformer",
                "algorithm": ALGORITHM,
                "settings": settings.model_dump(mode="json"),
                "seed": self.seed,
                "data": data.digest(),
                "users": fingerprint_columns(data.users, sorted(data.users.columns)),
                "categories": [str(name) for name in categories.names],
                "classes": hashlib.sha256(categories.classes.tobytes()).hexdigest(),
            }
        )
        diagnostics = fit(
            task, truth, train, kept_back, schedule, self.seed, key, self.folder, self.show_progress
        )
        self._network = network.eval()
        return diagnostics

    @torch.no_grad()
    def transform(self, data: InterestData) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of all users from their newest positives.

        Raises:
            DataError: The item vectors are not as wide as those of ``fit``.
        """
        histories = data.histories
        n, width = len(histories.user_ids), data.vectors.shape[1]
        out = np.zeros((n, width), np.float32)
        network = self._network
        if network is None:
            return out, np.zeros(n, bool)
        if width != network.interest.out_features:
            raise DataError(
                f"interest: expected item vectors of width {network.interest.out_features}, "
                f"as fitted, got {width}"
            )
        codes = self._codes(data)
        begin, end = newest(histories, self.settings.length)
        valid = (end > begin) | codes.any_known
        vectors = torch.as_tensor(data.vectors, device=self.device)
        asked = np.flatnonzero(valid)
        # alike lengths together waste little padding; ties by id
        asked = asked[np.argsort((end - begin)[asked], kind="stable")]
        for users in batches(asked, _USERS_AT_ONCE):
            read = _read(network, vectors, histories, codes, users, begin[users], end[users])
            last = torch.as_tensor(end[users] - begin[users], device=self.device)
            row = torch.arange(len(users), device=self.device)
            e_hat, _ = network.heads(*(part[row, last] for part in read))
            out[users] = unit(e_hat.cpu().numpy())
        return out, valid

    def _codes(self, data: InterestData) -> AttributeCodes:
        return self._coder.encode(data.users)


@dataclass
class _Windowed:
    """Windows of histories as units of training."""

    network: InterestNetwork
    windows: Windows
    histories: Histories
    vectors: Tensor
    codes: AttributeCodes

    @property
    def n_targets(self) -> Ints:
        return self.windows.n_targets

    def items(self, units: Ints) -> Ints:
        event, _ = self._events(units)
        return self.histories.item[event]

    def predict(self, units: Ints) -> tuple[Tensor, Tensor]:
        cut = self.windows
        event, row = self._events(units)
        user, begin, end = cut.user[units], cut.begin[units], cut.end[units]
        read = _read(self.network, self.vectors, self.histories, self.codes, user, begin, end)
        at = self.histories.known[event] - begin[row]  # events read before the target
        place = torch.as_tensor(row * read[0].shape[1] + at, device=self.vectors.device)  # [Q]
        return self.network.heads(*(part.flatten(0, 1)[place] for part in read))

    def _events(self, units: Ints) -> tuple[Ints, Ints]:
        return ranges(self.windows.target[units], self.windows.target[units + 1])


def _read(
    network: InterestNetwork,
    vectors: Tensor,
    histories: Histories,
    codes: AttributeCodes,
    user: Ints,
    begin: Ints,
    end: Ints,
) -> tuple[Tensor, Tensor]:
    """What the network says after 0, 1, .. of the events ``begin .. end - 1``: [B, T + 1, ..]."""
    device = vectors.device
    longest = int((end - begin).max(initial=0))
    event = begin[:, None] + np.arange(longest)  # [B, T]
    inside = event < end[:, None]
    item = histories.item[np.where(inside, event, 0)] if longest else event
    x = vectors[torch.as_tensor(np.where(inside, item, 0), device=device)]  # [B, T, d]
    x = x * torch.as_tensor(inside, device=device)[..., None]
    code, number, present = (torch.as_tensor(part[user], device=device) for part in codes)
    return network(x, code, number, present)
