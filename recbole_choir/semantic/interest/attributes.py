"""Users' attributes as numbers for embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.semantic.frames.frames import USER_ID
from recbole_choir.semantic.profiles.verbalize import MAX_ATTRIBUTES, is_descriptive, value_text


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
