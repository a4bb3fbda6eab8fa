"""Dataset text in a prompt is data: cleaned so that nothing in it can be taken for form."""

from __future__ import annotations

import functools
import unicodedata
from typing import Final

#: Longest value of an attribute, a category, a title or a query in a prompt, in characters.
MAX_VALUE: Final = 60

# Fences, chat templates, JSON and Markdown are made of these: <|im_end|>, </facts>, [INST], ###.
_MARKUP: Final = frozenset('<>{}[]|`\\#*"~^=_')

# Control (Cc), format (Cf: bidirectional marks, zero-width and tag characters), surrogates (Cs),
# private use (Co), unassigned (Cn), line and paragraph separators (Zl, Zp).
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@functools.lru_cache(maxsize=65_536)
def clean(text: str, limit: int = MAX_VALUE) -> str:
    """One line of plain text, safe to stand between the marks of a prompt.

    Compatibility forms are folded first (a full-width ``＜`` is a ``<``). Control, invisible and
    markup characters become blanks, white space is one blank, and what is longer than ``limit`` is
    cut. So a value can close no fence, open no role of a chat, and begin no new line.

    Args:
        text: A value of the dataset.
        limit: Most characters that are kept.
    """
    # Folding can lengthen a text eighteenfold: cut before and after.
    folded = unicodedata.normalize("NFKC", text[: 4 * limit])
    kept = "".join(" " if _is_form(c) else c for c in folded)
    return " ".join(kept.split())[:limit].rstrip()


@functools.lru_cache(maxsize=4096)
def _is_form(character: str) -> bool:
    return character in _MARKUP or unicodedata.category(character) in _INVISIBLE
