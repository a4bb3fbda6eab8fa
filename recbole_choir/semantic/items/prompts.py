"""What is told to the encoder about each item (AKT-Rec 3.1.1): text, statistics, a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError, nearest
from recbole_choir.semantic.frames.frames import CATEGORY, ITEM_ID, TITLE, Frames
from recbole_choir.semantic.items.levels import StatisticLevels
from recbole_choir.semantic.profiles.verbalize import EMPTY_VALUES

logger = logging.getLogger(__name__)

Texts = NDArray[np.object_]

#: Characters of the title, and of each other field. Encoders cut a text after 256 or 512 tokens;
#: a long description must not push out the rest.
MAX_TITLE: Final = 200
MAX_FIELD: Final = 600

NEW: Final = "New item"

# Control characters, and those that turn the direction of writing or have no width.
_CONTROL: Final = r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+"


class Prompts(NamedTuple):
    """One prompt an item, in the order of ``frames.items``."""

    texts: list[str]  # "" where nothing is known
    pictures: list[str] | None  # paths, "" where there is none; None without an image field
    valid: NDArray[np.bool_]  # [n], whether it says what the item is, beyond statistics


class ItemPrompts:
    """Writes the prompts.

    ::

        <title>. Category: <names>. Popularity: <word>. Positive rate: <word>. <Field>: <text>. ...

    An item without an event has ``New item`` for its statistics: a level would be made up. An item
    of which nothing but statistics is known gets no text at all.

    Args:
        fields: Columns of ``frames.items`` to name, in this order after title and category; None
            takes title, category and all other columns of text.
        statistics: Tell popularity and rates as levels, see :class:`~.levels.StatisticLevels`.
        image_field: Column with the path of a picture.

    References:
        AKT-Rec, section 3.1.1.
    """

    def __init__(
        self,
        fields: Sequence[str] | None = None,
        statistics: bool = True,
        image_field: str | None = None,
    ) -> None:
        self.fields = None if fields is None else list(fields)
        self.image_field = image_field
        self.levels = StatisticLevels() if statistics else None
        self._last: pd.Series | None = None

    def fit(self, frames: Frames) -> ItemPrompts:
        """Fit the levels of the statistics on the events before ``frames.time``."""
        if self.levels is not None:
            self.levels.fit(frames)
        return self

    def write(self, frames: Frames) -> Prompts:
        """Prompts of ``frames.items`` from what is known before ``frames.time``.

        Raises:
            DataError: A field is not a column of the items.
        """
        items = frames.items.reset_index(drop=True)
        fields = self._fields(items)
        title = _text_of(items[TITLE], MAX_TITLE) if TITLE in fields else _nothing(items)
        title = _without_library_order(title)
        phrases = {
            field: _phrase(field, _text_of(items[field], MAX_FIELD), skip=EMPTY_VALUES)
            for field in fields
            if field != TITLE
        }
        first = [phrases.pop(CATEGORY)] if CATEGORY in phrases else []
        content = _sentences([title, *first, *phrases.values()])
        valid = content != ""
        texts = _sentences([title, *first, *self._statistics(frames), *phrases.values()])
        texts = np.where(valid, texts, "")
        pictures = None
        if self.image_field is not None:
            path = items[self.image_field]
            pictures = np.where(path.isna(), "", path.astype(str).str.strip()).tolist()
            valid = valid | (np.array(pictures, dtype=object) != "")
        self._log_changes(items[ITEM_ID], texts)
        return Prompts(texts.tolist(), pictures, valid.astype(bool))

    def _fields(self, items: pd.DataFrame) -> list[str]:
        """Columns to name, title and category first, the others as given or by name."""
        known = [str(c) for c in items.columns if c != ITEM_ID]
        for name in [*(self.fields or []), *([self.image_field] if self.image_field else [])]:
            if name not in known:
                raise DataError(
                    f"items: expected a column '{name}', got {', '.join(known)}"
                    f"{nearest(name, known)}"
                )
        if self.fields is not None:
            chosen = self.fields
        else:
            chosen = sorted(
                name for name in known if _is_text(items[name]) and name != self.image_field
            )
        leading = [name for name in (TITLE, CATEGORY) if name in chosen]
        return [*leading, *(name for name in chosen if name not in leading)]

    def _statistics(self, frames: Frames) -> list[Texts]:
        """One phrase per statistic, and one for the items without events."""
        if self.levels is None:
            return []
        words = self.levels.words(frames)
        if words.shape[1] == 0:
            return []
        new = words.isna().all(axis=1).to_numpy(bool)
        phrases = [_phrase(str(name), _text_of(words[name], MAX_FIELD)) for name in words.columns]
        return [*phrases, np.where(new, NEW, "").astype(object)]

    def _log_changes(self, ids: pd.Series, texts: Texts) -> None:
        """Say how many texts differ from the last ones: each of them is encoded again."""
        now = pd.Series(texts, index=ids.astype(str).to_numpy(object), dtype=object)
        if self._last is not None:
            before = self._last.reindex(now.index)
            changed = int((before.notna() & (before != now)).sum())
            logger.info("item prompts: %d of %d changed since the last moment", changed, len(now))
        self._last = now


def _is_text(values: pd.Series) -> bool:
    return pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values)


def _text_of(values: pd.Series, longest: int) -> Texts:
    """Values as clean text of at most ``longest`` characters, "" where missing: object [n]."""
    values = values.reset_index(drop=True)
    if pd.api.types.is_float_dtype(values):
        raw = values.map("{:.6g}".format)
    else:
        names = values.explode()
        missing = names.isna()
        # what a list holds is joined; what is no list is one name
        raw = _clean(names[~missing].astype(str)).pipe(lambda n: n[n != ""])
        raw = raw.groupby(level=0, sort=False).agg(", ".join)
    raw = raw.reindex(values.index)
    missing = raw.isna() | values.isna()
    text = _clean(raw.where(~missing, "").astype(str)).str.slice(0, longest).str.strip()
    return text.to_numpy(dtype=object)


def _clean(text: pd.Series) -> pd.Series:
    """Text without control characters, and with single blanks."""
    text = text.astype(object).str.replace(_CONTROL, " ", regex=True)
    return text.str.replace(r"\s+", " ", regex=True).str.strip()


def _without_library_order(title: Texts) -> Texts:
    """``Piano, The (1993)`` as ``The Piano (1993)``."""
    pattern = r"^(.*), (The|A|An)( \(\d{4}\))?$"
    moved = pd.Series(title, dtype=object).str.replace(pattern, r"\2 \1\3", regex=True)
    return moved.to_numpy(dtype=object)


def _phrase(field: str, text: Texts, skip: frozenset[str] = frozenset()) -> Texts:
    """``Release year: 1996``; "" where there is no text, or one that says nothing."""
    label = field.replace("_", " ").strip().capitalize()
    lower = pd.Series(text, dtype=object).str.lower()
    empty = (lower == "") | lower.isin(skip)
    return np.where(empty, "", f"{label}: " + text).astype(object)


def _sentences(phrases: list[Texts]) -> Texts:
    """Phrases that are not empty, each closed by a full stop, joined by blanks: object [n]."""
    out: Any = ""
    for phrase in phrases:
        closed = pd.Series(phrase, dtype=object).str.rstrip(" .;,").to_numpy(dtype=object)
        sentence = np.where(closed == "", "", closed + ".").astype(object)
        gap = np.where((np.asarray(out, dtype=object) != "") & (sentence != ""), " ", "")
        out = out + gap.astype(object) + sentence
    return np.asarray(out, dtype=object)


def _nothing(items: pd.DataFrame) -> Texts:
    return np.full(len(items), "", dtype=object)
